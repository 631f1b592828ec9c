"""``LocalGenerator``: what it makes ready, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from loras import write_lora

from sdmanager import ImageGenerator, ImageRequest, LocalGenerator, PreviewOptions
from sdmanager.binaries import in_use, read_book
from sdmanager.errors import (
    BuildToolsMissingError,
    EngineCrashedError,
    EngineNotFoundError,
    InvalidRequestError,
    ModelCorruptError,
    ModelNotFoundError,
)
from sdmanager.generation import Event, Failed, Lora, Progress
from sdmanager.models import ModelFiles, Role, demo_model
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


# --- what is known once it is ready


async def test_engine_and_model_are_known_once_it_is_prepared(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    assert generator.binary is generator.model is None
    binary = await generator.prepare()
    assert generator.binary is binary
    assert generator.model is not None
    assert generator.model.name == "demo"


async def test_validation_can_be_forced(settings: Settings) -> None:
    def tested_at() -> list[str]:
        book = read_book(settings)
        assert book is not None
        return [verdict.tested_at for verdict in book.verdicts.values()]

    generator = LocalGenerator(settings=settings)
    await generator.prepare()
    before = tested_at()
    await generator.prepare()
    assert tested_at() == before
    await generator.prepare(force_validation=True)
    assert tested_at() != before


# --- before a request is accepted

IMPOSSIBLE = {
    "sampler": ({"sampler": "eulr"}, "knows no sampler"),
    "scheduler": ({"scheduler": "kras"}, "knows no scheduler"),
    "lora": ({"loras": [Lora(name="none")]}, "not in the folder"),
    "tag": ({"prompt": "x <lora:none:1>"}, "not in the folder"),
    "path": ({"prompt": "x <lora:/etc/passwd:1>"}, "not by a path"),
    "prompt": ({"prompt": "x" * 200_000}, "longer than"),
    "previews": ({"previews": PreviewOptions(method="tae")}, "tiny autoencoder"),
}


@pytest.fixture
def whole_model(settings: Settings) -> ModelFiles:
    """A model without a tiny autoencoder; it need not draw."""
    return ModelFiles("whole", {Role.MODEL: demo_model(settings).files[Role.DIFFUSION_MODEL]})


@pytest.mark.parametrize("what", IMPOSSIBLE)
async def test_what_cannot_be_done_is_found_out_before_and_by_the_run_alike(
    settings: Settings, whole_model: ModelFiles, what: str
) -> None:
    fields, words = IMPOSSIBLE[what]
    generator = LocalGenerator(whole_model, settings=settings)
    impossible = ImageRequest(**{"prompt": "x", **fields})
    generator.check(impossible)  # nothing is known yet
    await generator.prepare()
    with pytest.raises(InvalidRequestError, match=words) as early:
        generator.check(impossible)
    with pytest.raises(InvalidRequestError, match=words) as late:
        await generator.generate(impossible)
    assert (early.value.message, early.value.hint) == (late.value.message, late.value.hint)
    assert not list(settings.jobs_dir.glob("*"))


async def test_what_can_be_done_passes_at_once(settings: Settings, tmp_path: Path) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "a.safetensors")
    generator = LocalGenerator(settings=own)
    await generator.prepare()
    possible = ImageRequest(
        prompt="x <lora:a:1>", sampler="euler", scheduler="karras", previews=PreviewOptions(method="tae")
    )
    began = time.process_time()
    for _ in range(100):
        generator.check(possible)
    assert time.process_time() - began < 2  # a hundredth of it is usual
    assert not settings.jobs_dir.exists() or not list(settings.jobs_dir.iterdir())


# --- files that change while the generator lives


@pytest.fixture
def own_model(settings: Settings, tmp_path: Path) -> ModelFiles:
    """The demo model's files in a folder of the test's own."""
    files = {role: Path(shutil.copy(path, tmp_path)) for role, path in demo_model(settings).files.items()}
    return ModelFiles("own", files)


async def test_a_model_that_is_gone_is_noticed_before_the_engine_starts(
    settings: Settings, own_model: ModelFiles
) -> None:
    generator = LocalGenerator(own_model, settings=settings)
    await generator.prepare()
    own_model.files[Role.TAE].unlink()
    events: list[Event] = []
    with pytest.raises(ModelNotFoundError, match="tae"):
        await generator.generate(request(), events.append)
    assert [type(event) for event in events] == [Failed]
    assert not list(settings.jobs_dir.glob("*"))


async def test_a_model_that_is_replaced_is_looked_at_again(settings: Settings, own_model: ModelFiles) -> None:
    generator = LocalGenerator(own_model, settings=settings)
    await generator.prepare()
    await generator.generate(request())
    own_model.files[Role.TAE].write_bytes(b"")
    with pytest.raises(ModelCorruptError, match="empty"):
        await generator.generate(request())
    with pytest.raises(ModelCorruptError, match="empty"):
        await generator.prepare()
    shutil.copy(demo_model(settings).files[Role.TAE], own_model.files[Role.TAE])
    assert (await generator.generate(request())).model == "own"


# --- what was learned


async def test_another_generator_knows_how_long_it_will_take_from_the_start(settings: Settings) -> None:
    """Kept on the disk by model, engine and size; another size is scaled from it, another model knows nothing."""

    async def first_eta(generator: LocalGenerator, **fields: object) -> float | None:
        events: list[Event] = []
        await generator.generate(request().model_copy(update=fields), events.append)
        return next(event.eta_seconds for event in events if isinstance(event, Progress))

    assert await first_eta(LocalGenerator(settings=settings)) is None
    known = await first_eta(LocalGenerator(settings=settings))
    assert known is not None
    assert known > 0
    larger = await first_eta(LocalGenerator(settings=settings), width=128, height=128)
    assert larger is not None
    other = ModelFiles("other", demo_model(settings).files)
    assert await first_eta(LocalGenerator(other, settings=settings)) is None
