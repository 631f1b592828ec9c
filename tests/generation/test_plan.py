"""Memory plans and their flags."""

from __future__ import annotations

import itertools

import pytest

from sdmanager.generation import MemoryPlan

BOOLEANS = ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "vae_tiling", "stream_layers")


@pytest.mark.parametrize("flash", [None, True, False])
@pytest.mark.parametrize("budget", [None, 0.5, 12.0])
def test_a_plan_is_that_of_its_flags(flash, budget):
    for values in itertools.product([False, True], repeat=len(BOOLEANS)):
        plan = MemoryPlan(
            **dict(zip(BOOLEANS, values, strict=True)), diffusion_flash_attention=flash, max_vram_gib=budget
        )
        assert MemoryPlan.of_flags(plan.flags) == plan


def test_what_goes_with_the_flags_is_kept_and_unknown_flags_are_left_out():
    plan = MemoryPlan.of_flags(
        ["--vae-tiling", "--of-a-newer-server 3"], evictions=["llm"], reasons=["Little."]
    )
    assert plan == MemoryPlan(vae_tiling=True)
    assert (plan.evictions, plan.reasons) == (("llm",), ("Little.",))
