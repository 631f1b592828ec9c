"""The registry: what is kept, for how long, and what is found by the next owner of its folder."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import tracemalloc

import psutil
import pytest
from results import PNG, Clock, a_result, some_progress

from sdmanager.errors import (
    AlreadyTerminalError,
    GenerationNotFoundError,
    InterruptedGenerationError,
    InvalidRequestError,
    NoImageError,
    StorageError,
)
from sdmanager.jobs import GenerationRegistry, Status, free_folder

PENDING, IN_PROGRESS, COMPLETE = Status.PENDING, Status.IN_PROGRESS, Status.COMPLETE
ERROR, CANCELLED = Status.ERROR, Status.CANCELLED
HOLDER = """
import sys
from pathlib import Path
from sdmanager.jobs import GenerationRegistry
registry = GenerationRegistry(Path(sys.argv[1]))
registry.open()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def wall():
    return Clock(1_700_000_000.0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "8081"


@pytest.fixture
def opened(folder, clock, wall):
    """Makes registries of the folder, and gives it back after the test."""
    made = []

    def opened(**options):
        for registry in made:
            registry.destroy()
        registry = GenerationRegistry(folder, **{"ttl": 100, "clock": clock, "wall": wall, **options})
        registry.open()
        made.append(registry)
        return registry

    yield opened
    for registry in made:
        registry.destroy()


@pytest.fixture(params=["in memory", "in a folder"])
def registry(request, opened, clock, wall):
    return opened() if request.param == "in a folder" else GenerationRegistry(ttl=100, clock=clock, wall=wall)


def complete(registry, *pngs, **options):
    """One that has been drawn."""
    name = registry.create(**options).id
    registry.update(name, status=IN_PROGRESS)
    return registry.update(name, status=COMPLETE, result=registry.store_images(name, a_result(*pngs)))


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


# --- one generation


def test_a_generation_from_its_acceptance_to_its_result(registry, wall):
    made = registry.create(key="mine", fingerprint="digest")
    assert (made.status, made.created_at, made.updated_at) == (PENDING, 1_700_000_000_000, 1_700_000_000_000)
    assert (made.key, made.fingerprint) == ("mine", "digest")
    assert registry.get(made.id) is made is registry.find_key("mine")
    waiting = registry.update(made.id, position=2)
    assert (waiting.position, waiting.status) == (2, PENDING)
    wall.now += 1.5
    drawn = registry.update(made.id, status=IN_PROGRESS)
    assert (drawn.position, drawn.status, drawn.updated_at) == (None, IN_PROGRESS, 1_700_000_001_500)
    moved = registry.update(made.id, progress=some_progress(40.0))
    assert moved.progress.percentage == 40.0
    assert registry.get(made.id) is moved
    done = registry.update(made.id, status=COMPLETE, result=registry.store_images(made.id, a_result()))
    assert (done.status, done.progress, done.error) == (COMPLETE, None, None)
    assert done.result.image.png == PNG
    assert done.result.time_taken == 1.5
    assert registry.list() == (done,)


def test_a_failed_one_keeps_its_error_without_its_details(registry):
    name = registry.create().id
    done = registry.update(name, status=ERROR, error=NoImageError("No image.", details={"path": "/x"}))
    assert (done.error.code, done.error.message) == ("NO_IMAGE", "No image.")
    assert done.result is None


def test_what_has_ended_stays_as_it_is(registry):
    name = complete(registry).id
    cancelled = registry.create().id
    registry.update(cancelled, status=CANCELLED)
    for ended in (name, cancelled):
        before = registry.get(ended)
        for change in (
            {"status": CANCELLED},
            {"status": COMPLETE, "result": a_result()},
            {"status": PENDING},
            {"progress": some_progress()},
            {"position": 1},
            {},
        ):
            with pytest.raises(AlreadyTerminalError):
                registry.update(ended, **change)
        assert registry.get(ended) is before


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (PENDING, {"status": COMPLETE, "result": a_result()}),
        (PENDING, {"status": PENDING}),
        (PENDING, {"progress": some_progress()}),
        (PENDING, {"result": a_result()}),
        (PENDING, {"error": NoImageError("No image.")}),
        (PENDING, {"status": ERROR}),
        (IN_PROGRESS, {"status": IN_PROGRESS}),
        (IN_PROGRESS, {"status": PENDING}),
        (IN_PROGRESS, {"position": 1}),
        (IN_PROGRESS, {"status": COMPLETE}),
        (IN_PROGRESS, {"status": COMPLETE, "result": a_result(), "error": NoImageError("No image.")}),
        (IN_PROGRESS, {"status": CANCELLED, "result": a_result()}),
        (IN_PROGRESS, {"status": CANCELLED, "progress": some_progress()}),
    ],
)
def test_changes_that_make_no_sense_change_nothing(registry, status, change):
    name = registry.create().id
    if status is IN_PROGRESS:
        registry.update(name, status=IN_PROGRESS)
    before = registry.get(name)
    with pytest.raises(ValueError):
        registry.update(name, **change)
    assert registry.get(name) is before


