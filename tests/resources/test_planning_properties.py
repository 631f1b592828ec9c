"""What holds for every plan, whatever the machine."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_cases import BUILDS, GB, build, footprint

from sdmanager.generation import MemoryChoices, MemoryPlan
from sdmanager.resources.footprint import Learned, Peak
from sdmanager.resources.ladder import rungs
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.planning import plan_memory, stricter_plan
from sdmanager.resources.supply import Supply

COSTLY = ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "max_vram_gib", "stream_layers")
CHEAP = ("vae_tiling", "diffusion_flash_attention")

sizes = st.integers(0, 96 * GB)
unknown = st.none() | sizes
switches = st.sampled_from([None, None, True, False])
choices = st.builds(
    MemoryChoices, *[switches] * 5, st.sampled_from([None, None, 0.25, 2.0, 6.0, 40.0]), switches
)
plans = st.builds(
    MemoryPlan,
    *[st.booleans()] * 4,
    diffusion_flash_attention=switches,
    max_vram_gib=st.sampled_from([None, 0.5, 4.0]),
    stream_layers=st.booleans(),
)
held = st.dictionaries(
    st.sampled_from(["ollama", "swap", "hook", "server"]),
    st.builds(Holding, st.just("a model"), unknown, unknown),
    max_size=4,
)
supports = st.sampled_from([build(name).supports for name in BUILDS] + [lambda flag: False])
flags_of = st.sets(st.sampled_from(sorted(build(BUILDS[1]).flags))).map(lambda flags: flags.__contains__)
thresholds = st.floats(0.05, 1)
peaks = st.dictionaries(
    st.tuples(
        st.sampled_from([512, 1024]), st.sampled_from([512, 1024]), st.sampled_from(["plain", "vae-tiling"])
    ),
    st.builds(Peak, unknown, unknown, unknown, unknown, st.integers(0, 3)),
    max_size=3,
)


@st.composite
def supplies(draw) -> Supply:
    ram, vram = draw(unknown), draw(unknown)

    def free(total):
        return draw(st.none() | st.integers(0, 96 * GB if total is None else total))

    return Supply(
        free(ram), ram, free(vram), vram, draw(st.booleans()), draw(st.sampled_from([True, False, None]))
    )


@st.composite
def footprints(draw, *, recommending: bool = True):
    run = footprint(
        draw(st.sampled_from(["sd-1.5", "sdxl-base", "flux1-schnell", "z-image-turbo", "qwen-image"])),
        size=draw(st.sampled_from([64, 512, 1024, 2048])),
        on_gpu=draw(st.sampled_from([True, True, False, None])),
        backend=draw(st.sampled_from(["cuda", "vulkan"])),
    )
    recommended = draw(st.dictionaries(st.just((run.width, run.height)), plans)) if recommending else {}
    return replace(run, learned=Learned(draw(peaks), draw(st.none() | sizes), recommended))


def able(plan: MemoryPlan, decided: MemoryPlan, supports) -> bool:
    """Whether the engine knows every flag that was added."""
    needs = {
        "clip_on_cpu": ("--backend", "--clip-on-cpu"),
        "vae_on_cpu": ("--backend", "--vae-on-cpu"),
        "max_vram_gib": ("--max-vram",),
        "diffusion_flash_attention": ("--diffusion-fa",),
    }
    for name in (*COSTLY, *CHEAP):
        if getattr(plan, name) != getattr(decided, name):
            flags = needs.get(name, (f"--{name.replace('_', '-')}",))
            if not any(map(supports, flags)):
                return False
    return True


@given(footprints(), supplies(), choices, st.one_of(supports, flags_of), held, thresholds)
def test_plans_keep_to_what_was_decided_and_to_what_is_there(run, supply, wanted, supports, held, threshold):
    plan = plan_memory(run, supply, wanted, supports, held, threshold=threshold)
    if wanted.max_vram_gib is None or supports("--max-vram"):
        assert wanted.allow(plan)
    else:
        assert replace(wanted, max_vram_gib=None).allow(replace(plan, max_vram_gib=None))
        assert plan.max_vram_gib is None
    assert able(
        plan, wanted.plan if supports("--max-vram") else replace(wanted.plan, max_vram_gib=None), supports
    )
    assert set(plan.evictions) <= set(held)
    assert list(plan.evictions) == [name for name in held if name in plan.evictions]
    again = plan_memory(run, supply, wanted, supports, held, threshold=threshold)
    assert (again, again.evictions, again.reasons) == (plan, plan.evictions, plan.reasons)
    assert all(each.endswith(".") for each in plan.reasons)
    assert len(plan.reasons) >= len(plan.evictions)


@given(footprints(), supplies(), plans, supports, held, thresholds)
def test_a_whole_plan_is_never_changed(run, supply, wanted, supports, held, threshold):
    plan = plan_memory(run, supply, wanted, supports, held, threshold=threshold)
    assert plan == wanted
    assert set(plan.evictions) <= set(held)


@given(footprints(), supplies(), choices, supports, held, thresholds)
def test_nobody_is_put_aside_who_frees_nothing(run, supply, wanted, supports, held, threshold):
    idle = {name: Holding("idle", 0, 0) for name in held}
    assert plan_memory(run, supply, wanted, supports, idle, threshold=threshold).evictions == ()


def rank(
    plan: MemoryPlan, run, wanted, supports, *, own_vram: bool, cpu: bool = False
) -> tuple[int, int, int]:
    """Rung, programs put aside, cheap flags, which on a CPU go first; what fits nowhere is behind all."""
    if any(each.endswith("nothing that is allowed here needs less.") for each in plan.reasons):
        return 99, 0, 0
    rung = next(
        index
        for index, each in enumerate(rungs(wanted, supports, own_vram=own_vram))
        for candidate in each.plans
        if candidate == (replace(plan, max_vram_gib=candidate.max_vram_gib) if each.budgeted else plan)
        and (each.budgeted or plan.max_vram_gib == candidate.max_vram_gib)
    )
    aside, cheap = len(plan.evictions), sum(getattr(plan, name) is True for name in CHEAP)
    return (rung, cheap, aside) if cpu else (rung, aside, cheap)


@given(
    footprints(recommending=False),
    supplies(),
    choices,
    supports,
    held,
    thresholds,
    st.integers(0, 40 * GB),
    st.integers(0, 40 * GB),
)
def test_more_free_memory_never_costs_more(
    run, supply, wanted, supports, held, threshold, more_ram, more_vram
):
    def grown(free, total, more):
        if free is None:
            return None
        return free + more if total is None else min(free + more, total)

    larger = replace(
        supply,
        ram_free=grown(supply.ram_free, supply.ram_total, more_ram),
        vram_free=grown(supply.vram_free, supply.vram_total, more_vram),
    )
    on_gpu = bool(supply.has_gpu) and not supply.unified if run.on_gpu is None else run.on_gpu
    own_vram = on_gpu and not supply.unified
    before, after = (
        rank(
            plan_memory(run, each, wanted, supports, held, threshold=threshold),
            run,
            wanted,
            supports,
            own_vram=own_vram,
            cpu=not on_gpu,
        )
        for each in (supply, larger)
    )
    assert after <= before


@pytest.mark.parametrize("model", ["sd-1.5", "sdxl-base", "flux1-schnell", "qwen-image"])
@pytest.mark.parametrize(("ram", "vram"), [(16, 6), (32, 12), (64, 24)])
@pytest.mark.parametrize("kind", ["ram_free", "vram_free"])
def test_while_memory_grows_bit_by_bit_nothing_costs_more(model, ram, vram, kind):
    run, wanted, supports = footprint(model), MemoryChoices(), build(BUILDS[1]).supports
    both = {"ollama": Holding("one", GB, 3 * GB), "swap": Holding("another", 2 * GB, GB)}
    supply = Supply(ram * GB // 2, ram * GB, vram * GB // 2, vram * GB, has_gpu=True)
    total = ram if kind == "ram_free" else vram
    ranks = [
        rank(
            plan_memory(run, replace(supply, **{kind: free}), wanted, supports, both),
            run,
            wanted,
            supports,
            own_vram=True,
        )
        for free in range(0, total * GB, total * GB // 120)
    ]
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("model", ["sd-1.5", "sdxl-base", "flux1-schnell"])
@pytest.mark.parametrize("ram", [8, 16, 32])
def test_on_the_cpu_too(model, ram):
    run, wanted, supports = footprint(model, on_gpu=False), MemoryChoices(), build(BUILDS[1]).supports
    both = {"ollama": Holding("one", GB, 3 * GB), "swap": Holding("another", 2 * GB, GB)}
    ranks = []
    for free in range(0, ram * GB, ram * GB // 120):
        plan = plan_memory(run, Supply(free, ram * GB, has_gpu=False), wanted, supports, both)
        ranks.append(rank(plan, run, wanted, supports, own_vram=False, cpu=True))
    assert ranks == sorted(ranks, reverse=True)


@given(footprints(), supplies(), choices, supports, held, st.lists(plans, min_size=1, max_size=3))
def test_a_stricter_plan_is_another_one(run, supply, wanted, supports, held, failed):
    plan = stricter_plan(run, supply, wanted, supports, held, failed)
    if plan is None:
        return
    assert set(plan.evictions) <= set(held)
    assert plan.evictions or plan.key not in {each.key for each in failed}


def test_plans_compare_without_evictions_and_reasons():
    assert {each.name for each in fields(MemoryPlan) if not each.compare} == {"evictions", "reasons"}
