"""What an engine that ran out of memory means, and what is left to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sdmanager.binaries import Capabilities, EngineBinary
from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.kills import Killed
from sdmanager.engine.run import Run
from sdmanager.engine.shortages import (
    explain_given_up,
    explain_retry,
    has_extras,
    helps,
    needs_no_look,
    ran_out,
    short_of,
    smaller_model,
    too_little,
)
from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.generation import ImageRequest, Lora, MemoryChoices, MemoryPlan, PreviewOptions
from sdmanager.models import ModelFiles, Role
from sdmanager.resources.footprint import Footprint, Learned, Peak
from sdmanager.resources.supply import Supply
from sdmanager.settings import Settings

GB = 10**9
PLAIN, TILED = MemoryPlan(), MemoryPlan(vae_tiling=True)


def footprint(side: int = 512, size: int = GB // 10, **learned: object) -> Footprint:
    weights = {Role.MODEL: size}
    return Footprint("m:1", "m", "cpu", False, side, side, weights, learned=Learned(**learned))


def killed(**details: object) -> EngineOutOfMemoryError:
    usual = {"oom_killer": Killed.NOTHING, "ram_bytes": None, "ram_free": None}
    return EngineOutOfMemoryError("The engine was killed (SIGKILL).", details=usual | details)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EngineOutOfMemoryError("CUDA error: out of memory"), True),
        (killed(oom_killer=Killed.GROUP), True),
        (killed(oom_killer=None, ram_bytes=9 * GB, ram_free=10 * GB), True),
        (killed(ram_bytes=9 * GB, ram_free=10 * GB), True),
        (killed(ram_bytes=5 * GB, ram_free=10 * GB), False),
        (killed(ram_bytes=9 * GB), False),
        (killed(ram_free=10 * GB), False),
        (killed(oom_killer=Killed.MACHINE, ram_bytes=3 * GB, ram_free=10 * GB), True),
        (killed(oom_killer=Killed.MACHINE, ram_bytes=2 * GB, ram_free=10 * GB), False),
        (killed(oom_killer=Killed.MACHINE, ram_bytes=3 * GB), False),
        (killed(oom_killer=Killed.MACHINE, ram_free=10 * GB), False),
    ],
)
def test_a_kill_alone_proves_nothing(error: EngineOutOfMemoryError, expected: bool) -> None:
    assert ran_out(error) is expected


def test_where_the_kernel_ended_something_reads_as_a_word() -> None:
    assert json.dumps(killed(oom_killer=Killed.MACHINE).details["oom_killer"]) == '"machine"'


def test_of_a_kill_only_what_the_engine_had_is_known_to_be_too_little() -> None:
    supply = Supply(ram_free=10 * GB, vram_free=GB)
    assert too_little(EngineOutOfMemoryError("std::bad_alloc"), supply) == supply
    assert too_little(killed(ram_bytes=3 * GB), supply).ram_free == 3 * GB
    assert too_little(killed(), supply) == Supply()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed", "vram"),
        ("ROCm error: out of memory", "vram"),
        ("failed to allocate Vulkan0 buffer of size 12345", "vram"),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "vram"),
        ("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "vram"),
        ("ggml_aligned_malloc: insufficient memory (attempted to allocate 1921.00 MB)", "ram"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99999", "ram"),
        ("std::bad_alloc", "ram"),
        ("taesd alloc compute buffer failed", None),
    ],
)  # fmt: skip
def test_of_which_memory(message: str, kind: str | None) -> None:
    assert short_of(EngineOutOfMemoryError(message)) == kind


def test_a_kill_is_for_want_of_ram() -> None:
    assert short_of(killed(oom_killer=True)) == "ram"


@pytest.mark.parametrize(
    ("stage", "plan", "expected"),
    [
        ("decoding", TILED, True),
        ("decoding", MemoryPlan(diffusion_flash_attention=True), False),
        ("diffusion", MemoryPlan(diffusion_flash_attention=True), True),
        ("diffusion", TILED, False),
        ("loading", TILED, False),
        ("loading", MemoryPlan(offload_to_cpu=True), True),
        ("decoding", MemoryPlan(evictions=("ollama",)), True),
        (None, TILED, True),
    ],
)
def test_a_plan_helps_where_memory_ran_out(stage: object, plan: MemoryPlan, expected: bool) -> None:
    assert helps(stage, PLAIN, plan) is expected


def test_small_runs_are_not_looked_at_until_they_fail() -> None:
    assert needs_no_look(footprint(), PLAIN)
    assert not needs_no_look(footprint(1024), PLAIN)
    assert not needs_no_look(footprint(size=GB), PLAIN)
    failed = {(512, 512, "plain"): Peak(too_small_ram=5)}
    assert not needs_no_look(footprint(peaks=failed), PLAIN)
    assert needs_no_look(footprint(peaks=failed), TILED)
    assert not needs_no_look(footprint(recommended={(512, 512): TILED}), PLAIN)


PLAIN_REQUEST = ImageRequest(prompt="a lighthouse")


def run_of(variant: str) -> Run:
    """On an engine that knows all ways to make previews, with a model that has a tiny autoencoder beside its VAE."""
    capabilities = Capabilities(preview_methods=("proj", "tae", "vae"))
    engine = EngineBinary(
        Path("e"), variant, "1", "built", "0" * 64, capabilities, datetime(2026, 1, 1, tzinfo=UTC)
    )
    model = ModelFiles("m", {Role.DIFFUSION_MODEL: Path("d"), Role.TAE: Path("t")})
    settings = Settings.from_environment({})
    return Run("", PLAIN_REQUEST, engine, model, PLAIN, settings, EstimateStore(Path("e.json")))


@pytest.mark.parametrize(
    ("fields", "variant", "expected"),
    [
        ({}, "cuda", False),
        ({"init_image": b"picture"}, "cpu", True),
        ({"loras": [Lora(name="ink")]}, "cpu", True),
        ({"prompt": "a lighthouse <lora:ink:1>"}, "cpu", True),
        ({"prompt": "a <lighthouse>"}, "cpu", False),
        ({"previews": PreviewOptions(method="tae")}, "cpu", True),
        ({"previews": PreviewOptions(method="vae")}, "cpu", True),
        ({"previews": PreviewOptions(method="proj")}, "cuda", False),
        ({"previews": PreviewOptions()}, "cpu", False),
        ({"previews": PreviewOptions()}, "cuda", True),
    ],
)
def test_what_needs_memory_of_its_own_is_an_extra(
    fields: dict[str, object], variant: str, expected: bool
) -> None:
    request = ImageRequest(**{"prompt": PLAIN_REQUEST.prompt} | fields)
    assert has_extras(run_of(variant), request) is expected


def test_a_retry_is_explained_in_one_sentence() -> None:
    assert explain_retry(TILED, MemoryPlan(vae_tiling=True, evictions=("a", "b"))) == (
        "The engine ran out of memory with --vae-tiling and starts once more with --vae-tiling "
        "after a and b were put aside."
    )


def test_the_hint_names_what_is_left_to_do(home: Settings) -> None:
    error = EngineOutOfMemoryError("It ran out.", details={"exit_code": 1})
    smaller = smaller_model("sd-turbo", 10 * GB, home)
    assert smaller is not None
    given_up = explain_given_up(error, [PLAIN, TILED], MemoryChoices(), footprint(), smaller)
    assert given_up.message == error.message
    assert given_up.hint == (
        f"Ask for a smaller picture than 512x512 or use the model {smaller[0]!r} ({smaller[1] / GB:.1f} GB); "
        "it was tried without memory flags, then with --vae-tiling."
    )
    assert given_up.details == {"exit_code": 1, "tried": [[], ["--vae-tiling"]]}
    for choices in (PLAIN, MemoryChoices(vae_tiling=False)):
        ruled_out = explain_given_up(error, [PLAIN], choices, footprint(), None)
        assert "or leave the choice of memory flags to sdmanager" in (ruled_out.hint or "")


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        ([PLAIN, MemoryPlan(evictions=("ollama",))], "without memory flags, then with ollama put aside"),
        (
            [MemoryPlan(evictions=("a",)), MemoryPlan(evictions=("a", "b", "c"))],
            "without memory flags and with a put aside, then with b and c put aside",
        ),
        (
            [TILED, MemoryPlan(offload_to_cpu=True, evictions=("a",))],
            "with --vae-tiling, then with --offload-to-cpu and with a put aside",
        ),
        (
            [MemoryPlan(evictions=("a",)), MemoryPlan(vae_tiling=True, evictions=("a",))],
            "without memory flags and with a put aside, then with --vae-tiling",
        ),
    ],
)
def test_the_hint_names_who_was_put_aside_for_each_try(tried: list[MemoryPlan], words: str) -> None:
    error = EngineOutOfMemoryError("It ran out.")
    given_up = explain_given_up(error, tried, MemoryChoices(), footprint(), None)
    assert (given_up.hint or "").endswith(f"; it was tried {words}.")
