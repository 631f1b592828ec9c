"""The order in which memory flags are tried, and which are not."""

from __future__ import annotations

import pytest
from planning_cases import BUILDS, NEW, OLD, build, footprint

from sdmanager.generation import MemoryChoices, MemoryPlan
from sdmanager.resources.demand import demand_of
from sdmanager.resources.ladder import decided, rungs, supported

FREE = MemoryChoices()


def ladder(choices=FREE, *, engine=NEW, own_vram=True, without=()) -> list[str]:
    """The keys of each rung's plans; a budget that is still to be set as ``max``."""
    flags = build(engine).flags - set(without)
    return [
        [plan.key + (",max" if rung.budgeted else "") for plan in rung.plans]
        for rung in rungs(choices, flags.__contains__, own_vram=own_vram)
    ]


def first(choices=FREE, **more) -> list[str]:
    return [keys[0] for keys in ladder(choices, **more)]


@pytest.mark.parametrize("engine", BUILDS)
def test_weights_move_before_they_are_cut_and_the_vae_comes_last(engine):
    stream = ["offload-to-cpu,clip-on-cpu,stream-layers,max"] if engine == NEW else []
    streamed = ["offload-to-cpu,clip-on-cpu,vae-on-cpu,stream-layers,max"] if engine == NEW else []
    assert first(engine=engine) == [
        "plain",
        "offload-to-cpu",
        "clip-on-cpu",
        "offload-to-cpu,clip-on-cpu",
        "offload-to-cpu,max",
        "offload-to-cpu,clip-on-cpu,max",
        *stream,
        "vae-on-cpu",
        "offload-to-cpu,vae-on-cpu",
        "offload-to-cpu,clip-on-cpu,vae-on-cpu",
        "offload-to-cpu,clip-on-cpu,vae-on-cpu,max",
        *streamed,
    ]


def test_cheap_flags_are_tried_on_every_rung():
    cheap = ["plain", "diffusion-fa", "vae-tiling", "vae-tiling,diffusion-fa"]
    assert ladder()[0] == cheap
    assert ladder()[1] == [f"offload-to-cpu,{key}".replace(",plain", "") for key in cheap]


def test_without_memory_of_its_own_nothing_is_moved():
    assert ladder(own_vram=False) == [["plain", "vae-tiling", "diffusion-fa", "vae-tiling,diffusion-fa"]]


def test_what_is_decided_has_no_rung():
    assert first(MemoryChoices(offload_to_cpu=False, vae_on_cpu=False)) == ["plain", "clip-on-cpu"]
    forced = first(MemoryChoices(offload_to_cpu=True, clip_on_cpu=True, vae_on_cpu=False))
    assert forced == [
        "offload-to-cpu,clip-on-cpu",
        "offload-to-cpu,clip-on-cpu,max",
        "offload-to-cpu,clip-on-cpu,stream-layers,max",
    ]
    assert ladder(MemoryChoices(vae_tiling=True))[0] == ["vae-tiling", "vae-tiling,diffusion-fa"]
    assert ladder(MemoryChoices(vae_tiling=False))[0] == ["plain", "diffusion-fa"]


@pytest.mark.parametrize("engine", BUILDS)
def test_each_of_two_flags_is_enough_for_a_part_on_the_cpu(engine):
    names = {"--backend", "--clip-on-cpu", "--vae-on-cpu"}
    assert "clip-on-cpu" in first(engine=engine, without=["--backend"])
    assert "vae-on-cpu" in first(engine=engine, without=["--backend"])
    assert not [key for key in first(engine=engine, without=names) if "on-cpu" in key]
    assert ("clip-on-cpu" in first(engine=engine, without=["--clip-on-cpu"])) == (engine == NEW)


def test_a_decision_stays_where_the_engine_lacks_the_flag_but_for_a_budget():
    wanted = MemoryChoices(vae_tiling=True, max_vram_gib=4.0)
    assert decided(wanted, lambda flag: False) == MemoryPlan(vae_tiling=True)
    assert decided(wanted, build(NEW).supports) == MemoryPlan(vae_tiling=True, max_vram_gib=4.0)


def test_streaming_is_a_decision_for_weights_in_ram():
    wanted = MemoryChoices(stream_layers=True)
    assert decided(wanted, build(NEW).supports) == MemoryPlan(offload_to_cpu=True, stream_layers=True)
    assert wanted.allow(decided(wanted, build(NEW).supports))
    assert first(wanted)[:2] == [
        "offload-to-cpu,stream-layers",
        "offload-to-cpu,clip-on-cpu,stream-layers",
    ]
    refused = MemoryChoices(stream_layers=True, offload_to_cpu=False)
    assert decided(refused, build(NEW).supports) == MemoryPlan(stream_layers=True)


@pytest.mark.parametrize("model", ["sd-1.5", "sdxl-base", "flux1-schnell", "qwen-image"])
def test_cheap_flags_never_need_more(model):
    run = footprint(model)
    for rung in rungs(FREE, build(NEW).supports, own_vram=True):
        needs = [demand_of(run, plan) for plan in rung.plans]
        assert all(need.vram <= needs[0].vram and need.ram <= needs[0].ram for need in needs)
        assert min(need.vram for need in needs) == needs[-1].vram


def test_what_an_engine_supports():
    streamed = MemoryPlan(offload_to_cpu=True, max_vram_gib=2.0, stream_layers=True)
    assert supported(streamed, build(NEW).supports)
    assert not supported(streamed, build(OLD).supports)
    assert supported(MemoryPlan(clip_on_cpu=True), build(OLD).supports)
    assert supported(MemoryPlan(), lambda flag: False)
    assert supported(MemoryPlan(diffusion_flash_attention=False), lambda flag: False)
    assert not supported(MemoryPlan(vae_tiling=True), lambda flag: False)
