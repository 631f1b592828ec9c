"""A picture proves an engine; what else comes of it is told apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sdmanager.binaries import EngineBinary, inspect_engine
from sdmanager.engine import draw_proof, prove_engine
from sdmanager.engine.patience import Patience
from sdmanager.errors import (
    BlankImageError,
    EngineHungError,
    EngineOutOfMemoryError,
    ModelError,
    NoDeviceError,
    StorageError,
    TruncatedImageError,
)
from sdmanager.generation import MemoryPlan
from sdmanager.models import ModelFiles, Role, demo_model
from sdmanager.settings import Settings

SHORT = Patience(quiet=1.5, work=1.5, slow_after=1.0)


@pytest.fixture
async def fake(fake_engine: Path, settings: Settings) -> EngineBinary:
    return await inspect_engine(fake_engine, settings=settings)


@pytest.fixture
def own_model(tmp_path: Path) -> ModelFiles:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    return ModelFiles("mine", {Role.MODEL: path})


def nothing_is_left(settings: Settings) -> bool:
    jobs = list(settings.jobs_dir.iterdir()) if settings.jobs_dir.exists() else []
    return jobs == [] and psutil.Process().children(recursive=True) == []


async def test_the_real_engine_draws(engine: EngineBinary, settings: Settings) -> None:
    proof = await prove_engine(engine, settings)
    assert (proof.proven, proof.model, proof.width, proof.height, proof.steps) == (True, "demo", 64, 64, 4)
    assert proof.seconds > 0
    assert (proof.device, proof.note) == (None, None)
    assert nothing_is_left(settings)


async def test_with_the_memory_flags_that_would_be_used(engine: EngineBinary, settings: Settings) -> None:
    plan = MemoryPlan(offload_to_cpu=True, vae_tiling=True, clip_on_cpu=True, diffusion_flash_attention=True)
    assert (await prove_engine(engine, settings, plan=plan)).proven


@pytest.mark.parametrize("variant", ["cuda", "vulkan", "rocm", "metal"])
async def test_an_engine_for_an_accelerator_that_drew_on_the_cpu_is_not_proven(
    engine: EngineBinary, settings: Settings, variant: str
) -> None:
    with pytest.raises(NoDeviceError, match=f"{variant} engine found no device"):
        await prove_engine(replace(engine, variant=variant), settings)


@pytest.mark.parametrize(
    ("mode", "expected"), [("grey", BlankImageError), ("truncated", TruncatedImageError)]
)
async def test_exit_code_zero_is_no_proof(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch, mode: str, expected: type
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", mode)
    with pytest.raises(expected):
        await prove_engine(fake, settings)


@pytest.mark.parametrize(("mode", "words"), [("hang", "no sign of life"), ("spin", "no progress")])
async def test_an_engine_that_hangs_is_ended(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", mode)
    with pytest.raises(EngineHungError, match=words):
        await prove_engine(fake, settings, patience=SHORT)
    assert nothing_is_left(settings)


async def test_a_slow_disk_is_told_and_is_no_failure(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "crawl@loading")
    proof = await prove_engine(fake, settings, patience=SHORT)
    assert (proof.proven, proof.slow) == (True, True)


async def test_a_model_that_the_engine_refuses_says_nothing_against_the_engine(
    engine: EngineBinary, settings: Settings, own_model: ModelFiles
) -> None:
    proof = await prove_engine(engine, settings, own_model)
    assert (proof.proven, proof.model) == (True, "demo")
    assert "not with the model 'mine'" in (proof.note or "")
    with pytest.raises(ModelError):
        await draw_proof(engine, settings, own_model)


async def test_neither_does_one_that_is_too_large(
    fake: EngineBinary, settings: Settings, own_model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "toolarge")
    proof = await prove_engine(fake, settings, own_model)
    assert (proof.proven, proof.model) == (True, "demo")
    assert "out of memory" in (proof.note or "")
    with pytest.raises(EngineOutOfMemoryError):
        await draw_proof(fake, settings, own_model)


@pytest.mark.parametrize("mode", ["segvmine", "greymine"])
async def test_neither_does_one_that_crashes_it_or_comes_out_grey(
    fake: EngineBinary,
    settings: Settings,
    own_model: ModelFiles,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", mode)
    proof = await prove_engine(fake, settings, own_model)
    assert (proof.proven, proof.model) == (True, "demo")
    assert "not with the model 'mine'" in (proof.note or "")


async def test_neither_do_memory_flags_that_it_cannot_draw_with(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "segvtiling")
    proof = await prove_engine(fake, settings, plan=MemoryPlan(vae_tiling=True))
    assert proof.proven
    assert "memory flags" in (proof.note or "")


async def test_a_model_that_works_is_the_proof(engine: EngineBinary, settings: Settings) -> None:
    mine = replace(demo_model(settings), name="mine")
    assert (await prove_engine(engine, settings, mine)).model == "mine"


async def test_an_engine_that_refuses_the_demo_model_is_left_unproven(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "refuses@loading")
    proof = await prove_engine(fake, settings)
    assert not proof.proven
    assert "refuses the demo model" in (proof.note or "")


async def test_a_full_disk_is_no_failure_of_the_engine(
    engine: EngineBinary, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    with pytest.raises(StorageError):
        await prove_engine(engine, replace(settings, cache_dir=tmp_path / "file" / "cache"))


async def test_cancelling_leaves_nothing(
    fake: EngineBinary, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    task = asyncio.create_task(prove_engine(fake, replace(settings, stop_grace=0.1)))
    while not psutil.Process().children(recursive=True):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nothing_is_left(settings)