def test_one_that_nobody_knows(registry):
    assert registry.get("gen_x") is None
    assert registry.find_key("x") is None
    assert not registry.delete("gen_x")
    with pytest.raises(GenerationNotFoundError):
        registry.update("gen_x", status=CANCELLED)


def test_ids_and_keys_are_used_once(registry, clock):
    registry.create(generation_id="mine", key="key")
    for options in ({"generation_id": "mine"}, {"key": "key"}):
        with pytest.raises(ValueError):
            registry.create(**options)
    for bad in ("../x", "a/b", "", ".", "A", "a" * 65):
        with pytest.raises(ValueError):
            registry.create(generation_id=bad)
    assert registry.get_all_ids() == ("mine",)


def test_a_key_that_is_let_go_is_free_also_for_the_next_owner(opened):
    registry = opened()
    first = registry.create(key="one", fingerprint="a")
    registry.update(first.id, keyless=True)
    assert registry.find_key("one") is None
    second = registry.create(key="one", fingerprint="b")
    registry.update(first.id, status=CANCELLED)
    registry.update(second.id, status=CANCELLED)
    with pytest.raises(AlreadyTerminalError):
        registry.update(second.id, keyless=True)
    assert registry.delete(first.id)
    assert registry.find_key("one").id == second.id
    registry.destroy()
    assert opened().find_key("one").id == second.id


def test_a_key_is_free_again_when_the_server_gave_up(registry):
    lost = registry.create(key="mine").id
    registry.update(lost, status=ERROR, error=InterruptedGenerationError("It stopped."))
    assert registry.find_key("mine") is None
    retried = registry.create(key="mine")
    registry.delete(lost)
    assert registry.find_key("mine") is retried


def test_an_id_is_free_again_when_its_files_are_gone(registry, clock):
    complete(registry, generation_id="mine")
    clock.now += 100
    with pytest.raises(ValueError):
        registry.create(generation_id="mine")
    registry.cleanup()
    assert registry.create(generation_id="mine").status is PENDING


def test_time_never_goes_back_within_a_generation(registry, wall):
    name = registry.create().id
    wall.now -= 3600
    changed = registry.update(name, status=IN_PROGRESS)
    assert changed.updated_at == changed.created_at


# --- for how long


def test_what_has_ended_expires_counted_from_its_end(registry, clock):
    clock.now += 1000
    done = complete(registry, key="mine")
    clock.now += 99.9
    assert registry.get(done.id) is done
    assert registry.find_key("mine") is done
    clock.now += 0.1
    assert registry.get(done.id) is None
    assert registry.find_key("mine") is None
    assert (registry.list(), registry.get_all_ids(), registry.size()) == ((), (), 0)
    assert not registry.delete(done.id)
    with pytest.raises(GenerationNotFoundError):
        registry.update(done.id, status=CANCELLED)
    assert registry.cleanup() == 1
    assert registry.cleanup() == 0


def test_what_has_not_ended_never_expires(registry, clock):
    waiting, drawn = registry.create().id, registry.create().id
    registry.update(drawn, status=IN_PROGRESS)
    clock.now += 1e9
    assert registry.cleanup() == 0
    assert registry.get_all_ids() == (waiting, drawn)


def test_the_first_to_end_go_when_there_are_too_many(opened):
    registry = opened(max_entries=3)
    waiting = registry.create().id
    drawn = registry.create().id
    registry.update(drawn, status=IN_PROGRESS)
    done = [complete(registry).id for _ in range(5)]
    assert registry.get_all_ids() == (waiting, drawn, done[-1])


