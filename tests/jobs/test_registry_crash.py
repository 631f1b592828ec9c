"""Processes that are killed, and disks that are full: nothing that was accepted is lost."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from results import PNG, a_result

from sdmanager.errors import StorageError
from sdmanager.jobs import GenerationRegistry, Status

CHILD = Path(__file__).parents[1] / "fakes" / "registry_child.py"
LATEST = {"pending": 0, "in_progress": 1, "complete": 2, "error": 2, "cancelled": 2}


def said_before_it_was_killed(folder, chance):
    """The last word that a child said of each generation, killed at some moment of its work."""
    argv = [sys.executable, str(CHILD), str(folder), str(chance.random())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        try:
            said = child.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
        finally:
            child.kill()
        said += child.stdout.read()
    # The last line may be cut anywhere.
    lines = [line.split() for line in said.splitlines(keepends=True) if line.endswith("\n")]
    lines = [words for words in lines if len(words) == 2]
    return {name: word for word, name in lines if word in LATEST}


def check_after_kill(folder, chance):
    told = said_before_it_was_killed(folder, chance)
    assert told
    registry = GenerationRegistry(folder, max_entries=1_000_000)
    assert registry.open() >= len(told)
    try:
        for name, word in told.items():
            found = registry.get(name)
            assert found is not None, word
            assert found.status.is_terminal
            if LATEST[word] == 2:
                assert found.status == word
            elif found.status is Status.ERROR and found.error.code != "NO_IMAGE":
                assert found.error.code == "INTERRUPTED"
                assert registry.find_key(found.key) is None
            if found.result is not None:
                assert all(image.png.endswith(b"END") for image in found.result.images)
        known = set(registry.get_all_ids())
        assert {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} == known
        assert not [*folder.rglob("*.part")]
        before = registry.list()
    finally:
        registry.destroy()
    assert registry.open() == len(before)
    assert registry.list() == before
    registry.destroy()
    return len(told)


@pytest.mark.parametrize("number", range(5))
def test_what_was_accepted_answers_after_a_kill(tmp_path, number):
    check_after_kill(tmp_path / "generations", random.Random(number))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_was_accepted_answers_after_each_of_100_kills(tmp_path):
    chance = random.Random(100)
    accepted = sum(check_after_kill(tmp_path / f"{number}", chance) for number in range(100))
    assert accepted > 100


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk):
    with open(disk / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_refuses_new_ones_and_keeps_the_results_of_others(small_disk, caplog):
    folder = small_disk / "generations"
    registry = GenerationRegistry(folder)
    registry.open()
    name = registry.create(key="mine").id
    registry.update(name, status=Status.IN_PROGRESS)
    fill(small_disk)

    with pytest.raises(StorageError) as caught:
        registry.create()
    assert caught.value.details["errno"] == errno.ENOSPC
    assert str(small_disk) not in str(caught.value)
    assert registry.get_all_ids() == (name,)
    assert [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")] == [name]

    with pytest.raises(StorageError):
        registry.store_images(name, a_result(PNG, os.urandom(8192)))
    assert [entry.name for entry in (folder / name).iterdir()] == ["record.json"]
    fill(small_disk)

    with caplog.at_level(logging.WARNING):
        done = registry.update(name, status=Status.COMPLETE, result=a_result())
    assert (done.status, done.result.image.png) == (Status.COMPLETE, PNG)
    assert registry.get(name) is done
    registry.destroy()

    (small_disk / "filler").unlink()
    assert registry.open() == 1
    assert registry.get(name).error.code == "INTERRUPTED", "its pictures were in memory only"
    registry.destroy()


def test_an_end_that_cannot_be_written_down_is_told_and_holds(small_disk, caplog):
    registry = GenerationRegistry(small_disk / "generations")
    registry.open()
    names = [registry.create().id for _ in range(2)]
    for name in names:
        registry.update(name, status=Status.IN_PROGRESS)
    stored = registry.store_images(names[0], a_result())
    fill(small_disk)
    with caplog.at_level(logging.WARNING):
        assert registry.update(names[0], status=Status.COMPLETE, result=stored).status is Status.COMPLETE
        assert registry.update(names[1], status=Status.CANCELLED).status is Status.CANCELLED
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert str(small_disk) not in caplog.text
    assert registry.get(names[0]).result.image.png == PNG
    registry.destroy()

    assert registry.open() == 2, "although it cannot write"
    assert {each.error.code for each in registry.list()} == {"INTERRUPTED"}
    registry.destroy()


def test_a_disk_that_is_read_only_is_no_place_for_a_registry(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError) as caught:
        GenerationRegistry(small_disk / "generations").open()
    assert caught.value.details["errno"] == errno.EROFS
