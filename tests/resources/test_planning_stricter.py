"""What is tried after a run ran out of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import BUILDS, GB, NEW, build, card, footprint, llm, memory

from sdmanager.generation import MemoryChoices, MemoryPlan
from sdmanager.resources.demand import demand_of
from sdmanager.resources.footprint import Learned, Peak
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.planning import plan_memory, stricter_plan
from sdmanager.resources.supply import Supply

PLAIN = MemoryPlan()
FREE = MemoryChoices()
SDXL = footprint("sdxl-base")
SD1 = footprint("sd-1.5")


def stricter(*failed, model=SDXL, supply=None, choices=FREE, held=None, engine=NEW, helps=None, short=None):
    supports = build(engine).supports
    return stricter_plan(
        model, supply or card(24), choices, supports, held or {}, failed, short=short, helps=helps
    )


def test_without_failures_it_is_the_first_plan():
    assert stricter() == plan_memory(SDXL, card(24), FREE, build(NEW).supports)


def test_the_next_needs_well_less():
    following = stricter(PLAIN)
    assert following.flags == ("--vae-tiling",)
    assert following.reasons[0] == "The last run ran out of memory with no memory flags."


def test_a_flag_that_saves_nothing_is_passed_over():
    # Flash attention has no part in what SDXL needs the most for.
    assert stricter(PLAIN).flags != ("--diffusion-fa",)


@pytest.mark.parametrize("model", ["sd-1.5", "sdxl-base", "flux1-schnell", "qwen-image"])
@pytest.mark.parametrize("engine", BUILDS)
@pytest.mark.parametrize("supply", [card(8), card(24), Supply(has_gpu=True)], ids=["8", "24", "unknown"])
def test_each_needs_less_than_all_before_and_there_is_an_end(model, engine, supply):
    run, failed = footprint(model), [PLAIN]
    while (following := stricter(*failed, model=run, supply=supply, engine=engine)) is not None:
        assert following not in failed
        assert demand_of(run, following).vram < demand_of(run, failed[-1]).vram
        failed.append(following)
        assert len(failed) < 20
    assert len(failed) >= 4


def test_a_budget_is_lowered():
    first = MemoryPlan(offload_to_cpu=True, vae_tiling=True, max_vram_gib=5.0)
    second = stricter(first, supply=card(8))
    assert second.max_vram_gib is not None
    assert second.max_vram_gib <= 3.5


def test_first_who_still_holds_something_is_put_aside():
    held = {"llm": llm(5), "hook": llm(None, None), "idle": llm(0, 3)}
    following = stricter(PLAIN, held=held)
    assert following == PLAIN
    assert following.evictions == ("llm", "hook")
    assert following.reasons[0] == "The last run ran out of memory with no memory flags."
    assert following.reasons[1].startswith("llama3.2:3b of llm (5.0 GB of VRAM, 0.5 GB of RAM) is put aside")


def test_who_was_put_aside_before_is_nobody_to_wait_for():
    before = replace(PLAIN, evictions=("llm",))
    assert stricter(before).flags == ("--vae-tiling",)
    # It came back by itself: it goes again, and the flags become stricter.
    again = stricter(before, held={"llm": llm(5)})
    assert again.flags == ("--vae-tiling",)
    assert again.evictions == ("llm",)


def test_on_the_cpu_it_is_ram_that_is_short():
    run = footprint("sdxl-base", on_gpu=False)
    held = {"vram": llm(5, 0), "ram": llm(0, 5)}
    assert stricter(PLAIN, model=run, supply=memory(16), held=held).evictions == ("ram",)


def test_on_the_cpu_all_that_is_left_is_taken_at_once():
    run = footprint("sdxl-base", on_gpu=False)
    last = stricter(PLAIN, model=run, supply=memory(16))
    assert last.flags == ("--vae-tiling", "--diffusion-fa")
    assert stricter(PLAIN, last, model=run, supply=memory(16)) is None
    # Flash attention saves SD 1.5 nothing.
    run = footprint("sd-1.5", on_gpu=False)
    last = stricter(PLAIN, model=run, supply=memory(16))
    assert last.flags == ("--vae-tiling",)
    assert stricter(PLAIN, last, model=run, supply=memory(16)) is None


def test_ram_that_ran_out_beside_a_card_is_not_answered_by_using_more_of_it():
    flux = footprint("flux1-schnell")
    poor = replace(card(12), ram_free=6 * GB, ram_total=16 * GB)
    failed = MemoryPlan(offload_to_cpu=True, diffusion_flash_attention=True)
    following = stricter(failed, model=flux, supply=poor)
    assert following.flags == ("--clip-on-cpu", "--vae-tiling")


def test_less_vram_by_ram_that_is_not_there_is_no_way():
    poor = replace(card(24), ram_free=4 * GB, ram_total=8 * GB)
    for_ram = stricter(PLAIN, MemoryPlan(vae_tiling=True), supply=poor)
    assert for_ram.flags == ("--clip-on-cpu", "--vae-tiling")


@pytest.mark.parametrize("choices", [MemoryPlan(vae_tiling=True), MemoryPlan()])
def test_a_whole_plan_stays_as_it_is(choices):
    assert stricter(choices, choices=choices) is None
    following = stricter(choices, choices=choices, held={"llm": llm(5)})
    assert following == choices
    assert following.evictions == ("llm",)


def test_what_ran_before_a_budget_was_decided_is_no_trouble():
    following = stricter(PLAIN, choices=MemoryChoices(max_vram_gib=4), held={"llm": llm(5)})
    assert following.evictions == ("llm",)
    assert all(each.endswith(".") for each in following.reasons)


def test_decisions_are_kept():
    never = MemoryChoices(offload_to_cpu=False, clip_on_cpu=False, vae_on_cpu=False)
    failed = [PLAIN]
    while (following := stricter(*failed, choices=never)) is not None:
        assert never.allow(following)
        failed.append(following)
    assert [plan.flags for plan in failed[1:]] == [("--vae-tiling",), ("--vae-tiling", "--diffusion-fa")]


def test_what_cannot_help_is_passed_over_and_has_not_failed():
    asked = []

    def helps(plan):
        asked.append(plan)
        return plan.offload_to_cpu

    following = stricter(PLAIN, helps=helps)
    assert following.offload_to_cpu is True
    # Not below what was passed over, but below what failed.
    assert following == stricter(PLAIN, choices=MemoryChoices(offload_to_cpu=True))
    assert MemoryPlan(vae_tiling=True) in asked
    assert stricter(PLAIN, helps=lambda plan: False) is None


def test_putting_aside_helps_whatever_the_flags_do():
    assert stricter(PLAIN, held={"llm": llm(5)}, helps=lambda plan: False).evictions == ("llm",)


def test_what_was_learned_of_one_is_not_compared_with_an_estimate():
    seen = Learned({(512, 512, "plain"): Peak(2400 * 10**6, None, runs=3)})
    run = replace(footprint("sd-1.5", on_gpu=False), learned=seen)
    assert demand_of(run, MemoryPlan(vae_tiling=True)).ram > 0.95 * demand_of(run, PLAIN).ram
    assert stricter(PLAIN, model=run, supply=memory(16)).flags == ("--vae-tiling",)


def test_no_rung_is_skipped_for_what_was_learned():
    tiled = MemoryPlan(vae_tiling=True, diffusion_flash_attention=True)
    seen = Learned({(1024, 1024, tiled.key): Peak(GB, 6 * GB, runs=3)})
    following = stricter(tiled, model=replace(SDXL, learned=seen), supply=card(8))
    assert following.flags[:2] == ("--offload-to-cpu", "--vae-tiling")
    assert following.max_vram_gib is None


def test_what_is_known_to_fail_comes_last():
    seen = Learned({(1024, 1024, "vae-tiling"): Peak(too_small_vram=card(24).vram_free)})
    run = replace(SDXL, learned=seen)
    following = stricter(PLAIN, model=run)
    assert following.flags == ("--vae-tiling", "--diffusion-fa")
    only = MemoryChoices(
        offload_to_cpu=False, clip_on_cpu=False, vae_on_cpu=False, diffusion_flash_attention=False
    )
    assert stricter(PLAIN, model=run, choices=only).vae_tiling


def test_where_ram_ran_out_on_a_card_nothing_is_kept_in_it():
    """By estimate the RAM was enough, and the VRAM is what would be spared."""
    failed = MemoryPlan(offload_to_cpu=True, vae_tiling=True)
    before = demand_of(SDXL, failed).ram
    assert demand_of(SDXL, stricter(failed, supply=card(8))).ram == before
    assert demand_of(SDXL, stricter(failed, supply=card(8), short="ram")).ram < before / 2


def test_where_ram_ran_out_who_holds_ram_is_put_aside():
    holder = {"llm": Holding("llm", 5 * GB, 0)}
    assert stricter(PLAIN, held=holder, short="ram").evictions == ("llm",)
    assert stricter(PLAIN, held=holder, short="vram").evictions == ()


def test_where_cards_have_no_memory_of_their_own_it_is_ram_that_ran_out():
    supply = memory(ram=3)
    assert stricter(PLAIN, model=SD1, supply=supply, short="vram") == stricter(
        PLAIN, model=SD1, supply=supply
    )
