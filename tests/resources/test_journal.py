from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from room import fill

from sdmanager.errors import StorageError
from sdmanager.process import ProcessRecord
from sdmanager.resources.journal import Entry, Journal, Phase

STATE = {"models": [{"name": "llama3.2:3b", "keep_alive": 300}], "port": 11434}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "state" / "offloads")


@pytest.fixture
def dead():
    """A process that was, and is no more."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = ProcessRecord.of(child.pid)
    child.communicate(b"\n", timeout=20)
    return record


def entry(owner, name="ollama", **changes):
    return replace(Entry(name, "llama3.2:3b", STATE, owner, 1e9), **changes)


def everything(_):
    return True


def test_what_was_written_is_read_back(journal):
    written = entry(journal.owner, phase=Phase.ASIDE, attempts=3)
    journal.write(written)
    assert journal.entries() == [written]
    journal.remove(written)
    assert journal.entries() == []
    journal.remove(written)


def test_an_entry_is_on_the_disk_when_writing_returns(journal, monkeypatch):
    synced = []
    inner = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), inner(fd))
    )
    journal.write(entry(journal.owner))
    assert len(synced) == 3  # the file, its name, and the name of the folder
    assert synced[1].endswith("/state/offloads")
    assert synced[2].endswith("/state")


def test_an_entry_whose_owner_lives_is_not_claimed(journal):
    journal.write(entry(journal.owner))
    assert journal.claim(everything) == []


def test_an_entry_whose_owner_is_dead_is_claimed_once(journal, dead):
    journal.write(entry(dead, phase=Phase.RESTORING, attempts=2))
    (claimed,) = journal.claim(everything)
    assert (claimed.owner, claimed.attempts, claimed.state) == (journal.owner, 2, STATE)
    assert journal.entries() == [claimed]
    assert Journal(journal._folder).claim(everything) == []


def test_a_process_that_got_the_number_of_a_dead_owner_is_not_taken_for_it(journal):
    journal.write(entry(replace(journal.owner, start_time=journal.owner.start_time - 1000)))
    assert len(journal.claim(everything)) == 1


def test_what_was_released_is_claimed_by_the_same_process(journal):
    journal.write(entry(journal.owner))
    journal.release(journal.entries()[0])
    assert len(journal.claim(everything)) == 1


def test_only_what_is_wanted_is_claimed(journal, dead):
    journal.write(entry(dead))
    assert journal.claim(lambda found: found.name == "other") == []
    assert journal.entries()[0].owner == dead


def test_of_processes_that_claim_at_once_one_gets_each(journal, dead, tmp_path):
    for number in range(20):
        journal.write(entry(dead, name=f"program-{number}"))
    code = (
        "import sys, pathlib; from sdmanager.resources.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1])); print('ready', flush=True); input()\n"
        "print(*(entry.name for entry in journal.claim(lambda _: True)), flush=True); input()\n"
    )
    argv = [sys.executable, "-c", code, str(journal._folder)]
    children = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        got = [name for child in children for name in child.stdout.readline().split()]
        assert sorted(got) == sorted(f"program-{number}" for number in range(20))
    finally:
        for child in children:
            child.communicate("\n", timeout=20)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": "1", "id": "0123456789abcdef"}',
        b" " * (2 << 20),
    ],
)
def test_a_broken_file_is_set_aside_and_said_so(journal, text, caplog):
    journal.write(entry(None))
    broken = journal._folder / "0123456789abcdef.json"
    broken.write_bytes(text)
    assert len(journal.claim(everything)) == 1
    assert "set aside" in caplog.text
    assert not broken.exists()
    assert broken.with_suffix(".broken").read_bytes() == text


def test_a_file_of_a_newer_format_is_left_to_who_can_read_it(journal):
    journal.write(entry(None))
    newer = journal._folder / "0123456789abcdef.json"
    newer.write_text(json.dumps(entry(None, id=newer.stem).to_json() | {"format": 2}))
    assert len(journal.claim(everything)) == 1
    assert newer.exists()


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_just_now_is_left_and_read_later(journal, dead, monkeypatch, fault):
    left = entry(dead)
    journal.write(left)
    inner = Path.open

    def refuse(path, *args, **options):
        if path.suffix == ".json":
            raise OSError(fault, os.strerror(fault))
        return inner(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        assert journal.claim(everything) == []
    assert [each.id for each in journal.claim(everything)] == [left.id]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(journal):
    journal.write(entry(None))
    os.mkfifo(journal._folder / "0123456789abcdef.json")
    assert len(journal.claim(everything)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../../etc/passwd"),
        ("id", 5),
        ("name", ""),
        ("phase", "gone"),
        ("attempts", -1),
        ("attempts", "1"),
        ("since", 1e400),
        ("since", None),
        ("state", []),
    ],
)
def test_an_entry_with_a_wrong_field_is_none(journal, field, value):
    data = entry(journal.owner).to_json()
    assert Entry.from_json(json.loads(json.dumps(data))) is not None
    assert Entry.from_json(data | {field: value}) is None


def test_an_owner_that_cannot_be_read_is_dead(journal):
    found = Entry.from_json(entry(journal.owner).to_json() | {"owner": {"pid": "1"}})
    assert found.is_orphan


def test_a_state_that_is_no_json_is_an_error_and_leaves_nothing(journal):
    with pytest.raises(StorageError, match="ollama"):
        journal.write(entry(journal.owner, state={"path": journal._folder}))
    assert journal.entries() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"what": None},
        {"name": ""},
        {"since": float("nan")},
        {"attempts": -1},
        {"state": {"key": "x" * (1 << 20)}},
        {"state": None},
        {"state": {"key": [[]] * 300_000}},  # each is longer on the disk than in one line
    ],
)
def test_what_could_not_be_read_again_is_not_written(journal, changes):
    with pytest.raises(StorageError, match="brought back"):
        journal.write(entry(journal.owner, **changes))
    assert not journal._folder.exists()


def test_names_of_what_others_who_live_have_put_aside(journal, dead):
    mine = entry(journal.owner, "mine")
    alive = ProcessRecord.of(os.getppid())
    for each in (mine, entry(dead, "dead"), entry(alive, "theirs"), entry(None, "nobody")):
        journal.write(each)
    assert journal.elsewhere({mine.id}) == {"theirs"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "offloads").write_text("a file")
    journal = Journal(tmp_path / "offloads")
    with pytest.raises(StorageError):
        journal.write(entry(journal.owner))
    assert journal.claim(everything) == []
    assert journal.entries() == []


def test_a_full_disk_is_an_error_and_what_was_there_stays(small_disk, dead):
    disk = small_disk(64 << 10)
    journal = Journal(disk / "offloads")
    first = entry(dead)
    journal.write(first)
    fill(disk)
    with pytest.raises(StorageError):
        journal.write(entry(journal.owner))
    journal.note(replace(first, attempts=9))
    assert journal.entries() == [first]
    # It cannot be written down that it is ours: it is brought back nevertheless.
    assert [each.id for each in journal.claim(everything)] == [first.id]


def test_what_a_killed_writer_left_goes_after_a_while(journal):
    journal.write(entry(journal.owner))
    old, young = (journal._folder / f".x.json.{each}.part" for each in ("old", "young"))
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    journal.claim(everything)
    assert (old.exists(), young.exists()) == (False, True)
