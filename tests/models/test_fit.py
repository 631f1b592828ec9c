"""What fits which machine: refused only where it surely cannot work, with a way out."""

from __future__ import annotations

import os
import subprocess
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InsufficientResourcesError
from sdmanager.generation import MemoryPlan
from sdmanager.hardware import Gpu, HardwareSnapshot
from sdmanager.models import Role, demo_model
from sdmanager.models.catalog import load_catalog
from sdmanager.models.fit import Have, check_disk, check_fit, have_at_most, have_now, need_of
from sdmanager.settings import Settings

GB = 10**9
PLAIN = MemoryPlan()
FLAGS = (("diffusion-model", Role.DIFFUSION_MODEL), ("llm", Role.LLM), ("tae", Role.TAE))


def need(name: str, **more: bool):
    model, option = load_catalog().get(name)
    width, height = model.default_size
    return need_of(option.sizes, width, height, quantisations=option.quantisations, **more)


def refusal(
    name: str, have: Have, plan: MemoryPlan | None = PLAIN, *, on_gpu: bool | None = True, smaller=()
):
    """The error, or None where it fits."""
    try:
        check_fit(name, need(name), have, plan, on_gpu=on_gpu, smaller=smaller)
    except InsufficientResourcesError as exc:
        return exc
    return None


def card(vram: float, ram: float = 64) -> Have:
    return Have(round(ram * GB), round(vram * GB), has_gpu=True)


# What each needs at the least: weights, and memory beside them.


