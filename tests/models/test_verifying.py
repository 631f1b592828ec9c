"""Reading an installed model again: what is as it was, what is not, and what is learned."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from model_parts import make, sha256_of

from sdmanager.errors import ModelChangedError, ModelCorruptError, ModelError, ModelNotFoundError
from sdmanager.models.importing import import_model
from sdmanager.models.installed import InstalledModel, Origin
from sdmanager.models.store import ModelStore
from sdmanager.models.verifying import verify_model
from sdmanager.settings import Settings


@pytest.fixture
def store(home: Settings) -> ModelStore:
    return ModelStore(home)


@pytest.fixture
async def model(home: Settings, tmp_path) -> InstalledModel:
    """Of two files, imported where they lie."""
    files = [make(tmp_path / "x.gguf", "sd1"), make(tmp_path / "vae.gguf", "vae")]
    return await import_model(files, home)


async def test_a_digest_that_was_not_known_is_written_down(home, model, store):
    assert [file.sha256 for file in model.files] == [None, None]
    verified = await verify_model("X", home)
    assert [file.sha256 for file in verified.files] == [sha256_of(file.path) for file in model.files]
    assert store.find("x") == verified
    assert await verify_model("x", home) == verified


async def test_a_file_that_was_only_touched_is_accepted(home, model, store):
    await verify_model("x", home)
    os.utime(model.files[0].path, ns=(1, 1))
    with pytest.raises(ModelChangedError):
        store.check(store.find("x"))
    await verify_model("x", home)
    store.check(store.find("x"))


async def test_a_file_that_was_touched_before_it_was_ever_read_is_not(home, model, store):
    """Nobody knows what was in it."""
    os.utime(model.files[0].path, ns=(1, 1))
    with pytest.raises(ModelChangedError, match=r"The model file 'x\.gguf' of the model 'x' was changed"):
        await verify_model("x", home)
    assert store.find("x") == model


@pytest.mark.parametrize("keep_time", [False, True])
async def test_other_content_of_the_same_size(home, model, store, keep_time):
    verified = await verify_model("x", home)
    path = model.files[0].path
    before = path.stat()
    make(path, "sd1", salt=1)
    assert path.stat().st_size == before.st_size
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        store.check(verified)  # it cannot see this
    with pytest.raises(ModelChangedError) as caught:
        await verify_model("x", home)
    assert caught.value.details["sha256"] == sha256_of(path) != caught.value.details["expected"]
    assert store.find("x") == verified


async def test_another_size(home, model):
    os.truncate(model.files[1].path, 10)
    with pytest.raises(ModelChangedError, match="has 10 bytes in the place of"):
        await verify_model("x", home)


async def test_a_header_that_is_damaged(home, model):
    with model.files[0].path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 8)
    with pytest.raises(ModelCorruptError):
        await verify_model("x", home)


async def test_every_bad_file_is_told(home, model):
    os.truncate(model.files[0].path, 10)
    model.files[1].path.unlink()
    with pytest.raises(ModelError) as caught:
        await verify_model("x", home)
    told = [(each["code"], each["path"]) for each in caught.value.details["files"]]
    assert told == [
        ("MODEL_CHANGED", str(model.files[0].path)),
        ("MODEL_NOT_FOUND", str(model.files[1].path)),
    ]


async def test_what_to_do_depends_on_where_it_came_from(home, model, store):
    model.files[0].path.unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        await verify_model("x", home)
    assert "Import" in caught.value.hint
    store.add(replace(model, origin=Origin.PULLED))
    with pytest.raises(ModelNotFoundError) as caught:
        await verify_model("x", home)
    assert "models pull x --force" in caught.value.hint


async def test_a_model_that_is_not_installed(home):
    with pytest.raises(ModelNotFoundError, match="'nobody' is not installed"):
        await verify_model("nobody", home)


async def test_progress_counts_all_files_and_never_falls(home, model):
    seen: list[tuple[int, int]] = []
    await verify_model("x", home, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (model.size_bytes, model.size_bytes)


async def test_what_progress_raises_ends_it(home, tmp_path):
    path = make(tmp_path / "big.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(1 << 40)
    await import_model(path, home)

    def refuse(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await verify_model("big", home, on_progress=refuse)


async def test_cancelling_ends_the_reading(home, tmp_path, store):
    path = make(tmp_path / "big.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(1 << 40)  # no machine reads that in the time of a test
    await import_model(path, home)
    begun = asyncio.Event()
    task = asyncio.create_task(
        verify_model("big", home, on_progress=lambda done, total: done and begun.set())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.find("big").files[0].sha256 is None


async def test_a_file_that_is_written_to_meanwhile(home, tmp_path, store):
    path = make(tmp_path / "big.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(300 << 20)
    model = await import_model(path, home)
    with pytest.raises(ModelChangedError):
        await verify_model("big", home, on_progress=lambda done, total: os.utime(path))
    assert store.find("big") == model


async def test_a_model_that_is_removed_meanwhile_stays_removed(home, model, store):
    await verify_model("x", home, on_progress=lambda done, total: store.find("x") and store.remove("x"))
    assert store.list() == []
