"""What goes wrong with a gallery while a server draws: the generation succeeds, and nothing is half kept."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gallery import cancelled, kept, pictures, previewed, rows, whole
from scripted_generator import ScriptedGenerator, png, preview, result_of
from serving import serving

from sdmanager.errors import StorageError
from sdmanager.generation import GeneratedImage, ImageRequest
from sdmanager.history import History, _files
from sdmanager.history._gallery import Gallery
from sdmanager.jobs import GenerationRegistry, GenerationService, Status

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


def fill(disk: Path) -> Path:
    """Leave no room on it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler


async def drawn(served, generator: ScriptedGenerator, **fields) -> str:
    generator.tell(preview(1))
    generator.finish(result_of())
    name = await served.begin(**fields)
    assert (await served.until(name))["status"] == "complete"
    return name


async def test_a_full_disk_costs_the_gallery_and_not_the_generation(
    small_disk: Callable[[int], Path], tmp_path: Path, opened, caplog
) -> None:
    disk = small_disk(2 * 2**20)
    history = await opened(disk / "gallery")
    generator = ScriptedGenerator()
    async with serving(generator, tmp_path / "generations", history=history) as served:
        first = await drawn(served, generator)
        filler = fill(disk)
        with caplog.at_level(logging.WARNING, "sdmanager"):
            await drawn(served, generator, prompt="my secret lighthouse")
        assert "could not be kept" in caplog.text
        assert "secret" not in caplog.text
        assert str(disk) not in caplog.text
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        filler.unlink()
        last = await drawn(served, generator)
    await history.aclose()
    names = [f"{last}-0", f"{first}-0"]
    again = await opened(history.folder)
    assert [image.id for image in (await again.list()).images] == names
    assert len(pictures(history.folder)) == 2
    assert all(whole(path.read_bytes()) for path in pictures(history.folder))


async def test_a_picture_that_does_not_fit_is_not_half_there(
    small_disk: Callable[[int], Path], opened
) -> None:
    history = await opened(small_disk(2 * 2**20) / "gallery")
    result = result_of(2)
    images = (result.images[0], GeneratedImage(png() + bytes(4 * 2**20), 2, 64, 64))
    history.begin("gen_1", ImageRequest(prompt="a cat", count=2))
    with pytest.raises(StorageError):
        await history.keep("gen_1", dataclasses.replace(result, images=images))
    assert pictures(history.folder) == set()
    assert rows(history.folder) == rows(history.folder, "path FROM doomed") == []
    await kept(history, "gen_2")


async def test_a_folder_that_is_removed_costs_the_gallery_and_not_the_generation(
    tmp_path: Path, opened, caplog
) -> None:
    history = await opened(tmp_path / "gallery")
    generator = ScriptedGenerator()
    async with serving(generator, tmp_path / "generations", history=history) as served:
        await drawn(served, generator)
        shutil.rmtree(history.folder)
        with caplog.at_level(logging.WARNING, "sdmanager"):
            await drawn(served, generator)
        assert "removed or replaced" in caplog.text
        assert not history.folder.exists()