def test_the_first_to_end_go_when_they_are_too_large(opened, folder):
    registry = opened(max_bytes=2405)
    small = complete(registry, b"x" * 10).id
    first = complete(registry, b"x" * 500, b"y" * 500).id
    second = complete(registry, b"x" * 1400).id
    assert registry.get_all_ids() == (first, second)
    assert names_in(folder) == sorted((first, second))
    large = complete(registry, b"x" * 9999).id
    assert registry.get_all_ids() == (large,), "the newest result is its owner's, whatever its size"
    assert registry.cleanup() == 0
    assert names_in(folder) == [large]
    assert small not in registry.get_all_ids()


def test_in_memory_the_bytes_themselves_count():
    registry = GenerationRegistry(max_bytes=100)
    ids = [complete(registry, b"x" * 60).id for _ in range(3)]
    assert registry.get_all_ids() == (ids[-1],)


def test_the_order_of_ends_decides_and_not_that_of_beginnings(opened):
    registry = opened(max_entries=2)
    first, second = registry.create().id, registry.create().id
    registry.update(second, status=CANCELLED)
    registry.update(first, status=CANCELLED)
    third = registry.create().id
    registry.update(third, status=CANCELLED)
    assert registry.get_all_ids() == (first, third)


def test_forgetting_one_and_all(registry):
    one = complete(registry, key="mine")
    assert registry.delete(one.id)
    assert registry.find_key("mine") is None
    assert registry.get(one.id) is None
    complete(registry)
    waiting = registry.create(key="mine").id
    registry.clear()
    assert registry.size() == 0
    with pytest.raises(GenerationNotFoundError):
        registry.update(waiting, status=IN_PROGRESS)


async def test_the_sweep_removes_files_beside_the_loop(opened, folder, clock, monkeypatch):
    registry = opened(cleanup_interval=0.01)
    done = complete(registry)
    threads = []
    rmtree = shutil.rmtree
    monkeypatch.setattr(
        shutil,
        "rmtree",
        lambda *args, **kw: (threads.append(threading.current_thread()), rmtree(*args, **kw)),
    )
    sweeping = asyncio.create_task(registry.sweep_forever())
    await asyncio.sleep(0.05)
    assert names_in(folder) == [done.id]
    clock.now += 100
    async with asyncio.timeout(30):
        while names_in(folder):
            await asyncio.sleep(0.01)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
    assert threads
    assert threading.main_thread() not in threads


async def test_the_sweep_goes_on_in_memory(clock):
    registry = GenerationRegistry(ttl=100, cleanup_interval=0.01, clock=clock)
    sweeping = asyncio.create_task(registry.sweep_forever())
    for _ in range(2):
        complete(registry)
        clock.now += 100
        async with asyncio.timeout(30):
            while registry._generations:
                await asyncio.sleep(0.01)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping


# --- the folder


def test_what_is_accepted_is_on_disk_and_only_the_owners_to_read(opened, folder):
    registry = opened()
    name = registry.create(key="mine").id
    record = json.loads((folder / name / "record.json").read_bytes())
    assert (record["id"], record["status"], record["key"]) == (name, "pending", "mine")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_progress_and_position_write_nothing(opened, folder):
    registry = opened()
    name = registry.create().id
    record = folder / name / "record.json"
    before = record.stat()
    registry.update(name, position=1)
    assert record.stat().st_ino == before.st_ino
    registry.update(name, status=IN_PROGRESS)
    before = record.stat()
    registry.update(name, progress=some_progress())
    assert record.stat().st_ino == before.st_ino


def test_results_are_files(opened, folder):
    done = complete(opened(), PNG, PNG + b"2")
    assert [image.source for image in done.result.images] == [folder / done.id / f"{n}.png" for n in (0, 1)]
    assert names_in(folder / done.id) == ["0.png", "1.png", "record.json"]


def test_files_go_with_the_generation(opened, folder, clock):
    registry = opened()
    first, second, third = (complete(registry).id for _ in range(3))
    registry.delete(first)
    assert names_in(folder) == sorted((second, third))
    clock.now += 100
    assert registry.cleanup() == 2
    assert names_in(folder) == []
    complete(registry)
    registry.create()
    registry.clear()
    assert names_in(folder) == []


