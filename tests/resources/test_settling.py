from __future__ import annotations

import pytest
from held import GB
from room import Time

from sdmanager.resources import Holding, Supply
from sdmanager.resources.limits import Limits
from sdmanager.resources.settling import Promise, settle

BEFORE = Supply(ram_free=4 * GB, ram_total=16 * GB, vram_free=1 * GB, vram_total=8 * GB)


class Looks:
    """Memory that is freed step by step; each look takes a moment."""

    def __init__(self, *seen):
        self.seen, self.time, self.count = list(seen), Time(), 0

    async def __call__(self):
        self.count += 1
        self.time.now += 0.1
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    async def sleep(self, seconds):
        self.time.now += seconds

    @property
    def limits(self):
        return Limits(clock=self.time, sleep=self.sleep)


def vram(size):
    return Supply(ram_free=4 * GB, ram_total=16 * GB, vram_free=size, vram_total=8 * GB)


async def test_it_waits_until_what_was_promised_is_free():
    looks = Looks(vram(1 * GB), vram(2 * GB), vram(4 * GB), vram(6 * GB), vram(7 * GB))
    promise = Promise.of(BEFORE, [Holding("llama", None, 5 * GB)])
    seen = await settle(looks, promise, looks.limits)
    assert seen.vram_free == 6 * GB  # nine tenths of what was promised are as much as can be expected
    assert promise.missing(seen) == (0, 0)


async def test_what_is_free_at_once_is_not_waited_for():
    looks = Looks(vram(6 * GB))
    await settle(looks, Promise.of(BEFORE, [Holding("llama", None, 5 * GB)]), looks.limits)
    assert looks.count == 1


async def test_what_is_enough_is_not_waited_for():
    looks = Looks(vram(1 * GB), vram(3 * GB), vram(8 * GB))
    promise = Promise.of(BEFORE, [Holding("llama", None, 5 * GB)])
    seen = await settle(looks, promise, looks.limits, lambda supply: supply.vram_free >= 3 * GB)
    assert seen.vram_free == 3 * GB


async def test_it_gives_up_when_no_more_comes():
    looks = Looks(vram(1 * GB), vram(2 * GB))
    promise = Promise.of(BEFORE, [Holding("llama", None, 5 * GB)])
    begun = looks.time.now
    seen = await settle(looks, promise, looks.limits)
    assert seen.vram_free == 2 * GB
    assert promise.missing(seen) == (0, 35 * GB // 10)
    assert looks.time.now - begun < 2


async def test_it_gives_up_in_the_end_even_if_a_little_comes_all_the_time():
    looks = Looks(*(vram(1 * GB + number * 2**24) for number in range(200)))
    promise = Promise.of(BEFORE, [Holding("llama", None, 7 * GB)])
    begun = looks.time.now
    await settle(looks, promise, looks.limits)
    assert 10 <= looks.time.now - begun < 11


@pytest.mark.parametrize("seen", [Supply(), vram(1 * GB)])
async def test_a_program_of_unknown_size_is_given_a_moment(seen):
    looks = Looks(seen)
    begun = looks.time.now
    promise = Promise.of(seen, [Holding("llama", None, None)])
    await settle(looks, promise, looks.limits)
    assert promise.missing(seen) == (0, 0)
    assert 0.75 <= looks.time.now - begun < 2


def test_nobody_is_promised_more_than_there_is():
    promise = Promise.of(BEFORE, [Holding("llama", 20 * GB, 3 * GB), Holding("qwen", None, 3 * GB)])
    assert promise == Promise(16 * GB, 6 * GB + GB * 4 // 10)
