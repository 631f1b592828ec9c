"""Which flags a run gets and who makes room for it: tables of cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import BUILDS, GB, GIB, NEW, OLD, build, card, footprint, llm, memory

from sdmanager.generation import MemoryChoices, MemoryPlan
from sdmanager.hardware import Gpu, HardwareSnapshot
from sdmanager.models import Family
from sdmanager.resources.demand import demand_of
from sdmanager.resources.footprint import Learned, Peak
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.planning import plan_memory
from sdmanager.resources.supply import Supply, supply_of

PLAIN = MemoryPlan()
FREE = MemoryChoices()
SDXL = footprint("sdxl-base")
SD1 = footprint("sd-1.5")
FLUX = footprint("flux1-schnell")


def plan(model=SDXL, supply=None, choices=FREE, held=None, *, engine=NEW, **more) -> MemoryPlan:
    return plan_memory(model, supply or card(8), choices, build(engine).supports, held or {}, **more)


def shown(chosen: MemoryPlan) -> str:
    names = {
        "--offload-to-cpu": "offload",
        "--clip-on-cpu": "te",
        "--vae-on-cpu": "vae",
        "--vae-tiling": "tiles",
        "--diffusion-fa": "fa",
        "--stream-layers": "stream",
    }
    return " ".join(
        [names.get(flag, flag.replace("--max-vram ", "max=")) for flag in chosen.flags]
        + (["-llm"] if chosen.evictions else [])
    )


# Cards of 4 to 48 GB, of which the desktop has half a GiB, alone and with a language model that holds 5 GB.
@pytest.mark.parametrize("engine", BUILDS)
@pytest.mark.parametrize(
    ("gib", "model", "alone", "shared"),
    [
        (4, "sd-1.5", "tiles", None),
        (4, "sdxl-base", "offload tiles max=3", None),
        (4, "flux1-schnell", "offload tiles max=3", None),
        (4, "qwen-image", "offload tiles max=3", None),
        (6, "sd-1.5", "", "-llm"),
        (6, "sdxl-base", "offload tiles max=4.5", "offload tiles max=4.5 -llm"),
        (6, "flux1-schnell", "offload tiles max=4.5", "offload tiles max=4.5 -llm"),
        (6, "qwen-image", "offload tiles max=4.5", "offload tiles max=4.5 -llm"),
        (8, "sd-1.5", "", "-llm"),
        (8, "sdxl-base", "offload tiles fa", "offload tiles fa -llm"),
        (8, "flux1-schnell", "offload tiles max=6.5", "offload tiles max=6.5 -llm"),
        (8, "qwen-image", "offload tiles max=6.5", "offload tiles max=6.5 -llm"),
        (12, "sd-1.5", "", ""),
        (12, "sdxl-base", "tiles", "tiles -llm"),
        (12, "flux1-schnell", "offload fa", "offload fa -llm"),
        (12, "qwen-image", "offload max=10.5", "offload max=10.5 -llm"),
        (16, "sd-1.5", "", ""),
        (16, "sdxl-base", "tiles", "tiles -llm"),
        (16, "flux1-schnell", "tiles fa", "tiles fa -llm"),
        (16, "qwen-image", "offload", "offload -llm"),
        (24, "sd-1.5", "", ""),
        (24, "sdxl-base", "", "tiles"),
        (24, "flux1-schnell", "tiles", "tiles -llm"),
        (24, "qwen-image", "tiles", "tiles -llm"),
        (48, "sd-1.5", "", ""),
        (48, "sdxl-base", "", ""),
        (48, "flux1-schnell", "", ""),
        (48, "qwen-image", "", ""),
    ],
)
def test_cards(engine, gib, model, alone, shared):
    run = footprint(model)
    assert shown(plan(run, card(gib), engine=engine)) == alone
    if shared is not None:
        beside = replace(card(gib), vram_free=card(gib).vram_free - 5 * GB)
        assert shown(plan(run, beside, held={"ollama": llm(5)}, engine=engine)) == shared


@pytest.mark.parametrize("engine", BUILDS)
@pytest.mark.parametrize(
    ("ram", "model", "flags"),
    [
        (8, "demo-like", ""),
        (8, "sd-1.5", ""),
        (8, "sdxl-base", "tiles fa -llm"),
        (16, "sd-1.5", ""),
        (16, "sdxl-base", "tiles -llm"),
        (32, "sdxl-base", "-llm"),
        (32, "flux1-schnell", "-llm"),
        (64, "flux1-schnell", ""),
    ],
)
def test_an_engine_on_the_cpu_gets_the_ram_of_others_and_else_tiles(engine, ram, model, flags):
    run = footprint("sd-1.5" if model == "demo-like" else model, on_gpu=False)
    run = replace(run, width=64, height=64) if model == "demo-like" else run
    supply = memory(ram, used=ram * 0.3)
    assert shown(plan(run, supply, held={"llm": llm(5, 3)}, engine=engine)) == flags


@pytest.mark.parametrize(("ram", "free"), [(16, 5), (16, 7), (32, 5), (32, 10)])
def test_on_the_cpu_nothing_is_slowed_down_for_the_threshold(ram, free):
    run = footprint("sd-1.5", on_gpu=False)
    chosen = plan(run, memory(ram, used=ram - free))
    assert chosen == PLAIN
    held = {"llm": llm(0, 2)}
    chosen = plan(run, memory(ram, used=ram - free), held=held)
    assert (chosen, chosen.evictions) == (PLAIN, ("llm",))


def test_on_the_cpu_what_does_not_fit_is_decoded_in_tiles():
    run = footprint("sd-1.5", on_gpu=False)
    need = demand_of(run, PLAIN).ram / GB
    assert shown(plan(run, memory(16, used=16 - need / 0.94))) == ""
    assert shown(plan(run, memory(16, used=16 - need / 0.96))) == "tiles"
    assert shown(plan(run, memory(16, used=16 - need / 0.96), held={"llm": llm(0, 1)})) == "-llm"


def test_the_vram_of_others_is_no_help_to_an_engine_on_the_cpu():
    beside = Supply(3 * GB, 16 * GB, 1 * GB, 12 * GB, has_gpu=True)
    chosen = plan(footprint("sdxl-base", on_gpu=False), beside, held={"llm": llm(10, 0)})
    assert chosen.evictions == ()
    assert set(chosen.flags) == {"--vae-tiling", "--diffusion-fa"}


def test_the_ram_of_others_is_no_help_to_a_card():
    beside = card(8, used=5)
    held = {"hungry": llm(0, 10), "llm": llm(4, 0)}
    assert plan(SD1, beside, held=held).evictions == ("llm",)


# Memory that the card and the processor share.


@pytest.mark.parametrize("vendor", ["apple", "amd"])
def test_unified_memory_is_not_moved_about(vendor):
    gpu = Gpu(vendor, "One", 2 * GB, 1 * GB, None, unified_memory=True)
    look = HardwareSnapshot("darwin-arm64", "Test", None, None, None, 16 * GB, 13 * GB, None, (gpu,), ())
    chosen = plan(FLUX, supply_of(look))
    assert shown(chosen) == "tiles fa"
    assert "RAM" in chosen.reasons[0]
    assert "VRAM" not in " ".join(chosen.reasons)


def test_in_unified_memory_both_parts_of_a_language_model_count():
    beside = memory(24, used=11, unified=True)
    assert shown(plan(SD1, beside, held={"llm": llm(4, 1)})) == ""
    assert shown(plan(SDXL, beside, held={"llm": llm(4, 1)})) == "tiles -llm"
    assert shown(plan(SDXL, beside, held={"llm": llm(None, 5)})) == "tiles -llm"
    assert shown(plan(SDXL, beside, held={"llm": llm(5, None)})) == "tiles -llm"


def test_in_unified_memory_an_unknown_amount_may_be_all():
    beside = memory(24, used=11, unified=True)
    assert plan(SDXL, beside, held={"hook": Holding("something", None, None)}).evictions == ("hook",)


# Slices, and cards that others use.


def test_a_slice_is_a_small_card():
    part = Gpu("nvidia", "MIG 1g.10gb", 10 * GIB, round(9.5 * GIB), None, mig=True)
    look = HardwareSnapshot("linux-x64", "Test", None, None, None, 64 * GB, 60 * GB, None, (part,), ())
    assert plan(SDXL, supply_of(look)) == plan(SDXL, card(10))
    assert plan(SDXL, supply_of(look)) != plan(SDXL, card(80))


@pytest.mark.parametrize("used", [18.3, 18, 17, 14])
def test_on_a_card_that_others_fill_what_fits_is_not_slowed_down(used):
    chosen = plan(SD1, card(24, used=used))
    assert shown(chosen) in {"", "tiles"}


def test_more_than_the_threshold_is_said():
    # 20 of 24 GiB are in use by others: no flag brings that below three quarters.
    chosen = plan(SD1, card(24, used=19.5))
    assert shown(chosen) == "tiles"
    assert chosen.reasons[-1].startswith(
        "More than 75% of the VRAM will be in use: 2.5 GB are needed, 4.8 of 25.7 GB"
    )


def test_no_flag_is_set_for_a_threshold_that_is_out_of_reach():
    # With 17 of 24 GiB in use by others tiles would not bring it below three quarters either.
    chosen = plan(SD1, card(24, used=17))
    assert chosen == PLAIN
    assert chosen.reasons[-1].startswith("More than 75% of the VRAM will be in use")
    held = {"llm": llm(1, 0)}
    assert plan(SD1, card(24, used=17), held=held) == PLAIN
    assert plan(SD1, card(24, used=17), held=held).evictions == ("llm",)
    # Flash attention costs nothing there.
    assert shown(plan(FLUX, card(24, used=8))) == "tiles fa"


def test_with_little_left_cheap_flags_are_set_all_the_same():
    assert shown(plan(SD1, card(24, used=19.5))) == "tiles"


def test_a_full_card_is_not_taken_for_an_empty_one():
    chosen = plan(SDXL, card(24, used=24))
    assert {"--offload-to-cpu", "--max-vram 0.5", "--vae-tiling"} <= set(chosen.flags)
    assert chosen.reasons[-1].endswith("nothing that is allowed here needs less.")


# What is unknown.


@pytest.mark.parametrize("on_gpu", [True, None])
def test_for_unknown_memory_nothing_is_done(on_gpu):
    nothing = Supply(has_gpu=True)
    run = footprint("qwen-image", on_gpu=on_gpu)
    assert plan(run, nothing, held={"llm": llm()}) == PLAIN
    assert plan(run, nothing, held={"llm": llm()}).evictions == ()
    assert plan(run, nothing).reasons == ()


def test_unknown_vram_beside_known_ram():
    known = replace(card(8), vram_free=None, vram_total=None)
    assert shown(plan(FLUX, known, held={"llm": llm()})) == ""


def test_of_unknown_free_memory_all_may_be_had():
    assert plan(FLUX, replace(card(8), vram_free=None)) == plan(FLUX, card(8, used=0))


def test_unknown_totals_leave_what_is_free():
    assert shown(plan(SDXL, replace(card(12), vram_total=None))) == "tiles"
    assert shown(plan(SDXL, Supply(vram_free=16 * GB, has_gpu=True))) == "tiles"
    assert shown(plan(SDXL, Supply(vram_free=17 * GB, has_gpu=True))) == ""


@pytest.mark.parametrize(("gpu", "flags"), [(True, "offload tiles fa"), (False, ""), (None, "")])
def test_an_engine_of_the_users_own_draws_where_a_card_is(gpu, flags):
    run = footprint("sdxl-base", on_gpu=None)
    supply = card(8) if gpu else Supply(16 * GB, 32 * GB, has_gpu=gpu)
    assert shown(plan(run, supply)) == flags


def test_who_holds_an_unknown_amount_is_put_aside_only_where_something_is_short():
    hook = {"hook": Holding("something", None, None)}
    assert plan(SD1, card(12), held=hook).evictions == ()
    short = plan(SD1, card(12, used=9), held=hook)
    assert short.evictions == ("hook",)
    assert short.reasons[0].startswith(
        "something of hook is put aside, because 3.7 GB of VRAM are needed and "
    )


def test_a_known_amount_goes_before_an_unknown():
    held = {"hook": Holding("something", None, None), "llm": llm(5, 0)}
    assert plan(SD1, card(12, used=9), held=held).evictions == ("llm",)


# Who is put aside.


def test_the_smallest_that_is_enough():
    held = {"large": llm(6, 0), "small": llm(1, 0), "medium": llm(3, 0)}
    assert plan(SD1, card(12, used=8), held=held).evictions == ("medium",)


def test_one_large_goes_before_two_small():
    held = {"a": llm(2, 0), "b": llm(2, 0), "large": llm(6, 0)}
    assert plan(SD1, card(12, used=10), held=held).evictions == ("large",)


def test_several_in_the_order_of_the_configuration():
    held = {"a": llm(2, 0), "b": llm(2, 0), "tiny": llm(0.1, 0)}
    assert plan(SD1, card(12, used=10), held=held).evictions == ("a", "b")


def test_of_many_programs_enough_are_found():
    held = {f"llm-{index}": llm(0.4 + index / 100, 0) for index in range(12)}
    chosen = plan(SD1, card(12, used=10), held=held)
    assert shown(chosen) == "tiles -llm"
    assert 5 <= len(chosen.evictions) <= 9
    assert list(chosen.evictions) == [name for name in held if name in chosen.evictions]


def test_nobody_frees_more_than_there_is():
    beside = replace(card(8), vram_free=GB)
    assert plan(SDXL, beside, held={"llm": llm(40)}) == plan(SDXL, card(8, used=0))


def test_cheap_flags_go_before_putting_aside():
    # 8.2 GB in tiles.
    supply = replace(card(24), vram_free=card(24).vram_free - 8 * GB)
    assert shown(plan(SDXL, supply, held={"llm": llm(8)})) == "tiles"


def test_putting_aside_goes_before_costly_flags():
    supply = replace(card(12), vram_free=card(12).vram_free - 5 * GB)
    assert shown(plan(SDXL, supply, held={"llm": llm(5)})) == "tiles -llm"
    assert shown(plan(SDXL, supply)) == "offload tiles fa"


def test_nobody_is_put_aside_who_does_not_help():
    held = {"idle": Holding("nothing", 0, 0), "llm": llm(5, 0)}
    assert plan(FLUX, card(8, used=6), held=held).evictions == ("llm",)
    assert plan(SDXL, card(48), held=held).evictions == ()


def test_a_language_model_stays_where_costly_flags_need_no_more_room():
    # 9 GB are needed offloaded; nothing less offloaded fits even with the 1 GB of the other.
    chosen = plan(FLUX, card(12), held={"llm": llm(0.2, 0)})
    assert shown(chosen) == "offload fa"


def test_ram_that_a_desktop_fills_is_no_reason_to_put_anything_aside():
    full = Supply(2 * GB, 16 * GB, 23 * GB, 24 * GB, has_gpu=True)
    assert plan(SD1, full, held={"llm": llm(0, 3)}) == PLAIN
    assert plan(SD1, full, held={"llm": llm(0, 3)}).evictions == ()


def test_without_the_ram_for_all_weights_only_the_text_encoder_moves():
    poor = replace(card(12), ram_free=9 * GB, ram_total=10 * GB)
    assert shown(plan(FLUX, poor)) == "te tiles fa"


# What the user decided.


@pytest.mark.parametrize("engine", BUILDS)
@pytest.mark.parametrize(
    ("choices", "flags"),
    [
        (MemoryChoices(offload_to_cpu=False), "te tiles fa"),
        (MemoryChoices(vae_tiling=False), "vae fa"),
        (MemoryChoices(diffusion_flash_attention=False), "offload tiles --no-diffusion-fa"),
        (MemoryChoices(offload_to_cpu=True), "offload tiles fa"),
        (MemoryChoices(vae_tiling=True, diffusion_flash_attention=True), "offload tiles fa"),
        (MemoryChoices(clip_on_cpu=True), "te tiles fa"),
        (MemoryChoices(vae_on_cpu=True), "vae fa"),
        (MemoryChoices(offload_to_cpu=False, clip_on_cpu=False), "vae fa"),
    ],
)
def test_decisions_are_kept(engine, choices, flags):
    chosen = plan(choices=choices, engine=engine)
    assert choices.allow(chosen)
    assert shown(chosen) == flags


def test_decided_flags_have_no_reasons():
    decided = MemoryChoices(vae_tiling=True, diffusion_flash_attention=True, offload_to_cpu=True)
    assert plan(choices=decided).reasons[:1] != ("The VAE decodes in tiles",)
    assert not [each for each in plan(choices=decided).reasons if "because" in each]


def test_a_whole_plan_is_kept_as_it_is_and_room_is_made_for_it():
    beside = replace(card(16), vram_free=card(16).vram_free - 9 * GB)
    for flags in (PLAIN, MemoryPlan(vae_tiling=True), MemoryPlan(offload_to_cpu=True, max_vram_gib=2.0)):
        chosen = plan(SDXL, beside, flags, held={"llm": llm(9)})
        assert chosen == flags
    assert plan(SDXL, beside, MemoryPlan(vae_tiling=True), held={"llm": llm(9)}).evictions == ("llm",)
    assert plan(SDXL, card(8), PLAIN).reasons[-1].endswith("nothing that is allowed here needs less.")


@pytest.mark.parametrize("engine", BUILDS)
def test_a_budget_limits_the_vram_and_is_passed_on(engine):
    chosen = plan(SDXL, card(24), MemoryChoices(max_vram_gib=4), engine=engine)
    assert shown(chosen) == "offload tiles max=4"
    assert demand_of(SDXL, chosen).vram <= 4 * GIB + 0.3 * GB
    generous = plan(SD1, card(24), MemoryChoices(max_vram_gib=12), engine=engine)
    assert shown(generous) == "max=12"


def test_a_budget_holds_on_a_card_of_unknown_size():
    assert shown(plan(SDXL, Supply(has_gpu=True), MemoryChoices(max_vram_gib=4))) == "offload tiles max=4"


def test_a_budget_that_an_engine_does_not_know_is_planned_for():
    known = build(NEW).flags - {"--max-vram"}
    chosen = plan_memory(SDXL, card(24), MemoryChoices(max_vram_gib=9), known.__contains__)
    assert shown(chosen) == "tiles"


def test_nobody_is_put_aside_for_a_budget():
    chosen = plan(SDXL, card(24), MemoryChoices(max_vram_gib=4), held={"llm": llm(5)})
    assert chosen.evictions == ()
    nothing_fits = plan(SD1, card(24), MemoryChoices(max_vram_gib=0.25), held={"llm": llm(5)})
    assert nothing_fits.evictions == ()


def test_a_budget_of_less_than_there_is_can_be_undercut():
    chosen = plan(FLUX, card(6), MemoryChoices(max_vram_gib=5))
    assert shown(chosen) == "offload tiles max=4.5"
    assert MemoryChoices(max_vram_gib=5).allow(chosen)


# What an engine can do.


@pytest.mark.parametrize(
    ("missing", "flags"),
    [
        ({"--vae-tiling"}, "vae"),
        ({"--diffusion-fa"}, "offload tiles"),
        ({"--offload-to-cpu"}, "te tiles fa"),
        ({"--backend"}, "offload tiles fa"),
        ({"--offload-to-cpu", "--backend", "--clip-on-cpu", "--vae-on-cpu"}, "tiles fa"),
    ],
)
def test_a_flag_that_the_engine_lacks_is_left_out(missing, flags):
    chosen = plan_memory(SDXL, card(8), FREE, (build(OLD).flags - missing).__contains__)
    assert missing.isdisjoint(chosen.flags)
    assert {*flags.split()} <= {*shown(chosen).split(), "fa"}


def test_an_engine_without_any_flag_still_gets_a_plan():
    chosen = plan_memory(SDXL, card(4, used=3), FREE, lambda flag: False, {"llm": llm(2)})
    assert chosen == PLAIN
    assert chosen.evictions == ("llm",)


# What was learned.


def test_what_was_seen_decides():
    seen = Learned({(1024, 1024, "plain"): Peak(GB, 5 * GB, runs=1)})
    assert plan(replace(SDXL, learned=seen), card(8)) == PLAIN


def test_what_failed_is_not_tried_again():
    failed = Learned({(512, 512, "plain"): Peak(too_small_vram=5 * GB)})
    assert plan(SD1, card(6)) == PLAIN
    assert shown(plan(replace(SD1, learned=failed), card(6))) == "tiles"


def recommending(**flags) -> Learned:
    return Learned(recommended={(1024, 1024): MemoryPlan(**flags)})


def test_a_recommendation_comes_first():
    chosen = plan(replace(SDXL, learned=recommending(vae_tiling=True)), card(48))
    assert shown(chosen) == "tiles"
    assert chosen.reasons == ("A calibration found these flags the best for 1024x1024.",)


def test_a_recommendation_that_does_not_fit_is_no_start():
    run = replace(SDXL, learned=recommending(diffusion_flash_attention=True))
    assert plan(run, card(8)) == plan(SDXL, card(8))


def test_for_a_recommendation_others_are_put_aside():
    run = replace(SDXL, learned=recommending(vae_tiling=True, diffusion_flash_attention=True))
    beside = replace(card(12), vram_free=card(12).vram_free - 5 * GB)
    assert shown(plan(run, beside, held={"llm": llm(5)})) == "tiles fa -llm"


@pytest.mark.parametrize("choices", [MemoryChoices(vae_tiling=False), MemoryChoices(vae_on_cpu=True)])
def test_a_recommendation_does_not_undo_a_decision(choices):
    chosen = plan(replace(SDXL, learned=recommending(vae_tiling=True)), card(48), choices)
    assert choices.allow(chosen)


def test_a_recommendation_that_the_engine_lacks_is_left_out():
    run = replace(SDXL, learned=recommending(stream_layers=True, offload_to_cpu=True, max_vram_gib=4.0))
    assert plan(run, card(48), engine=OLD) == PLAIN
    assert plan(run, card(48), engine=NEW).stream_layers


def test_a_recommendation_is_for_its_size():
    run = replace(SDXL, width=512, height=512, learned=recommending(offload_to_cpu=True))
    assert plan(run, card(48)) == PLAIN


# The threshold, and reasons.


def test_a_lower_threshold_uses_cheap_flags_and_puts_aside():
    assert shown(plan(SDXL, card(24), threshold=0.75)) == ""
    assert shown(plan(SDXL, card(24), threshold=0.5)) == "tiles"
    beside = replace(card(24), vram_free=card(24).vram_free - 5 * GB)
    assert shown(plan(SDXL, beside, threshold=0.75, held={"llm": llm(5)})) == "tiles"
    assert shown(plan(SDXL, beside, threshold=0.5, held={"llm": llm(5)})) == "tiles -llm"


def test_at_a_threshold_of_all_a_little_stays_free():
    need = demand_of(SD1, PLAIN).vram
    exact = Supply(vram_free=need, vram_total=need, has_gpu=True)
    assert plan(SD1, exact, threshold=1) != PLAIN
    assert (
        plan(SD1, Supply(vram_free=round(need * 1.06), vram_total=6 * GB, has_gpu=True), threshold=1) == PLAIN
    )


def test_reasons_have_figures():
    beside = replace(card(12), vram_free=card(12).vram_free - 5 * GB)
    assert plan(SDXL, beside, held={"ollama": llm(5)}).reasons == (
        "llama3.2:3b of ollama (5.0 GB of VRAM, 0.5 GB of RAM) is put aside, because 8.2 GB of VRAM are needed and "
        "4.1 GB may be used.",
        "The VAE decodes in tiles, because 15.3 GB of VRAM are needed and 9.1 GB may be used.",
    )


def test_each_flag_has_its_reason():
    chosen = plan(FLUX, card(4))
    assert len([each for each in chosen.reasons if ", because " in each]) == len(chosen.flags) == 3
    assert chosen.reasons[-2:] != chosen.reasons[:2]
    assert any(each.startswith("The engine is held to 3 GiB of VRAM, because ") for each in chosen.reasons)


def test_nothing_chosen_needs_no_reason():
    assert plan(SD1, card(24), held={"llm": llm()}).reasons == ()


def test_a_family_that_nobody_knows_is_planned_for():
    assert shown(plan(replace(SDXL, family=None), card(12))) == "tiles fa"
    assert shown(plan(replace(SDXL, family=Family.ERNIE_IMAGE), card(12))) == "tiles"