def test_the_next_owner_finds_everything(opened, clock, wall):
    registry = opened()
    done = complete(registry, PNG, PNG + b"2", key="done")
    failed = registry.create(key="failed").id
    registry.update(failed, status=ERROR, error=NoImageError("No image."))
    cancelled = registry.create().id
    registry.update(cancelled, status=CANCELLED)
    expected = registry.list()
    clock.now, wall.now = 5.0, wall.now + 10  # another boot
    again = opened()
    assert {each.id: each for each in again.list()} == {each.id: each for each in expected}
    assert again.find_key("done") == done
    assert again.find_key("failed").id == failed
    assert [image.png for image in again.get(done.id).result.images] == [PNG, PNG + b"2"]


def test_what_had_not_ended_was_interrupted(opened, wall, folder):
    registry = opened()
    waiting = registry.create(key="waiting", fingerprint="digest").id
    drawn = registry.create(key="drawn").id
    registry.update(drawn, status=IN_PROGRESS)
    registry.store_images(drawn, a_result())
    wall.now += 50
    again = opened()
    assert {each.status for each in again.list()} == {ERROR}
    assert {each.error.code for each in again.list()} == {"INTERRUPTED"}
    assert "waiting" in again.get(waiting).error.message
    assert "drawn" in again.get(drawn).error.message
    assert again.get(drawn).error.hint == InterruptedGenerationError.default_hint
    assert again.get(waiting).updated_at == again.get(waiting).created_at + 50_000
    assert again.get(waiting).fingerprint == "digest"
    assert names_in(folder / drawn) == ["record.json"]
    before = again.list()
    wall.now += 10
    assert opened().list() == before, "it was written down"


def test_pictures_that_were_never_stored_are_lost_and_the_generation_is_not(opened):
    registry = opened()
    name = registry.create().id
    registry.update(name, status=IN_PROGRESS)
    registry.update(name, status=COMPLETE, result=a_result())
    assert registry.get(name).result.image.png == PNG
    assert opened().get(name).error.code == "INTERRUPTED"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_an_interrupted_key_may_be_used_again(opened, names):
    lost = opened().create(key="mine", generation_id=names[0]).id
    registry = opened()
    assert registry.find_key("mine") is None
    retried = registry.create(key="mine", generation_id=names[1])
    assert registry.find_key("mine") is retried
    again = registry.update(retried.id, status=CANCELLED)
    registry = opened()
    assert registry.find_key("mine") == again
    assert registry.delete(lost)
    assert registry.find_key("mine") == again


@pytest.mark.parametrize(
    ("passed", "left"),
    [(0, 100), (60, 40), (99.5, 0.5), (100, 0), (1e9, 0), (-60, 100), (-1e9, 100)],
)
def test_the_time_left_goes_on_by_the_wall_clock(opened, clock, wall, passed, left):
    done = complete(opened()).id
    clock.now, wall.now = 7.0, wall.now + passed
    registry = opened()
    assert registry.size() == (1 if left else 0)
    clock.now += left - 0.1
    assert (registry.get(done) is not None) == bool(left)
    clock.now += 0.2
    assert registry.get(done) is None


def test_taken_over_ones_expire_in_the_order_of_their_ends(opened, clock, wall):
    registry = opened()
    waiting = registry.create().id
    early = complete(registry).id
    wall.now += 50
    late = complete(registry).id
    registry = opened()
    clock.now += 50
    assert set(registry.get_all_ids()) == {waiting, late}
    assert early not in registry.get_all_ids()
    clock.now += 50
    assert registry.get_all_ids() == ()


def test_taken_over_ones_count(opened, folder):
    registry = opened()
    ids = [complete(registry, b"x" * 100).id for _ in range(5)]
    registry = opened(max_bytes=250)
    assert set(registry.get_all_ids()) <= set(ids)
    assert registry.size() == 2
    assert names_in(folder) == sorted(registry.get_all_ids())


def test_two_owners_are_one_too_many(opened, folder, wall):
    registry = opened()
    complete(registry)
    other = GenerationRegistry(folder, wall=wall)
    for _ in range(2):
        with pytest.raises(StorageError, match="in use") as caught:
            other.open()
        assert str(folder) not in str(caught.value)
        assert caught.value.hint
    with pytest.raises(RuntimeError):
        other.create()
    assert registry.create().id in names_in(folder)
    registry.destroy()
    registry.destroy()
    assert registry.size() == 0
    assert other.open() == 2
    assert other.open() == 0, "it is open already"
    assert other.size() == 2
    other.destroy()


