from __future__ import annotations

from sdmanager.resources.breaker import Breaker


def test_waits_double_up_to_a_minute():
    breaker = Breaker()
    waits = [breaker.failed(1000.0 * number) for number in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not breaker.is_open(9000.0)


def test_it_opens_at_the_fifth_failure_in_ten_minutes():
    breaker = Breaker()
    assert [breaker.failed(each) for each in (0, 1, 3, 7)] == [1, 2, 4, 8]
    assert not breaker.is_open(7)
    assert breaker.failed(15) == 600
    assert breaker.is_open(15)
    assert breaker.is_open(614)
    assert not breaker.is_open(615)


def test_after_the_rest_one_failure_opens_it_again():
    breaker = Breaker()
    for each in (0, 1, 3, 7, 15):
        breaker.failed(each)
    assert breaker.failed(615) == 600
    assert breaker.is_open(1214)


def test_failures_that_are_far_apart_do_not_open_it():
    breaker = Breaker()
    for each in range(20):
        breaker.failed(each * 151.0)
        assert not breaker.is_open(each * 151.0)
