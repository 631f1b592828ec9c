"""When a run counts as hung, and when only as slow."""

from __future__ import annotations

import pytest

from sdmanager.engine.local import _PATIENCE
from sdmanager.engine.patience import Patience, Watch
from sdmanager.process import Activity

PATIENCE = Patience(quiet=20, work=120)


def feed(watch: Watch, samples: list[tuple[float, int, Activity | None]]) -> list[str | None]:
    return [watch.feed(*sample) for sample in samples]


def busy(seconds: float, *, read: int | None = 0, waits: bool = False) -> Activity:
    return Activity(cpu_seconds=seconds, read_bytes=read, waits_for_disk=waits)


def first_end(samples: list[tuple[float, int, Activity | None]]) -> tuple[float, str] | None:
    watch = Watch(PATIENCE, 0.0)
    for now, printed, activity in samples:
        if reason := watch.feed(now, printed, activity):
            return now, reason
    return None


def test_a_process_that_does_nothing_hangs() -> None:
    ended = first_end([(float(now), 0, busy(1.0)) for now in range(1, 60)])
    assert ended == (21.0, "gave no sign of life for 20 s")


def test_one_that_prints_now_and_then_does_not() -> None:
    assert first_end([(float(now), now // 15, busy(1.0)) for now in range(1, 2000)]) is None


def test_one_that_reads_from_a_slow_disk_does_not_however_long_it_takes() -> None:
    assert first_end([(float(now), 0, busy(1.0, read=now // 10)) for now in range(1, 20_000)]) is None


def test_one_that_computes_without_getting_anywhere_hangs_later() -> None:
    ended = first_end([(float(now), 0, busy(now * 0.99)) for now in range(1, 400)])
    assert ended == (121.0, "made no progress for 120 s")


def test_a_wait_for_a_disk_or_driver_counts_as_life_but_not_for_ever() -> None:
    ended = first_end([(float(now), 0, busy(1.0, waits=True)) for now in range(1, 400)])
    assert ended is not None
    assert ended[0] == 121.0


def test_a_little_noise_of_the_clock_is_no_work() -> None:
    ended = first_end([(float(now), 0, busy(now * 0.001)) for now in range(1, 60)])
    assert ended is not None


def test_where_activity_cannot_be_seen_only_the_longer_limit_holds() -> None:
    ended = first_end([(float(now), 0, None) for now in range(1, 400)])
    assert ended is not None
    assert ended[0] == 121.0


def test_where_reading_cannot_be_seen_idling_may_be_a_wait_for_a_disk() -> None:
    ended = first_end([(float(now), 0, busy(1.0, read=None)) for now in range(1, 400)])
    assert ended is not None
    assert ended[0] == 121.0


def test_descendants_that_end_take_their_figures_with_them() -> None:
    watch = Watch(PATIENCE, 0.0)
    samples = [(1.0, 0, busy(5.0, read=100)), (2.0, 0, busy(1.0, read=10)), (3.0, 0, busy(2.0, read=20))]
    assert feed(watch, samples) == [None, None, None]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_larger_model_gets_more_time(on_gpu: bool) -> None:
    small, large = (Patience.for_model(size, on_gpu=on_gpu) for size in (28_000_000, 24_000_000_000))
    assert large.work > small.work + 1000
    assert large.slow_after > small.slow_after + 100
    assert small.quiet < 21 < large.quiet <= 80


def test_the_first_use_of_a_gpu_may_compile_its_programs() -> None:
    assert Patience.for_model(0, on_gpu=True).work > Patience.for_model(0, on_gpu=False).work


def test_what_draws_for_a_caller_may_compute_for_ever_but_not_sit_idle() -> None:
    watch = Watch(_PATIENCE, 0.0)
    busy = [Activity(cpu_seconds=now, read_bytes=0, waits_for_disk=False) for now in range(0, 100_000, 10)]
    assert not any(watch.feed(activity.cpu_seconds, 0, activity) for activity in busy)
    idle = busy[-1]
    reasons = [watch.feed(idle.cpu_seconds + seconds, 0, idle) for seconds in range(10, 700, 10)]
    assert reasons[55] is None
    assert "no sign of life" in reasons[-1]