def test_an_owner_that_is_killed_owns_no_more(folder):
    argv = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"open\n"
            registry = GenerationRegistry(folder)
            with pytest.raises(StorageError, match="in use"):
                registry.open()
        finally:
            child.kill()
        child.wait()
        registry.open()
        registry.destroy()


def test_nothing_is_written_before_the_folder_is_open(folder):
    registry = GenerationRegistry(folder)
    with pytest.raises(RuntimeError):
        registry.create()
    registry.destroy()
    assert not folder.exists()


def test_a_folder_of_somebody_elses_is_left_alone(folder):
    (folder / "Photos").mkdir(parents=True)
    (folder / "gen_1").mkdir()
    with pytest.raises(StorageError, match="other files"):
        GenerationRegistry(folder).open()
    assert names_in(folder) == ["Photos", "gen_1"]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError) as caught:
        GenerationRegistry(tmp_path / "file" / "deeper").open()
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.hint


def test_a_folder_that_is_taken_away_while_it_is_open(opened, folder):
    registry = opened()
    name = registry.create().id
    registry.update(name, status=IN_PROGRESS)
    shutil.rmtree(folder)
    with pytest.raises(StorageError):
        registry.create()
    with pytest.raises(StorageError):
        registry.store_images(name, a_result())
    assert registry.update(name, status=COMPLETE, result=a_result()).result.image.png == PNG
    assert registry.get_all_ids() == (name,)


def test_pictures_of_a_generation_that_is_gone(opened, folder):
    registry = opened()
    name = registry.create().id
    registry.delete(name)
    with pytest.raises(StorageError):
        registry.store_images(name, a_result())
    assert names_in(folder) == []
    with pytest.raises(ValueError):
        registry.store_images("../x", a_result())


def test_of_pictures_that_cannot_all_be_written_none_is_left(opened, folder):
    registry = opened()
    name = registry.create().id
    (folder / name / "1.png").mkdir()
    with pytest.raises(StorageError):
        registry.store_images(name, a_result(PNG, PNG))
    assert names_in(folder / name) == ["record.json"]


# --- what else may lie in the folder


def write_record(folder, name, **changes):
    home = folder / name
    home.mkdir()
    record = {"format": 1, "id": name, "status": "cancelled", "created_at": 0, "updated_at": 0}
    record |= {"key": None, "fingerprint": None, "error": None, "result": None}
    (home / "record.json").write_text(json.dumps({**record, **changes}))
    return home


