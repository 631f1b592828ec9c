"""What a run usually needs, against what engines said and what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import GB, GIB, footprint

from sdmanager.generation import MemoryPlan
from sdmanager.models import Family, Role
from sdmanager.resources._activations import buffers_of
from sdmanager.resources.demand import demand_of
from sdmanager.resources.footprint import Footprint, Learned, Peak

MIB = 1 << 20
PLAIN = MemoryPlan()
TILED = MemoryPlan(vae_tiling=True)
FAST = MemoryPlan(diffusion_flash_attention=True)
OFFLOAD = MemoryPlan(offload_to_cpu=True)
NOTHING = Footprint("m", "m", "cuda", True, 512, 512, {})
SDXL = footprint("sdxl-base")
FLUX = footprint("flux1-schnell")


def of(
    family: Family,
    width: int,
    height: int,
    plan: MemoryPlan = PLAIN,
    *,
    backend="vulkan",
    roles=(Role.MODEL,),
):
    sizes = dict.fromkeys(roles, GB)
    return buffers_of(Footprint("m", "m", backend, True, width, height, sizes, family), plan)


# Lines of the engine: "unet compute buffer size: 830.86 MB(VRAM)".
@pytest.mark.parametrize(
    ("family", "width", "height", "fast", "said"),
    [
        (Family.SD1, 512, 512, False, 559.90),
        (Family.SD1, 1024, 1024, False, 8360.93),
        (Family.SD1, 1536, 1536, False, 41842.65),
        (Family.SD1, 768, 1024, True, 4734.80),
        (Family.SD2, 512, 512, False, 367.98),
        (Family.SD2, 1024, 1536, False, 11769.69),
        (Family.SD2, 1024, 1024, True, 519.01),
        (Family.SDXL, 1024, 1024, False, 830.86),
        (Family.SDXL, 1536, 1536, False, 3607.58),
        (Family.SDXL, 1024, 1024, True, 440.86),
        (Family.SDXL, 1536, 1536, True, 1110.08),
        (Family.SD3, 512, 512, False, 276.54),
        (Family.SD3, 1024, 1024, False, 2865.44),
        (Family.FLUX, 512, 512, False, 398.05),
        (Family.FLUX, 1024, 1024, False, 2576.18),
        (Family.FLUX, 1536, 1536, False, 10021.49),
        (Family.FLUX, 512, 512, True, 248),
        (Family.FLUX, 768, 768, True, 505),
        (Family.FLUX2, 512, 512, False, 491),
        (Family.FLUX2, 1024, 1024, False, 2763),
        (Family.FLUX2, 1024, 1024, True, 1120),
        (Family.Z_IMAGE, 2048, 1152, True, 1553.65),
    ],
)
def test_diffusion_is_within_a_sixth_of_what_engines_said(family, width, height, fast, said):
    plan = MemoryPlan(diffusion_flash_attention=fast)
    assert of(family, width, height, plan).diffusion / MIB == pytest.approx(said, rel=1 / 6)


@pytest.mark.parametrize(
    ("family", "size", "tiled", "said"),
    [
        (Family.SD1, 512, False, 1664),
        (Family.FLUX, 1024, False, 6656),
        (Family.FLUX2, 512, False, 1664),
        (Family.SDXL, 1024, False, 7680.25),
        (Family.FLUX, 512, True, 416),
        (Family.FLUX, 2048, True, 416),
        (Family.QWEN_IMAGE, 256, False, 482.29),
        (Family.QWEN_IMAGE, 1024, False, 7493.50),
    ],
)
def test_decoding_is_what_engines_said(family, size, tiled, said):
    decoding = of(family, size, size, TILED if tiled else PLAIN).decoding
    assert decoding / MIB == pytest.approx(said, rel=0.04)


@pytest.mark.parametrize(
    ("size", "tiled", "measured"),
    [
        (64, False, 120),
        (256, False, 247),
        (512, False, 624),
        (1024, False, 2138),
        (512, True, 246),
        (1024, True, 250),
    ],
)
def test_the_demo_model_on_the_cpu_is_what_was_measured(size, tiled, measured):
    sizes = {Role.DIFFUSION_MODEL: 2 * 10**6, Role.LLM: 20 * 10**6, Role.TAE: 3 * 10**6}
    small = Footprint("demo", "demo", "cpu", False, size, size, sizes, Family.OVIS_IMAGE)
    # Its own encoder and diffusion model are too small for the figures of their families.
    needed = 120 * 10**6 + buffers_of(small, TILED if tiled else PLAIN).decoding
    assert needed / 1e6 == pytest.approx(measured, rel=0.08)
    assert demand_of(small, TILED if tiled else PLAIN).ram >= needed


def test_a_tile_is_no_larger_than_the_picture():
    assert of(Family.FLUX, 128, 128, TILED) == of(Family.FLUX, 128, 128)


def test_a_model_that_draws_in_pixels_decodes_nothing():
    assert of(Family.CHROMA_RADIANCE, 1024, 1024).decoding == 0


def test_a_tiny_decoder_counts_only_where_it_decodes():
    parts = (Role.DIFFUSION_MODEL, Role.LLM, Role.TAE)
    assert of(Family.Z_IMAGE, 512, 512, roles=parts).decoding < 600 * MIB
    assert of(Family.Z_IMAGE, 512, 512, roles=(*parts, Role.VAE)).decoding == 1664 * MIB


def test_the_engine_uses_flash_attention_by_itself_for_some():
    fast = of(Family.Z_IMAGE, 1024, 1024, FAST).diffusion
    assert of(Family.Z_IMAGE, 1024, 1024, backend="cuda").diffusion == fast
    assert of(Family.Z_IMAGE, 1024, 1024, backend="vulkan").diffusion > fast
    refused = MemoryPlan(diffusion_flash_attention=False)
    assert of(Family.Z_IMAGE, 1024, 1024, refused, backend="cuda").diffusion > fast
    assert of(Family.FLUX, 1024, 1024, backend="cuda") == of(Family.FLUX, 1024, 1024)


# Where the parts are.


def test_on_the_cpu_everything_is_in_ram():
    need = demand_of(footprint("flux1-schnell", on_gpu=False), PLAIN)
    assert need.vram == 0
    assert need.ram == pytest.approx(12.5 * GB + 6656 * MIB, rel=0.02)
    assert need.source == "sizes"


def test_on_a_card_all_weights_stay_until_the_picture_is_decoded():
    need = demand_of(FLUX, PLAIN)
    assert need.vram == pytest.approx(12.5 * GB + 6656 * MIB + 0.3 * GB, rel=0.02)
    assert need.ram < 0.5 * GB


def test_offloaded_weights_are_in_ram_and_one_stage_on_the_card():
    need = demand_of(FLUX, replace(OFFLOAD, vae_tiling=True))
    assert need.ram == pytest.approx(12.5 * GB + 0.4 * GB, rel=0.02)
    # Diffusion: 6.8 GB and 2.6 GiB.
    assert need.vram == pytest.approx(6.8 * GB + 2616 * MIB + 0.3 * GB, rel=0.05)


def test_parts_on_the_cpu_are_in_ram():
    text = demand_of(FLUX, MemoryPlan(clip_on_cpu=True))
    assert demand_of(FLUX, PLAIN).vram - text.vram == pytest.approx(5.35 * GB, rel=0.02)
    assert text.ram == pytest.approx(5.35 * GB + 0.3 * GB + 0.4 * GB, rel=0.05)
    decoder = demand_of(FLUX, MemoryPlan(vae_on_cpu=True))
    assert decoder.ram == pytest.approx(0.34 * GB + 6656 * MIB + 0.4 * GB, rel=0.02)
    assert decoder.vram < demand_of(FLUX, TILED).vram


def test_a_part_of_a_whole_model_goes_to_the_cpu_too():
    moved = demand_of(SDXL, PLAIN).vram - demand_of(SDXL, MemoryPlan(clip_on_cpu=True)).vram
    assert moved == pytest.approx(1595.65 / 6702.86 * 6.94 * GB, rel=0.02)


def test_a_budget_cuts_what_is_on_the_card_of_offloaded_weights():
    cut = replace(OFFLOAD, vae_tiling=True, max_vram_gib=4.0)
    assert demand_of(FLUX, cut).vram == pytest.approx(4 * GIB + 0.3 * GB)
    # Without --offload-to-cpu they are there in any case.
    assert demand_of(FLUX, replace(cut, offload_to_cpu=False)) == demand_of(FLUX, TILED)
    # Not below one block and what it computes in, and not what the VAE needs.
    small = demand_of(FLUX, replace(cut, max_vram_gib=0.5)).vram
    assert small == pytest.approx(6.8 * GB / 16 + 2616 * MIB + 0.3 * GB, rel=0.05)
    assert demand_of(FLUX, replace(cut, vae_tiling=False)).vram > 7 * GB


def test_streamed_weights_wait_in_ram():
    streamed = demand_of(FLUX, MemoryPlan(stream_layers=True, max_vram_gib=4.0))
    assert streamed == demand_of(FLUX, replace(OFFLOAD, max_vram_gib=4.0))
    assert streamed.ram > 12.5 * GB


def test_a_budget_that_is_never_reached_changes_nothing():
    tiled = replace(OFFLOAD, vae_tiling=True)
    assert demand_of(FLUX, replace(tiled, max_vram_gib=40.0)) == demand_of(FLUX, tiled)


def test_one_memory_for_both_holds_all():
    pooled = demand_of(FLUX, PLAIN, pooled=True)
    apart = demand_of(FLUX, PLAIN)
    assert (pooled.ram, pooled.vram) == (apart.ram + apart.vram, 0)


@pytest.mark.parametrize("plan", [PLAIN, TILED, OFFLOAD, MemoryPlan(clip_on_cpu=True, vae_on_cpu=True)])
def test_a_model_without_anything_known_needs_something(plan):
    assert demand_of(NOTHING, plan).ram > 0
    assert demand_of(NOTHING, plan).vram > 0


# What was learned.


def learned(plan: MemoryPlan = PLAIN, *, weights=None, **peaks: Peak) -> Footprint:
    """SDXL at 1024x1024; peaks by ``s512`` for 512x512."""
    sizes = {(int(name[1:]), int(name[1:]), plan.key): peak for name, peak in peaks.items()}
    return replace(SDXL, learned=Learned(sizes, weights=weights))


def test_the_engines_own_figure_goes_before_the_files_sizes():
    need = demand_of(learned(weights=3 * GB), PLAIN)
    assert need.source == "weights"
    assert demand_of(SDXL, PLAIN).vram - need.vram == pytest.approx(3.94 * GB, rel=1e-6)


def test_what_was_seen_goes_before_everything():
    need = demand_of(learned(s1024=Peak(1 * GB, 7 * GB, runs=1), weights=3 * GB), PLAIN)
    assert (need.ram, need.vram, need.source) == (1 * GB, 7 * GB, "learned")


def test_what_is_unknown_of_a_run_is_estimated():
    need = demand_of(learned(s1024=Peak(1 * GB, None, runs=1)), PLAIN)
    assert (need.ram, need.vram, need.source) == (1 * GB, demand_of(SDXL, PLAIN).vram, "learned")


def test_other_flags_say_nothing():
    assert demand_of(learned(s1024=Peak(1, 1, runs=1)), TILED) == demand_of(SDXL, TILED)


@pytest.mark.parametrize("more", [-GB, GB])
def test_another_size_is_as_far_from_its_estimate(more):
    there = demand_of(replace(SDXL, width=768, height=768), PLAIN).vram
    need = demand_of(learned(s768=Peak(GB, there + more, runs=1)), PLAIN)
    assert need.vram == demand_of(SDXL, PLAIN).vram + more
    assert need.source == "learned"


def test_a_much_larger_size_needs_no_less_than_is_estimated():
    there = demand_of(replace(SDXL, width=512, height=512), PLAIN).vram
    assert demand_of(learned(s512=Peak(GB, there - GB, runs=1)), PLAIN).vram == demand_of(SDXL, PLAIN).vram
    more = demand_of(learned(s512=Peak(GB, there + GB, runs=1)), PLAIN).vram
    assert more == demand_of(SDXL, PLAIN).vram + GB


def test_a_smaller_size_needs_less_in_proportion_at_the_least():
    there = demand_of(replace(SDXL, width=2048, height=2048), PLAIN).vram
    here = demand_of(SDXL, PLAIN).vram
    half = demand_of(learned(s2048=Peak(GB, there // 2, runs=1)), PLAIN).vram
    assert half == pytest.approx(here / 2, rel=1e-6)
    assert demand_of(learned(s2048=Peak(GB, there + GB, runs=1)), PLAIN).vram == here + GB


@pytest.mark.parametrize("size", [256, 448, 2304])
def test_a_size_that_is_far_away_says_nothing(size):
    run = learned(**{f"s{size}": Peak(GB, 40 * GB, runs=1)})
    assert demand_of(run, PLAIN) == demand_of(SDXL, PLAIN)


@pytest.mark.parametrize(("used", "size"), [(168 * 10**6, 1024), (2500 * 10**6, 768)])
def test_a_tiny_picture_does_not_spoil_the_others(used, size):
    run = footprint("sd-1.5", size=size, on_gpu=False)
    seen = Learned({(64, 64, "plain"): Peak(used, None, runs=1)})
    assert demand_of(replace(run, learned=seen), PLAIN) == demand_of(run, PLAIN)
    exact = replace(run, width=64, height=64, learned=seen)
    assert demand_of(exact, PLAIN).ram == used


def test_the_nearest_size_counts():
    near = demand_of(learned(s768=Peak(GB, 9 * GB, runs=1), s512=Peak(GB, 40 * GB, runs=1)), PLAIN)
    assert near == demand_of(learned(s768=Peak(GB, 9 * GB, runs=1)), PLAIN)


def test_tiles_do_not_grow_with_the_picture():
    seen = {(512, 512, TILED.key): Peak(GB, 13 * GB, runs=1)}
    flux = replace(FLUX, width=1024, height=1024, family=Family.SDXL, learned=Learned(seen))
    assert demand_of(flux, TILED).vram < 14.5 * GB


def test_where_it_failed_it_needs_as_much_as_was_free():
    failed = Peak(too_small_vram=20 * GB)
    assert demand_of(learned(s1024=failed), PLAIN).vram == 20 * GB
    assert demand_of(learned(s512=failed), PLAIN).vram == 20 * GB
    assert demand_of(learned(s128=failed), PLAIN).vram == 20 * GB
    # A larger picture that failed says nothing of a smaller one.
    assert demand_of(learned(s2048=failed), PLAIN) == demand_of(SDXL, PLAIN)
    both = Peak(GB, 7 * GB, too_small_vram=9 * GB, runs=3)
    assert demand_of(learned(s1024=both), PLAIN).vram == 9 * GB
    assert demand_of(learned(s1024=Peak(too_small_vram=GB)), PLAIN) == demand_of(SDXL, PLAIN)
    assert demand_of(learned(s1024=Peak(too_small_ram=5 * GB)), PLAIN).ram == 5 * GB


def test_where_it_failed_it_needs_no_more_than_twice_what_comparable_runs_used():
    # Others had taken what was free.
    both = Peak(GB, 7 * GB, too_small_vram=60 * GB, runs=3)
    assert demand_of(learned(s1024=both), PLAIN).vram == 14 * GB
    failed = Peak(too_small_vram=60 * GB)
    larger = demand_of(learned(s1024=failed, s1536=Peak(GB, 20 * GB, runs=1)), PLAIN)
    assert larger.vram == 40 * GB
    # A tiny picture shows nothing.
    tiny = demand_of(learned(s1024=failed, s256=Peak(GB, 2 * GB, runs=1)), PLAIN)
    assert tiny.vram == 60 * GB


def test_one_memory_for_both_is_what_was_seen_of_both():
    assert demand_of(learned(s1024=Peak(2 * GB, 5 * GB, runs=1)), PLAIN, pooled=True).ram == 7 * GB
    # How much of the card's part is counted for the process is unknown: it is no less than was seen.
    one = demand_of(learned(s1024=Peak(2 * GB, None, runs=1)), PLAIN, pooled=True)
    assert one.ram == demand_of(SDXL, PLAIN, pooled=True).ram
    assert demand_of(learned(s1024=Peak(40 * GB, None, runs=1)), PLAIN, pooled=True).ram == 40 * GB


def test_a_cpu_engine_beside_a_card_is_not_counted_twice():
    cpu = replace(learned(s1024=Peak(9 * GB, None, runs=1)), on_gpu=False, backend="cpu")
    assert demand_of(cpu, PLAIN, pooled=True).ram == demand_of(cpu, PLAIN).ram == 9 * GB
