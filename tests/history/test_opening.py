"""Opening a gallery: what earlier processes left, what others have, and what is not ours."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from gallery import kept, pictures, previewed, rows, whole
from scripted_generator import result_of

from sdmanager.errors import ImageFormingError, StorageError
from sdmanager.generation import ImageRequest
from sdmanager.history import History
from sdmanager.history._database import VERSION

CHILD = Path(__file__).parents[1] / "fakes" / "gallery_child.py"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def refused(folder: Path) -> StorageError:
    history = History(folder)
    try:
        with pytest.raises(StorageError) as caught:
            await history.open()
    finally:
        await history.aclose()
    return caught.value


def check(folder: Path, said: list[str]) -> None:
    """Nothing that was promised is missing, nothing is half there, and nothing else is."""
    found = {
        name: folder / path for name, path in rows(folder, "id, path FROM images WHERE completed_at > 0")
    }
    assert rows(folder, "id FROM images WHERE completed_at IS NULL") == []
    assert len(rows(folder, "rowid FROM words")) == len(found)
    assert all(whole(path.read_bytes()) for path in found.values())
    assert pictures(folder) == set(found.values())
    assert rows(folder, "path FROM doomed") == []
    promised = {line.split()[1] for line in said if line.startswith("kept")}
    unsure = {line.split()[1] for line in said if line.startswith("deleting")}
    gone = {line.split()[1] for line in said if line.startswith("deleted")}
    assert promised - unsure <= found.keys()
    assert not gone & found.keys()


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_gallery_is_whole_after_a_kill_at_any_moment(tmp_path: Path, opened, stride: int) -> None:
    argv = [sys.executable, str(CHILD), str(tmp_path), str(stride)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True)
    moments, status = map(int, done.stdout.split())
    assert (status, done.stderr) == (0, "")
    lines = set()
    for moment in range(0, moments, stride):
        folder = tmp_path / f"{moment:04}"
        said = (folder / "said").read_text().splitlines() if (folder / "said").exists() else []
        history = await opened(folder / "gallery")
        cleared = "deleted gen_0-0" in said  # what follows deletes all
        check(history.folder, [line for line in said if not (cleared and line.startswith("kept"))])
        await history.aclose()
        assert not list((folder / "gallery" / ".forming").glob("[!.]*"))
        lines.add(len(said))
    assert lines == {0, 1, 4, 5}  # kills before, between and after what was said


async def test_files_of_the_user_s_own_stay(tmp_path: Path, opened) -> None:
    folder = tmp_path / "gallery"
    first = await opened(folder)
    (image,) = await kept(first, "gen_1")
    await first.aclose()
    own = [
        folder / "notes.txt",
        folder / "images" / "mine.png",
        image.path.with_name("2026-01-01_00-00-00_7_gen_2-0.png"),
        image.path.with_name(".hidden.part"),
        folder / ".forming" / "mine" / "x.png",
        folder / ".forming" / "0123456789abcdef.png",
    ]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    second = await opened(folder)
    await second.clear()
    assert all(path.read_bytes() == b"mine" for path in own)


async def test_pictures_stay_where_the_database_is_lost(tmp_path: Path, opened) -> None:
    first = await opened(tmp_path / "gallery")
    (image,) = await kept(first, "gen_1")
    await first.aclose()
    (first.folder / "gallery.sqlite3").unlink()
    second = await opened(tmp_path / "gallery")
    assert (await second.list()).total == 0
    assert whole(image.path.read_bytes())


async def test_two_servers_have_one_gallery(tmp_path: Path, opened) -> None:
    first = await opened(tmp_path / "gallery")
    first.begin("gen_1", ImageRequest(prompt="a cat"))
    first.take(previewed("gen_1", 1))
    async with asyncio.timeout(30):
        while not rows(first.folder, "id FROM images WHERE path IS NOT NULL"):
            await asyncio.sleep(0.005)
    second = await opened(tmp_path / "gallery")
    frame, path = await second.picture("gen_1-0")  # of one that lives
    assert frame.completed_at is None
    assert path.is_file()
    await asyncio.gather(*(kept(each, f"gen_{name}") for each, name in ((first, "a"), (second, "b"))))
    await second.aclose()
    assert path.is_file()
    await first.keep("gen_1", result_of())
    third = await opened(tmp_path / "gallery")
    assert {image.id for image in (await third.list()).images} == {"gen_1-0", "gen_a-0", "gen_b-0"}


DYING = """
import asyncio, pathlib, sys
from sdmanager.generation import ImageRequest
from sdmanager.history import History

