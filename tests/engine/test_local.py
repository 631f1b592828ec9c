"""``LocalGenerator``: what it makes ready, and what it says when it cannot."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sdmanager import ImageGenerator, ImageRequest, LocalGenerator
from sdmanager.binaries import in_use, read_book
from sdmanager.errors import (
    BuildToolsMissingError,
    EngineCrashedError,
    EngineNotFoundError,
    ModelNotFoundError,
)
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


async def test_an_engine_that_refuses_the_demo_model_is_proven_by_the_first_picture(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(settings, engine=fake_engine)
    monkeypatch.setenv("FAKE_ENGINE", "refuses")
    generator = LocalGenerator(settings=own)
    await generator.prepare()
    ensured = in_use(own)
    assert ensured is not None
    assert not ensured.proof.proven
    assert "refuses the demo model" in (ensured.proof.note or "")

    monkeypatch.setenv("FAKE_ENGINE", "draws")
    await generator.generate(request())
    proven = in_use(own)
    assert proven is not None
    assert (proven.proof.proven, proven.proof.width) == (True, 64)


async def test_an_unproven_engine_that_fails_at_the_first_picture_is_not_trusted(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(settings, engine=fake_engine)
    monkeypatch.setenv("FAKE_ENGINE", "refuses")
    generator = LocalGenerator(settings=own)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "segv")
    with pytest.raises(EngineCrashedError):
        await generator.generate(request())
    assert in_use(own) is None
    book = read_book(own)
    assert book is not None
    assert [verdict.code for key, verdict in book.verdicts.items() if key.startswith("own/")] == [
        "ENGINE_CRASHED"
    ]
