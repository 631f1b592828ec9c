"""Whether a model fits the memory: what is asked, of whom, and when."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import weights

from sdmanager import ImageRequest, LocalGenerator
from sdmanager.engine import ensure_binary
from sdmanager.engine.fitting import check_fits
from sdmanager.errors import InsufficientResourcesError, ModelNotFoundError, ModelUnsupportedError
from sdmanager.generation import Event, Failed, MemoryPlan
from sdmanager.hardware import Gpu, HardwareSnapshot
from sdmanager.models import ModelDefaults, ModelFiles, Role, demo_model, load_catalog, need_of
from sdmanager.settings import Settings

GB = 10**9
HUGE = 900 * GB


def sparse(path: Path, size: int) -> Path:
    """A whole and valid file of that size, of a kind that nobody knows; it takes no room."""
    return weights.write(path, weights.safetensors_header({"nobody.knows": ("U8", (size,))}))


class Machine:
    """Looks at a machine that is not here, and counts how often."""

    def __init__(self, ram: int, *vram: int) -> None:
        self.looks = 0
        gpus = tuple(Gpu("nvidia", "Card", size, size, "580.65", unified_memory=False) for size in vram)
        self._snapshot = HardwareSnapshot("linux-x64", "", None, 8, 16, ram, ram, None, gpus, ())

    async def look(self, settings: Settings) -> HardwareSnapshot:
        del settings
        self.looks += 1
        return self._snapshot


@pytest.fixture
def huge(tmp_path: Path) -> ModelFiles:
    """Fits no machine that tests run on."""
    return ModelFiles("huge", {Role.MODEL: sparse(tmp_path / "huge.safetensors", HUGE)})


# --- what is asked


async def test_for_a_graphics_card_its_memory_counts(home: Settings, tmp_path: Path) -> None:
    files = {
        Role.DIFFUSION_MODEL: sparse(tmp_path / "d", 12 * GB),
        Role.LLM: sparse(tmp_path / "l", 4 * GB),
    }
    model = ModelFiles("m", files)
    for vram, plan, fits in (
        (24, MemoryPlan(), True),
        (14, MemoryPlan(), False),
        (14, MemoryPlan(offload_to_cpu=True), True),
        (8, MemoryPlan(offload_to_cpu=True), False),
    ):
        machine = Machine(64 * GB, vram * GB)
        if fits:
            await check_fits(model, plan, home, "cuda", look=machine.look)
        else:
            with pytest.raises(InsufficientResourcesError, match="VRAM") as caught:
                await check_fits(model, plan, home, "cuda", look=machine.look)
            assert "--" in (caught.value.hint or "")
        assert machine.looks == 1


async def test_the_size_of_the_models_pictures_refuses_nothing(home: Settings, tmp_path: Path) -> None:
    """A request may ask for smaller ones."""
    files = {Role.DIFFUSION_MODEL: sparse(tmp_path / "d", 4 * GB)}
    model = ModelFiles("m", files, ModelDefaults(width=4096, height=4096))
    await check_fits(model, MemoryPlan(), home, "vulkan", look=Machine(64 * GB, 6 * GB).look)
    with pytest.raises(InsufficientResourcesError) as caught:
        await check_fits(model, MemoryPlan(), home, "vulkan", look=Machine(GB, GB).look)
    assert caught.value.details["working_bytes"] == need_of({}, 64, 64).working


async def test_what_the_files_are_in_counts(home: Settings, tmp_path: Path) -> None:
    """A diffusion model in F32 takes half the memory of its file."""
    files = {Role.DIFFUSION_MODEL: sparse(tmp_path / "d", 10 * GB)}
    for quantisation, fits in (("F32", True), ("F16", False), (None, False)):
        model = ModelFiles("m", files, quantisations={Role.DIFFUSION_MODEL: quantisation})
        look = Machine(64 * GB, 6 * GB).look
        if fits:
            await check_fits(model, MemoryPlan(), home, "cuda", look=look)
        else:
            with pytest.raises(InsufficientResourcesError):
                await check_fits(model, MemoryPlan(), home, "cuda", look=look)


async def test_a_file_that_is_not_there_is_told_as_such(home: Settings, tmp_path: Path) -> None:
    model = ModelFiles("m", {Role.MODEL: tmp_path / "gone.gguf"})
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        await check_fits(model, MemoryPlan(), home, "cpu")


async def test_on_a_cpu_this_machines_ram_counts_and_no_driver_is_asked(
    home: Settings, huge: ModelFiles, tmp_path: Path
) -> None:
    machine = Machine(1, 1)
    medium = ModelFiles("m", {Role.MODEL: sparse(tmp_path / "m.safetensors", 300_000_000)})
    await check_fits(medium, MemoryPlan(), home, "cpu", look=machine.look)
    with pytest.raises(InsufficientResourcesError, match="RAM") as caught:
        await check_fits(huge, MemoryPlan(), home, "cpu", look=machine.look)
    assert caught.value.details["resource"] == "ram"
    assert machine.looks == 0


async def test_small_models_and_engines_of_the_users_own_are_not_asked_about(
    home: Settings, huge: ModelFiles, settings: Settings
) -> None:
    machine = Machine(1, 1)
    for variant in ("cpu", "cuda", "custom"):
        await check_fits(demo_model(settings), MemoryPlan(), home, variant, look=machine.look)
    await check_fits(huge, MemoryPlan(), home, "custom", look=machine.look)
    assert machine.looks == 0


@pytest.fixture
def z_image(tmp_path: Path) -> dict[Role, Path]:
    """The largest option of a model of the catalogue: 12 GB, with a text encoder of 8 GB."""
    found = load_catalog().find("z-image-turbo:bf16")
    assert found is not None
    return {role: sparse(tmp_path / role, size) for role, size in found[1].sizes.items()}


async def test_a_smaller_option_or_model_of_the_catalogue_is_named(
    home: Settings, z_image: dict[Role, Path]
) -> None:
    machine = Machine(8 * GB, 8 * GB)
    for name, expected in (
        ("z-image-turbo:bf16", "Use 'z-image-turbo:q4_k_m' (7.9 GB)"),
        ("my-own", "Use 'z-image-turbo:q4_k_m' (7.9 GB)"),
    ):
        with pytest.raises(InsufficientResourcesError) as caught:
            await check_fits(ModelFiles(name, z_image), MemoryPlan(), home, "cuda", look=machine.look)
        assert (caught.value.hint or "").startswith(expected)


async def test_the_model_itself_is_never_named(home: Settings, tmp_path: Path) -> None:
    """Although with a file beside it, it is larger than its entry in the catalogue; others that fit are."""
    found = load_catalog().find("z-image-turbo")
    assert found is not None
    files = {role: sparse(tmp_path / role, size) for role, size in found[1].sizes.items()}
    files[Role.TAE] = sparse(tmp_path / "tae", 10_000_000)
    machine = Machine(3 * GB, 3 * GB)
    for name in ("z-image-turbo", f"z-image-turbo:{found[1].name}"):
        with pytest.raises(InsufficientResourcesError) as caught:
            await check_fits(ModelFiles(name, files), MemoryPlan(), home, "cuda", look=machine.look)
        assert caught.value.hint == "Use 'sd-turbo' (2.0 GB), which should fit."


async def test_a_broken_catalogue_does_not_hide_the_reason(
    home: Settings, tmp_path: Path, z_image: dict[Role, Path]
) -> None:
    broken = tmp_path / "catalog.json"
    broken.write_text("{")
    own, model = replace(home, catalog=broken), ModelFiles("z-image-turbo:bf16", z_image)
    with pytest.raises(InsufficientResourcesError, match="VRAM"):
        await check_fits(model, MemoryPlan(), own, "cuda", look=Machine(8 * GB, 8 * GB).look)


# --- when


async def test_a_model_that_does_not_fit_is_refused_before_the_engine_starts(
    settings: Settings, huge: ModelFiles
) -> None:
    generator = LocalGenerator(huge, settings=settings)
    with pytest.raises(InsufficientResourcesError, match="'huge'"):
        await generator.prepare()
    events: list[Event] = []
    with pytest.raises(InsufficientResourcesError) as caught:
        await generator.generate(ImageRequest(prompt="x"), events.append)
    assert [event.error for event in events if isinstance(event, Failed)] == [caught.value]
    assert not list(settings.jobs_dir.glob("*"))


async def test_who_insists_gets_the_engines_own_answer(settings: Settings, huge: ModelFiles) -> None:
    generator = LocalGenerator(huge, settings=settings, ignore_fit=True)
    await generator.prepare()
    with pytest.raises(ModelUnsupportedError):
        await generator.generate(ImageRequest(prompt="x", width=64, height=64, steps=1))


async def test_a_model_that_does_not_fit_is_no_proof_of_an_engine(
    settings: Settings, huge: ModelFiles
) -> None:
    ensured = await ensure_binary(settings, model=huge, force_validation=True)
    assert (ensured.proof.proven, ensured.proof.model, ensured.proof.note) == (True, "demo", None)


async def test_it_is_asked_once_and_again_when_the_model_is_another_one(
    settings: Settings, tmp_path: Path
) -> None:
    path = sparse(tmp_path / "m.safetensors", 1 << 20)
    generator = LocalGenerator(path, settings=settings)
    await generator.prepare()
    sparse(path, HUGE)
    with pytest.raises(InsufficientResourcesError):
        await generator.prepare()


async def test_it_costs_a_small_model_nothing(settings: Settings) -> None:
    model = demo_model(settings)
    began = time.process_time()
    for _ in range(100):
        await check_fits(model, MemoryPlan(), settings, "cuda")
    assert time.process_time() - began < 1  # 50 ms are usual
