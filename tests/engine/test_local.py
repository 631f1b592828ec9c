"""``LocalGenerator``: what it makes ready, and what it says when it cannot."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sdmanager import ImageGenerator, ImageRequest, LocalGenerator
from sdmanager.engine import prove_engine
from sdmanager.errors import BlankImageError, BuildToolsMissingError, EngineNotFoundError, ModelNotFoundError
from sdmanager.settings import Settings


def request() -> ImageRequest:
    return ImageRequest(prompt="a lighthouse", width=64, height=64, steps=2, seed=7)


async def test_it_is_an_image_generator(settings: Settings) -> None:
    assert isinstance(LocalGenerator(settings=settings), ImageGenerator)


async def test_availability(settings: Settings, home: Settings, tmp_path: Path) -> None:
    assert await LocalGenerator(settings=settings).is_available()
    assert not await LocalGenerator(settings=home).is_available()
    assert not await LocalGenerator(tmp_path / "none.gguf", settings=settings).is_available()
    assert not await LocalGenerator(engine=tmp_path / "none", settings=settings).is_available()


async def test_preparing_twice_at_once_is_one_preparation(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    first, second = await asyncio.gather(generator.prepare(), generator.prepare())
    assert first is second


async def test_the_model_is_looked_at_before_an_engine_is_built(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        await LocalGenerator(tmp_path / "none.gguf", settings=home).prepare()


async def test_without_an_engine_and_without_tools_the_tools_are_named(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BuildToolsMissingError, match="compiler"):
        await LocalGenerator(settings=home).generate(request())


async def test_the_users_own_engine_is_never_silently_replaced(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError):
        await LocalGenerator(settings=replace(settings, engine=tmp_path / "none")).prepare()


async def test_the_users_own_engine_draws(settings: Settings) -> None:
    installed = await LocalGenerator(settings=settings).prepare()
    result = await LocalGenerator(engine=installed.path, settings=settings).generate(request())
    assert result.variant == "custom"


async def test_an_engine_that_is_removed_meanwhile_is_looked_for_again(
    settings: Settings, fake_engine: Path
) -> None:
    generator = LocalGenerator(engine=fake_engine, settings=settings)
    await generator.generate(request())
    fake_engine.unlink()
    with pytest.raises(EngineNotFoundError):
        await generator.generate(request())


async def test_a_proof_is_a_picture_and_not_a_help_text(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await LocalGenerator(settings=settings).prepare()
    proof = await prove_engine(engine, settings)
    assert (proof.model, proof.width, proof.steps) == ("demo", 64, 4)
    monkeypatch.setenv("FAKE_ENGINE", "grey")
    grey = await LocalGenerator(engine=fake_engine, settings=settings).prepare()
    with pytest.raises(BlankImageError):
        await prove_engine(grey, settings)