async def test_a_database_that_is_busy_for_a_while_is_waited_for(tmp_path: Path, opened) -> None:
    history = await opened(tmp_path / "gallery")
    await kept(history, "gen_0")
    argv = [sys.executable, "-c", LOCKER, str(history.folder / "gallery.sqlite3")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdout.readline() == "locked\n"
        history.begin("gen_1", ImageRequest(prompt="a cat"))
        history.take(previewed("gen_1", 1))
        keeping = asyncio.create_task(history.keep("gen_1", result_of()))
        assert (await history.list()).total == 1  # readers do not wait, and neither does the loop
        assert not keeping.done()
        locker.stdin.write("\n")
        locker.stdin.flush()
        await keeping
        locker.stdin.close()
    assert (await history.list()).total == 2


async def test_a_database_that_stays_busy_is_an_error_of_ours(tmp_path: Path, opened, monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.history._database._PATIENCE_SECONDS", 0.05)
    history = await opened(tmp_path / "gallery")
    (image,) = await kept(history, "gen_0")
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    async with asyncio.timeout(30):
        while (await history.list()).total < 2:
            await asyncio.sleep(0.005)
    connection = sqlite3.connect(history.folder / "gallery.sqlite3", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="in use"):
        await history.keep("gen_1", result_of())
    with pytest.raises(StorageError, match="in use"):
        await history.delete(image.id)
    connection.execute("ROLLBACK")
    connection.close()
    await kept(history, "gen_2")
    assert {found.id for found in (await history.list()).images} == {"gen_0-0", "gen_2-0"}
    assert len(pictures(history.folder)) == 2


async def test_a_database_that_stays_busy_delays_a_generation_once(
    tmp_path: Path, opened, monkeypatch
) -> None:
    monkeypatch.setattr("sdmanager.history._database._PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr("sdmanager.history._database._BRIEF_SECONDS", 0.05)
    history = await opened(tmp_path / "gallery")
    await kept(history, "gen_0")
    waits: list[int] = []

    def heard(statement: str) -> None:
        if found := re.fullmatch(r"PRAGMA busy_timeout = (\d+)", statement):
            waits.append(int(found[1]))

    history._opened.gallery._db.set_trace_callback(heard)
    path = history.folder / "gallery.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    place = _files.place

    def lock_then_place(image, target) -> None:  # between the two transactions
        place(image, target)
        connection.execute("BEGIN IMMEDIATE")

    for locked_late in (False, True):
        name = f"gen_{int(locked_late)}_busy"
        if locked_late:
            monkeypatch.setattr(_files, "place", lock_then_place)
        else:
            connection.execute("BEGIN IMMEDIATE")
        history.begin(name, ImageRequest(prompt="a cat"))
        with pytest.raises(StorageError, match="in use"):
            await history.keep(name, result_of())
        while history._ending:
            await asyncio.wait(tuple(history._ending))
        brief = list(itertools.takewhile(lambda wait: wait <= 50, waits))  # of frames, while it is drawn
        assert brief
        waited, after = waits[len(brief) :][: 1 + locked_late], waits[len(brief) + 1 + locked_late :]
        assert all(0 < wait <= 3000 for wait in waited)
        assert set(after) == {0}
        connection.execute("ROLLBACK")
        del waits[:]
    connection.close()
    assert len(pictures(history.folder)) == 1


@pytest.mark.parametrize("where", ["begin", "show", "keep", "drop"])
async def test_a_fault_that_nobody_thought_of_leaves_nothing_and_is_logged(
    history: History, monkeypatch, caplog, where: str
) -> None:
    def fail(*_) -> None:
        raise RuntimeError("nobody thought of it")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR, "sdmanager.history"):
        patched.setattr(Gallery, "_keep" if where == "keep" else where, fail)
        history.begin("gen_1", ImageRequest(prompt="a cat"))
        history.take(previewed("gen_1", 1))
        if where == "keep":
            with pytest.raises(RuntimeError):
                await history.keep("gen_1", result_of())
        elif where == "drop":
            await cancelled(history, "gen_1")
        else:
            async with asyncio.timeout(30):
                while "nobody thought of it" not in caplog.text:
                    await asyncio.sleep(0.005)
            await history.keep("gen_1", result_of())
        while history._ending:
            await asyncio.wait(tuple(history._ending))
        assert not history._frames
    assert where == "keep" or "nobody thought of it" in caplog.text
    assert len([path for path in pictures(history.folder) if "images" in path.parts]) == (
        where in {"begin", "show"}
    )
    assert where == "drop" or rows(history.folder, "id FROM images WHERE completed_at IS NULL") == []
    await kept(history, "gen_2")


async def test_a_file_that_cannot_be_deleted_now_goes_with_the_next_start(
    tmp_path: Path, opened, monkeypatch
) -> None:
    history = await opened(tmp_path / "gallery")
    (image,) = await kept(history, "gen_1")
    with monkeypatch.context() as patched:  # as where another program has it open, on some systems
        patched.setattr("sdmanager.history._files.remove", lambda path, **_: False)
        await history.delete(image.id)
    assert (await history.list()).total == 0
    assert pictures(history.folder) == {image.path}
    await history.aclose()
    await opened(tmp_path / "gallery")
    assert pictures(history.folder) == set()
    assert rows(history.folder, "path FROM doomed") == []


class Slow(History):
    """Keeps when the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def keep(self, generation_id, result) -> None:
        self.asked.set()
        await self.go.wait()
        await super().keep(generation_id, result)


@pytest.fixture
async def slow(tmp_path: Path):
    history = Slow(tmp_path / "gallery")
    await history.open()
    yield history
    await history.aclose()


@pytest.fixture
async def service(tmp_path: Path, slow: Slow):
    generator = ScriptedGenerator()
    generator.finish()
    registry = GenerationRegistry(tmp_path / "generations")
    registry.open()
    service = GenerationService(generator, registry, recorder=slow)
    yield service
    slow.go.set()
    await service.aclose()
    registry.destroy()


async def test_nobody_hears_of_the_end_before_the_picture_is_kept(
    service: GenerationService, slow: Slow
) -> None:
    name = service.submit(ImageRequest(prompt="a cat")).id
    await slow.asked.wait()
    assert service.get(name).status is Status.IN_PROGRESS
    slow.go.set()
    assert (await service.wait(name)).status is Status.COMPLETE
    assert whole((await slow.picture(f"{name}-0"))[1].read_bytes())


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_what_is_being_kept_is_kept(service: GenerationService, slow: Slow, how: str) -> None:
    name = service.submit(ImageRequest(prompt="a cat")).id
    await slow.asked.wait()
    ending = asyncio.create_task(service.aclose() if how == "stopped" else service.cancel(name))
    await asyncio.sleep(0)
    assert not ending.done()
    slow.go.set()
    await asyncio.wait([ending])
    assert service.get(name).status is Status.COMPLETE
    assert (await slow.get(f"{name}-0")).completed_at is not None


async def test_a_keep_that_is_aborted_leaves_all_or_nothing(tmp_path: Path, opened) -> None:
    history = await opened(tmp_path / "gallery")
    for turns in range(12):
        history.begin(f"gen_{turns}", ImageRequest(prompt="a cat"))
        keeping = asyncio.create_task(history.keep(f"gen_{turns}", result_of()))
        for _ in range(turns):
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.wait([keeping])
    await history.aclose()
    again = await opened(tmp_path / "gallery")
    found = (await again.list()).images
    assert {image.path for image in found} == pictures(history.folder)
    assert all(image.completed_at for image in found)
    assert rows(history.folder, "path FROM doomed") == []