async def main():
    history = History(pathlib.Path(sys.argv[1]))
    await history.open()
    history.begin("gen_dying", ImageRequest(prompt="a cat"))
    while not (await history.list(search="cat")).total:
        await asyncio.sleep(0.005)
    print("drawing", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("then", ["delete", "clear", "begin"])
async def test_what_a_server_that_was_killed_drew_goes_while_another_lives(
    tmp_path: Path, opened, then: str
) -> None:
    living = await opened(tmp_path / "gallery")
    await kept(living, "gen_1")
    other = await opened(tmp_path / "gallery")
    other.begin("gen_2", ImageRequest(prompt="a dog"))
    argv = [sys.executable, "-c", DYING, str(living.folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as dying:
        assert await asyncio.to_thread(dying.stdout.readline) == "drawing\n"
        with pytest.raises(ImageFormingError):
            await living.delete("gen_dying-0")
        dying.kill()
    if then == "delete":
        await living.delete("gen_dying-0")
    elif then == "clear":
        assert await living.clear() == 1
    else:
        await kept(living, "gen_3")
    names = {image.id for image in (await living.list()).images}
    assert "gen_dying-0" not in names
    assert "gen_2-0" in names  # of one that lives
    assert len(list((living.folder / ".forming").glob("[!.]*"))) == 2


async def test_the_folder_of_an_owner_goes_where_no_file_goes_that_is_open(
    tmp_path: Path, opened, monkeypatch
) -> None:
    """As on Windows: the file of a lock cannot be removed before it is released."""
    locked: set[Path] = set()
    acquire, release, unlink = FileLock.acquire, FileLock.release, os.unlink

    def acquired(self, *args, **options):
        taken = acquire(self, *args, **options)
        locked.add(Path(self.lock_file))
        return taken

    def released(self, *args, **options) -> None:
        release(self, *args, **options)
        locked.discard(Path(self.lock_file))

    def unlinked(path, *args, **options) -> None:
        if Path(path).name == ".lock" and any(lock.parent.name != ".forming" for lock in locked):
            raise PermissionError("it is open")
        unlink(path, *args, **options)

    monkeypatch.setattr(FileLock, "acquire", acquired)
    monkeypatch.setattr(FileLock, "release", released)
    monkeypatch.setattr(os, "unlink", unlinked)
    history = await opened(tmp_path / "gallery")
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    history.take(previewed("gen_1", 1))
    await history.aclose()
    left = tmp_path / "gallery" / ".forming" / "0123456789abcdef"
    (left / "folder").mkdir(parents=True)
    (left / "x.png").write_bytes(b"")
    await (await opened(tmp_path / "gallery")).aclose()
    assert not list((tmp_path / "gallery" / ".forming").glob("[!.]*"))


async def test_many_may_open_it_at_once(tmp_path: Path, opened) -> None:
    galleries = await asyncio.gather(*(opened(tmp_path / "gallery") for _ in range(8)))
    await asyncio.gather(*(kept(each, f"gen_{number}") for number, each in enumerate(galleries)))
    assert (await galleries[0].list()).total == 8


async def test_a_newer_version_is_refused_and_not_touched(tmp_path: Path, opened) -> None:
    history = await opened(tmp_path / "gallery")
    await kept(history, "gen_1")
    await history.aclose()
    path = history.folder / "gallery.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = digest(path)
    error = await refused(history.folder)
    assert "newer version" in error.message
    assert "Update" in error.hint
    assert digest(path) == before


async def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE images (id)")
    connection.close()
    before = digest(path)
    assert "another program" in (await refused(tmp_path)).message
    assert digest(path) == before


@pytest.mark.parametrize("damage", ["text", "header", "pages"])
async def test_a_damaged_database_is_refused_and_not_touched(tmp_path: Path, opened, damage: str) -> None:
    history = await opened(tmp_path / "gallery")
    await kept(history, "gen_1")
    await history.aclose()
    path = history.folder / "gallery.sqlite3"
    data = path.read_bytes()
    broken = {"text": b"no database at all\n" * 100, "header": b"x" * 100 + data[100:], "pages": data[:8192]}[
        damage
    ]
    path.write_bytes(broken)
    error = await refused(history.folder)
    assert "damaged" in error.message
    assert "backup" in error.hint
    assert path.read_bytes() == broken


@pytest.mark.parametrize("kind", ["foreign", "foreign with a log", "newer", "damaged"])
async def test_a_folder_that_is_refused_gets_nothing(tmp_path: Path, opened, kind: str) -> None:
    history = await opened(tmp_path / "ours")
    await history.aclose()
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = folder / "gallery.sqlite3"
    if kind == "damaged":
        path.write_bytes(b"no database at all\n" * 100)
    else:
        if kind == "newer":
            path.write_bytes((history.folder / "gallery.sqlite3").read_bytes())
        connection = sqlite3.connect(path)
        if kind != "foreign":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.execute("CREATE TABLE theirs (id)")
        if kind != "foreign with a log":
            connection.close()
    before = {path: digest(path) for path in folder.iterdir() if path.suffix != ".sqlite3-shm"}
    names = set(folder.iterdir())
    await refused(folder)
    assert set(folder.iterdir()) == names
    assert {path: digest(path) for path in before} == before
    if kind == "foreign with a log":
        assert len(names) == 3
        connection.close()


async def test_a_link_in_the_place_of_the_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "images").symlink_to(tmp_path, target_is_directory=True)
    assert "is a link" in (await refused(tmp_path / "gallery")).message


async def test_damage_that_is_met_later_is_an_error_of_ours(tmp_path: Path, opened) -> None:
    history = await opened(tmp_path / "gallery")
    await kept(history, "gen_1")
    await history.aclose()
    path = history.folder / "gallery.sqlite3"
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images'").fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    again = History(history.folder)
    try:
        with pytest.raises(StorageError, match="damaged"):
            await opened_and_listed(again)
    finally:
        await again.aclose()


async def opened_and_listed(history: History) -> None:
    await history.open()
    await history.list()


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gallery").write_text("mine")
    error = await refused(tmp_path / "gallery")
    assert "folder" in error.hint
    assert (tmp_path / "gallery").read_text() == "mine"


async def test_a_folder_that_cannot_be_written_is_refused(small_disk: Callable[[int], Path], opened) -> None:
    disk = small_disk(4 * 2**20)
    first = await opened(disk / "gallery")
    await first.aclose()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be used" in (await refused(disk / "gallery")).message
    assert "cannot be used" in (await refused(disk / "other")).message


async def test_a_start_that_is_aborted_gives_back_what_it_took(tmp_path: Path, opened) -> None:
    history = History(tmp_path / "gallery")
    opening = asyncio.create_task(history.open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await history.aclose()
    assert not list((tmp_path / "gallery" / ".forming").glob("[!.]*"))
    assert (await (await opened(tmp_path / "gallery")).list()).total == 0