def test_strays_and_malformed_records_go(opened, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file.png").write_bytes(PNG)
    registry = opened(ttl=1e12)
    good = complete(registry).id
    registry.destroy()
    for number, content in enumerate([b"", b"{", b"[]", b"[" * 200_000, b"\xff", b"9" * 100_000, b"null"]):
        home = folder / f"gen_bad{number}"
        home.mkdir()
        (home / "record.json").write_bytes(content)
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    (folder / "link").symlink_to(secret)
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    write_record(folder, "NOT-AN-ID")
    write_record(folder, "other", id="another")
    shutil.move(write_record(folder, "linked"), secret)
    (folder / "linked").symlink_to(secret / "linked")
    home = write_record(folder, "pipe")
    (home / "record.json").unlink()
    os.mkfifo(home / "record.json")
    home = write_record(folder, "deep")
    (home / "record.json").unlink()
    (home / "record.json").mkdir()
    (folder / good / ".record.json.1234.part").write_bytes(b"half")
    (folder / good / "7.png").write_bytes(PNG)
    (folder / good / "deeper").mkdir()
    registry = opened(ttl=1e12)
    assert registry.get_all_ids() == (good,)
    assert names_in(folder) == [good]
    assert names_in(folder / good) == ["0.png", "record.json"]
    assert not (folder / good / ".record.json.1234.part").exists()
    assert not (folder / ".hidden").exists()
    assert sorted(entry.name for entry in secret.iterdir()) == ["file.png", "linked"]
    assert (secret / "linked" / "record.json").exists()


def test_results_whose_pictures_are_not_whole_go(opened, folder, tmp_path):
    registry = opened()
    missing, empty, linked, good = (complete(registry, PNG, PNG).id for _ in range(4))
    registry.destroy()
    (folder / missing / "1.png").unlink()
    (folder / empty / "1.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / linked / "1.png").unlink()
    (folder / linked / "1.png").symlink_to(tmp_path / "secret.png")
    registry = opened()
    assert registry.get_all_ids() == (good,)
    assert names_in(folder) == [good]
    assert (tmp_path / "secret.png").read_bytes() == PNG


def test_records_of_any_time_come_back_and_go_in_time(opened, folder, clock):
    opened().destroy()
    write_record(folder, "future", created_at=10**14, updated_at=10**14)
    write_record(folder, "past")
    registry = opened()
    assert registry.get_all_ids() == ("future",)
    clock.now += 100
    assert registry.get_all_ids() == ()


# --- folders nobody holds


def test_the_first_folder_that_nobody_holds(tmp_path):
    parent = tmp_path / "generations"
    held = []
    for expected in ("auto", "auto-2", "auto-3"):
        folder = free_folder(parent, "auto")
        assert folder == parent / expected
        held.append(GenerationRegistry(folder))
        held[-1].open()
    assert free_folder(parent, "8081") == parent / "8081"
    held[1].destroy()
    assert free_folder(parent, "auto") == parent / "auto-2"
    for registry in held:
        registry.destroy()
    assert free_folder(parent, "auto") == parent / "auto"


def test_old_folders_of_nobody_go(tmp_path):
    parent = tmp_path / "generations"
    day = 24 * 3600
    now = time.time()
    for name in ("old", "wanted", "young", "held"):
        registry = GenerationRegistry(parent / name)
        registry.open()
        complete(registry)
        if name != "held":
            registry.destroy()
    (parent / "Photos").mkdir()
    (parent / "Photos" / "file").write_text("x")
    (parent / "file").write_text("x")
    outside = tmp_path / "outside"
    shutil.copytree(parent / "old", outside)
    (parent / "link").symlink_to(outside)
    for path in [*parent.rglob("*"), *outside.rglob("*")]:
        if "young" not in path.parts:
            os.utime(path, (now, now - day - 60), follow_symlinks=False)
    fresh = next((parent / "young").glob("*/0.png"))
    for path in (parent / "young").rglob("*"):
        if path != fresh:
            os.utime(path, (now, now - day - 60))
    assert free_folder(parent, "wanted", wall=lambda: now) == parent / "wanted"
    assert names_in(parent) == ["Photos", "file", "held", "link", "wanted", "young"]
    assert len(names_in(outside)) == 1
    assert len(names_in(parent / "held")) == 1
    registry.destroy()
    free_folder(parent, "wanted", wall=lambda: now + 2 * day)
    assert names_in(parent) == ["Photos", "file", "link", "wanted"]


def test_a_removal_that_was_killed_half_way_is_finished(tmp_path):
    parent = tmp_path / "generations"
    registry = GenerationRegistry(parent / "old")
    registry.open()
    name = complete(registry).id
    registry.destroy()
    (parent / "old" / name / "record.json").unlink()
    free_folder(parent, "8081", wall=lambda: time.time() + 10 * 24 * 3600)
    assert names_in(parent) == []


# --- settings


def test_times_come_from_the_environment(clock):
    read = GenerationRegistry.from_environment
    environ = {"IMAGE_RESULT_TTL_MS": " 1500 ", "IMAGE_CLEANUP_INTERVAL_MS": ""}
    registry = read(None, environ, clock=clock, max_entries=5)
    done = complete(registry)
    clock.now += 1.4
    assert registry.get(done.id) is done
    clock.now += 0.1
    assert registry.get(done.id) is None
    usual = read(environ={}, clock=clock)
    done = complete(usual)
    clock.now += 299.9
    assert usual.get(done.id) is done
    clock.now += 0.1
    assert usual.get(done.id) is None


@pytest.mark.parametrize("name", ["IMAGE_RESULT_TTL_MS", "IMAGE_CLEANUP_INTERVAL_MS"])
@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1.5", "5m", "nan", "inf", "1_000", "\u0661\u0662", "0x10", "9" * 13, "9" * 5000, "1e3"],
)
def test_times_that_are_none(name, value):
    with pytest.raises(InvalidRequestError, match=name) as caught:
        GenerationRegistry.from_environment(None, {name: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1}, {"ttl": float("nan")}, {"ttl": float("inf")}, {"cleanup_interval": 0}, {"max_entries": -1},
        {"cleanup_interval": float("nan")}, {"max_bytes": -1},
    ],
)  # fmt: skip
def test_limits_that_are_none(options):
    with pytest.raises(InvalidRequestError):
        GenerationRegistry(**options)


