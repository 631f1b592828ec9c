"""Pulls and removals of models that share files, at the same time."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading

import pytest
from pulling import PARTS, SIZE, WHOLE

from sdmanager.errors import ModelChangedError, StorageError
from sdmanager.models import Family, ModelStore
from sdmanager.models._pull_journal import Journal, Noted


@pytest.fixture
def held(pulling):
    """Holds a file in the middle of its transfer, until it is let go."""
    made = []

    def hold(repo: str, path: str):
        knobs = pulling.knobs(repo, path)
        knobs.hold, knobs.held_after = threading.Event(), SIZE // 2
        made.append(knobs)
        return knobs

    yield hold
    for knobs in made:
        knobs.hold.set()


async def reached(knobs) -> None:
    assert await asyncio.to_thread(knobs.reached.wait, 30)


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def has_shared(pulling) -> bool:
    return {"llm.safetensors", "vae.safetensors", "tae.safetensors"} <= set(pulling.left())


def begin_parts(pulling, **options):
    return asyncio.create_task(pulling.pull(*pulling.parts(), family=Family.Z_IMAGE, **options))


def begin_other(pulling, **options):
    """Another model with the same parts but one."""
    return asyncio.create_task(pulling.pull(*pulling.parts()[1:], pulling.file(), name="other", **options))


def check_and_remove(pulling, model) -> None:
    """The model is whole, and nothing stays once it is removed."""
    store = ModelStore(pulling.settings)
    store.check(store.find(model.name))
    assert all(file.owned for file in model.files)
    store.remove(model.name)
    assert pulling.left() == []
    assert not list((pulling.settings.state_dir / "pulls").glob("*.json"))


@pytest.mark.parametrize("which", ["first", "second"])
async def test_one_of_two_that_share_files_is_broken_off(pulling, held, which):
    """The second found the files that the first had fetched by then."""
    knobs = held(PARTS, "diffusion_model.safetensors"), held(WHOLE, "model.safetensors")
    first = begin_parts(pulling)
    await reached(knobs[0])
    await until(lambda: has_shared(pulling))
    second = begin_other(pulling)
    await reached(knobs[1])
    gone, stays = (first, second) if which == "first" else (second, first)
    await cancel(gone)
    for each in knobs:
        each.hold.set()
    check_and_remove(pulling, await stays)


async def test_one_of_two_that_fetch_the_same_file_is_broken_off(pulling, held):
    knobs = held(PARTS, "llm.safetensors")
    first = begin_parts(pulling)
    await reached(knobs)
    second = begin_other(pulling)
    await until(lambda: len(list((pulling.settings.state_dir / "pulls").glob("*.json"))) == 2)
    await cancel(first)
    knobs.hold.set()
    check_and_remove(pulling, await second)


async def test_both_are_broken_off(pulling, held):
    knobs = held(PARTS, "diffusion_model.safetensors"), held(WHOLE, "model.safetensors")
    first = begin_parts(pulling)
    await reached(knobs[0])
    await until(lambda: has_shared(pulling))
    second = begin_other(pulling)
    await reached(knobs[1])
    await cancel(first)
    assert has_shared(pulling)
    await cancel(second)
    assert pulling.left() == []


async def test_a_model_that_shares_files_is_removed_during_a_pull(pulling, held):
    other = await begin_other(pulling)
    knobs = held(PARTS, "diffusion_model.safetensors")
    task = begin_parts(pulling)
    await reached(knobs)
    removed = ModelStore(pulling.settings).remove("other")
    assert set(removed.kept) == {file.path for file in other.files if file.repo == PARTS}
    knobs.hold.set()
    check_and_remove(pulling, await task)


async def test_a_model_is_removed_while_it_is_fetched_again(pulling, held):
    model = await begin_parts(pulling)
    knobs = held(PARTS, "diffusion_model.safetensors")
    task = begin_parts(pulling, force=True)
    await reached(knobs)
    await until(lambda: sum(file.path.stat().st_mtime_ns != file.mtime_ns for file in model.files) == 3)
    ModelStore(pulling.settings).remove("whole")
    knobs.hold.set()
    check_and_remove(pulling, await task)


async def test_a_model_that_was_being_fetched_again_is_as_it_was_when_that_is_broken_off(pulling, held):
    model = await begin_parts(pulling)
    other = await begin_other(pulling)
    before = {file.path: file.mtime_ns for file in model.files}
    knobs = held(PARTS, "diffusion_model.safetensors")
    task = begin_parts(pulling, force=True)
    await reached(knobs)
    await until(lambda: sum(path.stat().st_mtime_ns != mtime for path, mtime in before.items()) == 3)
    await cancel(task)
    store = ModelStore(pulling.settings)
    for name in (model.name, other.name):
        store.check(store.find(name))


async def test_a_file_that_was_damaged_stays_so_when_its_pull_is_broken_off(pulling, held):
    model = await begin_parts(pulling)
    damaged = model.files[0].path.resolve()
    damaged.write_bytes(bytes(model.files[0].size))
    knobs = held(PARTS, "diffusion_model.safetensors")
    task = begin_parts(pulling, force=True)
    await reached(knobs)
    await cancel(task)
    with pytest.raises(ModelChangedError, match="changed"):
        ModelStore(pulling.settings).check(ModelStore(pulling.settings).find("whole"))


async def test_a_file_that_somebody_deletes_meanwhile(pulling, held):
    knobs = held(PARTS, "diffusion_model.safetensors")
    task = begin_parts(pulling)
    await reached(knobs)
    await until(lambda: has_shared(pulling))
    await asyncio.sleep(1)  # its digest may still be taken; a file that goes before is fetched once more
    (link,) = pulling.cache.rglob("llm.safetensors")
    link.resolve().unlink()
    link.unlink()
    knobs.hold.set()
    with pytest.raises(StorageError, match=r"llm\.safetensors.*removed meanwhile") as caught:
        await task
    assert "Pull it again" in caught.value.hint
    await begin_parts(pulling)


async def test_a_folder_that_somebody_deletes_before_the_file_is_linked(pulling, held):
    knobs = held(WHOLE, "model.safetensors")
    task = asyncio.create_task(pulling.pull())
    await reached(knobs)
    (folder,) = pulling.cache.glob("models--*/snapshots")
    shutil.rmtree(folder)
    knobs.hold.set()
    model = await task
    assert model.files[0].path.read_bytes() == knobs.data
    assert len(pulling.hub.transfers()) == 1
    check_and_remove(pulling, model)


async def test_a_folder_that_a_pull_will_need_stays(pulling):
    """Of one that was planned, and of which nothing has come."""
    path = (await pulling.pull()).files[0].path
    journal = Journal(pulling.settings.state_dir / "pulls" / "another.json")
    journal.write([Noted(str(path.with_name("other.safetensors")), None)], ())
    ModelStore(pulling.settings).remove("whole")
    assert not path.exists()
    assert path.parent.is_dir()


async def test_a_removal_that_fails_can_be_run_again(pulling, small_disk, monkeypatch):
    folder = small_disk(100_000_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    await pulling.pull()
    store = ModelStore(pulling.settings)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(StorageError, match="cannot be deleted") as caught:
        store.remove("whole")
    assert "remove" in caught.value.hint
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    assert len(store.remove("whole").deleted) == 1
    assert not list(folder.rglob("model.safetensors"))