def test_parts_that_are_not_loaded_do_not_count_and_f32_counts_half():
    sizes = {Role.MODEL: 4 * GB, Role.TAE: GB, Role.LLM: 2 * GB, Role.VAE: GB}
    assert need_of(
        sizes, 64, 64, quantisations={Role.MODEL: "F16", Role.VAE: "F32", Role.LLM: "F32"}
    ).weights == {
        Role.MODEL: 4 * GB,
        Role.LLM: 2 * GB,
        Role.VAE: GB // 2,
    }
    assert need_of(sizes, 64, 64).weights == {Role.MODEL: 2 * GB, Role.LLM: 2 * GB, Role.VAE: GB // 2}
    # The demo model's decodes.
    assert need_of({Role.DIFFUSION_MODEL: 7, Role.TAE: 5}, 64, 64).weights == {
        Role.DIFFUSION_MODEL: 7,
        Role.TAE: 5,
    }


def test_memory_beside_the_weights_grows_with_the_picture_and_less_in_tiles():
    whole, tiled = need("flux1-schnell"), need("flux1-schnell", tiling=True)
    assert whole.working == 64_000_000 + 1024 * 1024 * 256
    assert tiled.working == whole.working_tiled == 64_000_000 + 1024 * 1024 * 64
    assert whole.total == sum(whole.weights.values()) + whole.working


@pytest.mark.parametrize("size", [64, 256])
def test_the_estimate_is_below_what_the_real_engine_takes(settings, engine, size, tmp_path):
    files = demo_model(settings).files
    parts = [f"--{name}={files[role]}".split("=") for name, role in FLAGS]
    command = [engine.path, *(word for part in parts for word in part), "-p", "x", "-o", tmp_path / "o.png"]
    command += ["--cfg-scale", "1", "--steps", "1", "-W", str(size), "-H", str(size)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    assert status == 0
    sizes = {role: path.stat().st_size for role, path in files.items()}
    estimate = need_of(sizes, size, size)
    assert sum(sizes.values()) < estimate.total < usage.ru_maxrss * 1024


@pytest.fixture(scope="module")
def demo_sizes(tmp_path_factory) -> dict[Role, int]:
    folder = tmp_path_factory.mktemp("demo")
    files = demo_model(Settings(folder, folder, folder)).files
    return {role: path.stat().st_size for role, path in files.items()}


@pytest.mark.parametrize("size", [64, 256, 512, 1024])
@pytest.mark.parametrize("on_gpu", [True, False, None])
@pytest.mark.parametrize("plan", [PLAIN, None])
def test_the_demo_model_fits_half_a_gigabyte(demo_sizes, size, on_gpu, plan):
    have = Have(512_000_000, 512_000_000, has_gpu=True)
    check_fit("demo", need_of(demo_sizes, size, size), have, plan, on_gpu=on_gpu)


# On the processor.


@pytest.mark.parametrize(
    ("ram", "fit"),
    [
        (2, {"sd-1.5", "demo"}),
        (8, {"sd-1.5", "sd-turbo", "sdxl-turbo", "z-image-turbo", "flux2-klein", "demo"}),
        (16, {"sd-1.5", "sd-turbo", "sdxl-turbo", "z-image-turbo", "flux2-klein", "flux1-schnell", "demo"}),
        (
            64,
            {
                "sd-1.5",
                "sd-turbo",
                "sdxl-turbo",
                "z-image-turbo",
                "flux2-klein",
                "flux1-schnell",
                "qwen-image",
                "demo",
            },
        ),
    ],
)
def test_on_a_processor_all_must_fit_the_ram(ram, fit):
    names = {
        "sd-1.5",
        "sd-turbo",
        "sdxl-turbo",
        "z-image-turbo",
        "flux2-klein",
        "flux1-schnell",
        "qwen-image",
        "demo",
    }
    for vram in (None, 0, 100 * GB):
        have = Have(ram * GB, vram)
        assert {name for name in names if refusal(name, have, on_gpu=False) is None} == fit
        # Flags of graphics cards change nothing.
        plan = MemoryPlan(offload_to_cpu=True, clip_on_cpu=True, vae_on_cpu=True, max_vram_gib=1)
        assert {name for name in names if refusal(name, have, plan, on_gpu=False) is None} == fit


def test_the_sentence_says_what_is_needed_of_what_and_what_is_there():
    error = refusal("flux1-schnell", Have(8 * GB, None), on_gpu=False)
    assert error.message == "The model 'flux1-schnell' needs at least 12.7 GB of RAM and 8.0 GB is there."
    wanted = need("flux1-schnell")
    assert error.details == {
        "model": "flux1-schnell",
        "resource": "ram",
        "needed_bytes": wanted.total,
        "available_bytes": 8 * GB,
        "weights_bytes": wanted.total - wanted.working,
        "working_bytes": wanted.working,
        "flags": [],
        "smaller": None,
    }
    assert "models list --all" in error.hint


def test_what_is_needed_never_reads_as_what_is_there():
    wanted = need("sd-turbo").total
    error = refusal("sd-turbo", Have(wanted - 1, None), on_gpu=False)
    shown = [word for word in error.message.split() if word[0].isdigit()]
    assert float(shown[0]) > float(shown[1])
    assert refusal("sd-turbo", Have(wanted, None), on_gpu=False) is None


def test_tiles_are_suggested_where_they_suffice():
    wanted = need("sdxl-turbo")
    error = refusal("sdxl-turbo", Have(wanted.total - 1, None), on_gpu=False)
    assert error.hint == "Try --vae-tiling, with which it should fit."
    plan = MemoryPlan(vae_tiling=True)
    assert refusal("sdxl-turbo", Have(wanted.total - 1, None), plan, on_gpu=False) is None


# On a card with memory of its own.


@pytest.mark.parametrize(
    ("vram", "name", "flags"),
    [
        (4, "sd-1.5", None),
        (4, "sd-turbo", None),
        (4, "z-image-turbo", ["--offload-to-cpu"]),
        (4, "flux2-klein", ["--offload-to-cpu"]),
        (4, "sdxl-turbo", ["--offload-to-cpu", "--max-vram 3.3"]),
        (4, "flux1-schnell", ["--offload-to-cpu", "--max-vram 3.3"]),
        (8, "z-image-turbo", None),
        (8, "flux2-klein", None),
        (8, "sdxl-turbo", None),
        (8, "sdxl-base", None),
        (8, "flux1-schnell", ["--offload-to-cpu"]),
        (8, "qwen-image", ["--offload-to-cpu", "--max-vram 6.7"]),
        (12, "flux1-dev", None),
        (12, "flux1-schnell", ["--offload-to-cpu"]),
        (12, "qwen-image", ["--offload-to-cpu", "--max-vram 10"]),
        (24, "flux1-schnell", None),
        (24, "qwen-image", None),
        (24, "z-image-turbo:bf16", None),
        (48, "qwen-image", None),
    ],
)
def test_flags_that_would_make_it_fit_are_named(vram, name, flags):
    error = refusal(name, card(vram))
    assert (error.details["flags"] if error else None) == flags
    if error:
        assert error.hint == f"Try {' '.join(flags)}, with which it should fit."
        assert f"of VRAM and {vram}.0 GB is there." in error.message


@pytest.mark.parametrize(
    ("plan", "fits"),
    [
        (MemoryPlan(), False),
        (MemoryPlan(vae_tiling=True), False),
        (MemoryPlan(diffusion_flash_attention=True), False),
        (MemoryPlan(vae_on_cpu=True), False),
        (MemoryPlan(clip_on_cpu=True), True),
        (MemoryPlan(offload_to_cpu=True), True),
        (MemoryPlan(max_vram_gib=6), True),
        (MemoryPlan(offload_to_cpu=True, max_vram_gib=6), True),
    ],
)
def test_flags_that_are_given_count(plan, fits):
    """Flux in 8 GB: 6.8 GB draw, 5.3 GB read the prompt, and 0.3 GB decode."""
    assert (refusal("flux1-schnell", card(8), plan) is None) is fits


@pytest.mark.parametrize(
    ("plan", "ram", "fits"),
    [
        (MemoryPlan(clip_on_cpu=True), 5, False),
        (MemoryPlan(clip_on_cpu=True), 6, True),
        (MemoryPlan(offload_to_cpu=True), 12, False),
        (MemoryPlan(offload_to_cpu=True), 13, True),
        (MemoryPlan(offload_to_cpu=True, max_vram_gib=4), 12, False),
        (MemoryPlan(clip_on_cpu=True, vae_on_cpu=True), 5.6, False),
        (MemoryPlan(clip_on_cpu=True, vae_on_cpu=True), 6, True),
    ],
)
def test_what_is_kept_off_the_card_must_fit_the_ram(plan, ram, fits):
    error = refusal("flux1-schnell", card(8, ram), plan)
    assert (error is None) is fits
    if error:
        assert error.details["resource"] == "ram"


def test_little_ram_leads_to_the_text_encoder_alone_on_the_processor():
    assert refusal("flux1-schnell", card(8, ram=8)).details["flags"] == ["--clip-on-cpu"]


def test_only_flags_that_are_not_given_yet_are_named():
    plan = MemoryPlan(offload_to_cpu=True)
    error = refusal("qwen-image", card(12), plan)
    assert error.details["flags"] == ["--max-vram 10"]


def test_a_card_without_memory_is_no_reason_to_fail():
    assert refusal("sd-1.5", card(0)).details["resource"] == "vram"


# Suggestions.


def test_the_first_smaller_one_that_fits_is_suggested():
    smaller = [
        ("qwen-image", 18 * GB),
        ("z-image-turbo", 6 * GB),
        ("flux2-klein", 5 * GB),
        ("sd-1.5", 16 * GB // 10),
    ]
    error = refusal("flux1-schnell", Have(7 * GB, None), on_gpu=False, smaller=smaller)
    assert error.hint == "Use 'z-image-turbo' (6.0 GB), which should fit."
    assert error.details["smaller"] == "z-image-turbo"
    assert refusal("flux1-schnell", Have(GB, None), on_gpu=False, smaller=smaller).details["smaller"] is None
    # Flags before another model.
    assert refusal("flux1-schnell", card(8), smaller=smaller).details["smaller"] is None
    assert refusal("flux1-schnell", card(6, ram=7), smaller=smaller).details["smaller"] == "flux2-klein"


def test_the_hint_is_for_pictures_of_the_usual_size():
    """What is refused even for the smallest picture is not answered with what does for that one alone."""
    sizes = {Role.DIFFUSION_MODEL: 4 * GB, Role.LLM: 2 * GB}
    least, usual = need_of(sizes, 64, 64), need_of(sizes, 2048, 2048)
    have = card(4.5)
    with pytest.raises(InsufficientResourcesError) as caught:
        check_fit("x", least, have, PLAIN, on_gpu=True)
    assert caught.value.details["flags"] == ["--offload-to-cpu"]
    with pytest.raises(InsufficientResourcesError) as caught:
        check_fit("x", least, have, PLAIN, on_gpu=True, usual=usual)
    assert caught.value.details["flags"] == ["--offload-to-cpu", "--vae-tiling"]


@pytest.mark.parametrize("on_card", [0, 1])
def test_a_vae_on_the_processor_decodes_in_the_ram_and_diffusion_still_works_on_the_card(on_card):
    """To the byte: the whole working memory in the RAM, and a quarter of it beside the weights on the card."""
    wanted = need_of(
        {Role.DIFFUSION_MODEL: 4 * GB, Role.VAE: GB}, 1024, 1024, quantisations={Role.VAE: "F16"}
    )
    have = Have(GB + wanted.working, 4 * GB + wanted.working_tiled, has_gpu=True)
    plan = MemoryPlan(vae_on_cpu=True)
    check_fit("x", wanted, have, plan, on_gpu=True)
    less = replace(have, vram=have.vram - 1) if on_card else replace(have, ram=have.ram - 1)
    with pytest.raises(InsufficientResourcesError) as caught:
        check_fit("x", wanted, less, plan, on_gpu=True)
    assert caught.value.details["resource"] == ("vram" if on_card else "ram")


# Before a download: whichever flags and device make it fit.


@pytest.mark.parametrize(
    ("have", "on_gpu", "fits"),
    [
        (card(4, ram=64), None, True),
        (card(4, ram=64), True, True),
        (card(24, ram=8), None, True),
        (card(24, ram=8), True, True),
        (card(8, ram=8), True, True),
        (card(8, ram=8), False, False),
        (card(4, ram=8), None, False),
        (Have(8 * GB, None, has_gpu=False), None, False),
        (Have(16 * GB, None, has_gpu=False), None, True),
        (Have(8 * GB, None, has_gpu=None), None, True),
        (Have(8 * GB, None, unified=True, has_gpu=True), None, False),
        (Have(16 * GB, None, unified=True, has_gpu=True), None, True),
    ],
)
def test_before_a_download_any_way_to_run_it_will_do(have, on_gpu, fits):
    error = refusal("flux1-schnell", have, None, on_gpu=on_gpu)
    assert (error is None) is fits
    if error:
        assert error.details["resource"] == "ram"
        assert error.details["flags"] == []


# What a machine has.


def gpu(total: int | None, free: int | None = None, *, unified: bool | None = None) -> Gpu:
    return Gpu(None, None, total, free, None, unified_memory=unified)


def machine(*gpus: Gpu, ram: int | None = 16, available: int | None = 9, problems: tuple[str, ...] = ()):
    return HardwareSnapshot("linux-x64", "", None, None, None, ram, available, None, gpus, problems)


@pytest.mark.parametrize(
    ("snapshot", "now", "at_most"),
    [
        (machine(), Have(9, None, has_gpu=False), Have(16, None, has_gpu=False)),
        (machine(problems=("no answer",)), Have(9, None), Have(16, None)),
        (machine(ram=None, available=None), Have(None, None, has_gpu=False), Have(None, None, has_gpu=False)),
        (machine(available=None), Have(16, None, has_gpu=False), Have(16, None, has_gpu=False)),
        (machine(gpu(8, 5)), Have(9, 5, has_gpu=True), Have(16, 8, has_gpu=True)),
        (machine(gpu(8, 0)), Have(9, 0, has_gpu=True), Have(16, 8, has_gpu=True)),
        (machine(gpu(8)), Have(9, 8, has_gpu=True), Have(16, 8, has_gpu=True)),
        (machine(gpu(8, 5), gpu(24, 3)), Have(9, 5, has_gpu=True), Have(16, 24, has_gpu=True)),
        (machine(gpu(8, 5), gpu(None)), Have(9, None, has_gpu=True), Have(16, None, has_gpu=True)),
        (machine(gpu(1, 1, unified=True)), Have(9, None, True, True), Have(16, None, True, True)),
        (machine(gpu(1, 1, unified=True), gpu(8, 7)), Have(9, 7, has_gpu=True), Have(16, 8, has_gpu=True)),
    ],
)  # fmt: skip
def test_what_a_machine_has(snapshot, now, at_most):
    assert have_now(snapshot) == now
    assert have_at_most(snapshot) == at_most


def test_a_card_that_shares_the_ram_needs_it_all_there():
    have = Have(8 * GB, None, unified=True, has_gpu=True)
    assert refusal("flux1-schnell", have, MemoryPlan(offload_to_cpu=True)).details["resource"] == "ram"
    assert refusal("z-image-turbo", have) is None


# Of every machine and every model.

NAMES = st.sampled_from(load_catalog().names)
BYTES = st.none() | st.integers(0, 64 * GB)
PLANS = st.none() | st.builds(
    MemoryPlan,
    **{item.name: st.booleans() for item in fields(MemoryPlan) if item.name != "max_vram_gib"},
    max_vram_gib=st.none() | st.floats(0.5, 64),
)
HAVES = st.builds(Have, BYTES, BYTES, st.booleans(), st.sampled_from([None, True, False]))
ON_GPU = st.sampled_from([None, True, False])


@given(NAMES, HAVES, PLANS, ON_GPU, st.integers(0, 64 * GB), st.integers(0, 64 * GB))
def test_more_memory_never_turns_yes_into_no(name, have, plan, on_gpu, ram, vram):
    more = replace(
        have,
        ram=None if have.ram is None else have.ram + ram,
        vram=None if have.vram is None else have.vram + vram,
    )
    if refusal(name, have, plan, on_gpu=on_gpu) is None:
        assert refusal(name, more, plan, on_gpu=on_gpu) is None


@given(NAMES, HAVES, PLANS, ON_GPU)
def test_what_is_unknown_never_refuses(name, have, plan, on_gpu):
    unknown = replace(have, ram=None, vram=None)
    assert refusal(name, unknown, plan, on_gpu=on_gpu) is None
    if refusal(name, have, plan, on_gpu=on_gpu) is None:
        assert refusal(name, replace(have, ram=None), plan, on_gpu=on_gpu) is None
        assert refusal(name, replace(have, vram=None), plan, on_gpu=on_gpu) is None


@given(NAMES, HAVES, PLANS, st.booleans())
def test_the_flags_of_a_hint_do_make_it_fit(name, have, plan, on_gpu):
    error = refusal(name, have, plan, on_gpu=on_gpu)
    if error is None or plan is None:
        return
    given_now = {item.name: getattr(plan, item.name) for item in fields(plan)}
    for flag in error.details["flags"]:
        words = flag.split()
        field = {"--max-vram": "max_vram_gib"}.get(words[0], words[0].removeprefix("--").replace("-", "_"))
        given_now[field] = float(words[1]) if len(words) > 1 else True
    if error.details["flags"]:
        assert refusal(name, have, MemoryPlan(**given_now), on_gpu=on_gpu) is None


# The disk.


def test_the_disk():
    check_disk("x", 5, None)
    check_disk("x", 5, 5)
    with pytest.raises(InsufficientResourcesError) as caught:
        check_disk("flux1-dev", 9_680_000_000, 3_090_000_000)
    assert (
        caught.value.message == "The model 'flux1-dev' needs 9.7 GB of free disk space and 3.0 GB is there."
    )
    assert caught.value.details["resource"] == "disk"
    assert caught.value.hint