# --- size


def traced():
    """Bytes in use, without the interpreter's own table of all names of files, which grows in leaps."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*pathlib*")])
    return sum(trace.size for trace in snapshot.traces)


def fill(registry, count, *pngs):
    for number in range(count):
        complete(registry, *pngs, key=f"key-{number}")


def test_nothing_is_left_of_what_has_expired(opened, clock):
    registry = opened(max_entries=10_000)
    fill(registry, 10)
    clock.now += 100
    registry.cleanup()
    tracemalloc.start()
    try:
        before = traced()
        fill(registry, 200)
        clock.now += 100
        assert registry.cleanup() == 200
        grown = traced() - before
    finally:
        tracemalloc.stop()
    assert grown < 200 * 200, "20 MiB for 10,000 would be 2 KiB each"


def test_pictures_are_not_kept_in_memory(opened):
    registry = opened()
    large = os.urandom(1_000_000)
    tracemalloc.start()
    try:
        before = traced()
        fill(registry, 20, large)
        grown = traced() - before
    finally:
        tracemalloc.stop()
    assert registry.size() == 20
    assert grown < 20 * 20_000, "20 MB for 1,000"


@pytest.mark.slow
def test_ten_thousand_generations_leave_no_more_than_20_mib(opened, clock):
    registry = opened(max_entries=20_000)
    fill(registry, 100)
    before = psutil.Process().memory_info().rss
    fill_more = 10_000
    for number in range(fill_more):
        complete(registry, key=f"more-{number}")
    clock.now += 100
    assert registry.cleanup() == fill_more + 100
    assert psutil.Process().memory_info().rss - before < 20 * 2**20


@pytest.mark.slow
def test_a_thousand_results_of_a_megabyte_take_no_more_than_20_mb(opened, tmp_path):
    if shutil.disk_usage(tmp_path).free < 2 * 10**9:
        pytest.skip("needs 2 GB of disk")
    registry = opened()
    large = os.urandom(1_000_000)
    fill(registry, 3, large)
    before = psutil.Process().memory_info().rss
    for number in range(1000):
        complete(registry, large, key=f"more-{number}")
    assert registry.size() == 1003
    assert psutil.Process().memory_info().rss - before <= 20 * 10**6
    registry.clear()


def test_a_record_that_cannot_be_read_now_is_not_thrown_away(opened, folder, monkeypatch, caplog):
    kept, other = opened().create(), opened().create()
    registry = opened()
    read = type(folder).read_bytes

    def too_many_files(path):
        if kept.id in str(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path)

    monkeypatch.setattr(type(folder), "read_bytes", too_many_files)
    registry = opened()
    assert registry.get_all_ids() == (other.id,)
    assert "left alone" in caplog.text
    monkeypatch.undo()
    assert set(opened().get_all_ids()) == {kept.id, other.id}


def test_folders_that_cannot_be_locked_are_passed_over_but_not_for_ever(tmp_path, monkeypatch):
    (tmp_path / "8081" / ".lock").mkdir(parents=True)
    assert free_folder(tmp_path, "8081") == tmp_path / "8081-2"
    (tmp_path / "8081-2" / ".lock").mkdir(parents=True)
    monkeypatch.setattr("sdmanager.jobs._lock._FOLDERS_MAX", 3)
    with pytest.raises(StorageError):
        free_folder(tmp_path, "8081")


def test_results_that_are_kept_for_long_are_not_forgotten_after_a_day(tmp_path):
    old = GenerationRegistry(tmp_path / "8081", ttl=7 * 86400)
    old.open()
    generation = old.create()
    old.update(generation.id, status=CANCELLED)
    old.destroy()
    two_days_on = time.time() + 2 * 86400
    free_folder(tmp_path, "8082", keep=old.ttl, wall=lambda: two_days_on)
    again = GenerationRegistry(tmp_path / "8081", ttl=7 * 86400)
    assert again.open() == 1
    again.destroy()
    free_folder(tmp_path, "8082", wall=lambda: two_days_on)
    assert not (tmp_path / "8081").exists()
