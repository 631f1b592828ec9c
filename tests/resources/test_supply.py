"""From a look at the machine to the memory that a run may have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdmanager.hardware import Gpu, HardwareSnapshot
from sdmanager.resources.supply import Supply, supply_of

GB = 10**9


def gpu(total=None, free=None, **more) -> Gpu:
    return Gpu(
        "nvidia", "Card", total and total * GB, free if free is None else round(free * GB), None, **more
    )


def machine(*gpus: Gpu, problems: tuple[str, ...] = ()) -> HardwareSnapshot:
    return HardwareSnapshot("linux-x64", "Test", None, None, None, 32 * GB, 20 * GB, None, gpus, problems)


def vram(*gpus: Gpu) -> tuple[int | None, int | None]:
    supply = supply_of(machine(*gpus))
    assert supply.has_gpu is True
    assert not supply.unified
    return supply.vram_free, supply.vram_total


def test_ram_without_a_card():
    assert supply_of(machine()) == Supply(20 * GB, 32 * GB, has_gpu=False)


def test_what_could_not_be_found_out_may_have_been_a_card():
    assert supply_of(machine(problems=("nvidia-smi hangs",))).has_gpu is None


def test_unknown_ram_stays_unknown():
    look = replace(machine(), ram_total=None, ram_available=None)
    assert supply_of(look) == Supply(has_gpu=False)


def test_a_card_in_use_by_others():
    assert vram(gpu(24, 3.5)) == (3.5 * GB, 24 * GB)


def test_a_full_card_has_nothing_free_which_is_not_unknown():
    assert vram(gpu(8, 0)) == (0, 8 * GB)


def test_unknown_vram_stays_unknown():
    assert vram(gpu(8)) == (None, 8 * GB)
    assert vram(gpu()) == (None, None)


def test_of_several_cards_the_largest_is_taken_and_the_first_of_equals():
    assert vram(gpu(8, 8), gpu(24, 1), gpu(24, 20)) == (1 * GB, 24 * GB)


def test_a_card_of_unknown_size_does_not_hide_another():
    assert vram(gpu(), gpu(12, 10)) == (10 * GB, 12 * GB)


def test_of_slices_a_process_gets_the_first():
    assert vram(gpu(10, 9, mig=True), gpu(20, 19, mig=True)) == (9 * GB, 10 * GB)


def test_a_card_that_is_partitioned_but_has_no_slices():
    assert vram(gpu(mig=True)) == (None, None)


@pytest.mark.parametrize("own", [None, 2])
def test_a_card_that_uses_the_ram_has_no_vram(own):
    supply = supply_of(machine(gpu(own, own, unified_memory=True)))
    assert supply == Supply(20 * GB, 32 * GB, None, None, unified=True, has_gpu=True)


def test_a_card_with_memory_of_its_own_goes_before_one_without():
    assert vram(gpu(30, 30, unified_memory=True), gpu(8, 7)) == (7 * GB, 8 * GB)
