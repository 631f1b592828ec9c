"""Private folders of runs: gone in every case, and swept when their owner died."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdmanager.engine.jobs import JobFolder, sweep_jobs
from sdmanager.errors import StorageError
from sdmanager.process import ProcessRecord

SLEEP = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]


@pytest.fixture
def jobs(tmp_path):
    return tmp_path / "cache" / "jobs"


@pytest.fixture
def start():
    """Starts a process in a group of its own that would go on for a minute; ended after the test."""
    started = []

    def start():
        process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def dead_process() -> dict[str, object]:
    """The record of a process that has ended."""
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        record = ProcessRecord.of(process.pid)
        process.kill()
    return record.to_json()


def left_behind(jobs: Path, record: object, *, name: str | None = None, age: float = 0.0) -> Path:
    folder = jobs / (name or secrets.token_hex(4))
    folder.mkdir(parents=True)
    (folder / "o_0.png").write_bytes(b"x")
    if record is not None:
        text = record if isinstance(record, bytes) else json.dumps(record).encode()
        (folder / "owner.json").write_bytes(text)
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


# --- the folder of one run


def test_a_folder_is_its_owners_alone_and_goes_with_the_block(jobs):
    with JobFolder(jobs, "one") as folder:
        assert folder.path == jobs / "one"
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        folder.write_inputs({"prompt.txt": b"secret", "init.png": b"x"})
        (folder.path / "deep" / "er").mkdir(parents=True)
        (folder.path / "deep" / "er" / "file").write_bytes(b"x")
        assert sorted(p.name for p in folder.path.iterdir()) == [
            "deep",
            "init.png",
            "owner.json",
            "prompt.txt",
        ]
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, StorageError])
def test_a_folder_goes_whatever_ends_the_block(jobs, error):
    def run():
        with JobFolder(jobs, "one") as folder:
            (folder.path / "o_0.png").write_bytes(b"x")
            raise error("x")

    with pytest.raises(error):
        run()
    assert list(jobs.iterdir()) == []


def test_a_folder_that_somebody_else_removed_is_no_error(jobs):
    with JobFolder(jobs, "one") as folder:
        (folder.path / "owner.json").unlink()
        folder.path.rmdir()


def test_two_runs_do_not_share_a_folder(jobs):
    with JobFolder(jobs, "one") as first:
        (first.path / "file").write_bytes(b"x")
        with pytest.raises(StorageError, match="cannot be made"), JobFolder(jobs, "one"):
            raise AssertionError("entered")
        assert (first.path / "file").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError) as caught, JobFolder(tmp_path / "file" / "jobs", "one"):
        raise AssertionError("entered")
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.hint


def test_inputs_that_cannot_be_written(jobs):
    with JobFolder(jobs, "one") as folder, pytest.raises(StorageError):
        folder.write_inputs({"no/such/folder.png": b"x"})
    assert list(jobs.iterdir()) == []


def test_owner_and_child_are_on_record(jobs, start):
    with JobFolder(jobs, "one") as folder:
        record = json.loads((folder.path / "owner.json").read_bytes())
        assert ProcessRecord.from_json(record["owner"]).pid == os.getpid()
        assert record["child"] is None
        child = start()
        folder.started(child.pid)
        record = json.loads((folder.path / "owner.json").read_bytes())
        assert ProcessRecord.from_json(record["owner"]).is_running()
        assert ProcessRecord.from_json(record["child"]).is_running()
        assert record["child"]["pid"] == child.pid


# --- the sweep


def test_nothing_to_sweep(jobs, tmp_path):
    assert sweep_jobs(jobs) == 0
    jobs.mkdir(parents=True)
    assert sweep_jobs(jobs) == 0
    (tmp_path / "file").write_text("x")
    assert sweep_jobs(tmp_path / "file") == 0


def test_a_folder_of_a_living_owner_stays(jobs):
    with JobFolder(jobs, "one") as folder:
        os.utime(folder.path, (0, 0))
        assert sweep_jobs(jobs) == 0
        assert (folder.path / "owner.json").exists()


def test_a_folder_of_a_dead_owner_goes(jobs):
    folder = left_behind(jobs, {"owner": dead_process(), "child": None})
    with JobFolder(jobs, "mine"):
        assert sweep_jobs(jobs) == 1
        assert [entry.name for entry in jobs.iterdir()] == ["mine"]
    assert not folder.exists()


@pytest.mark.parametrize("change", [{"start_time": 1.0}, {"executable": "/bin/another"}, {"pid": 2**22 + 1}])
def test_an_owner_that_only_shares_the_number_is_dead(jobs, change):
    record = {**ProcessRecord.of(os.getpid()).to_json(), **change}
    left_behind(jobs, {"owner": record, "child": None})
    assert sweep_jobs(jobs) == 1


MALFORMED = [
    None,
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b"\xff\xfe",
    {},
    {"owner": None, "child": None},
    {"owner": 3},
    {"owner": {"pid": "1", "start_time": 1.0, "executable": "x"}},
    {"owner": {"pid": -1, "start_time": 1.0, "executable": "x"}},
    {"owner": {"pid": 1}},
    b'{"owner": {"pid": 1, "start_time": 1' + b"0" * 400 + b', "executable": "x"}}',
]


@pytest.mark.parametrize("record", MALFORMED, ids=lambda record: ascii(record)[:40])
def test_a_folder_without_a_record_stays_while_its_owner_may_be_starting(jobs, record):
    young = left_behind(jobs, record)
    old = left_behind(jobs, record, age=120)
    assert sweep_jobs(jobs) == 1
    assert young.exists()
    assert not old.exists()


def test_files_and_links_between_the_folders_are_left_alone(jobs, tmp_path):
    elsewhere = left_behind(tmp_path / "elsewhere", {"owner": dead_process()})
    jobs.mkdir(parents=True)
    (jobs / "file").write_text("x")
    (jobs / "link").symlink_to(elsewhere)
    sweep_jobs(jobs)
    assert (elsewhere / "o_0.png").exists()
    assert (jobs / "file").exists()


def test_the_engine_of_a_dead_owner_is_ended(jobs, start):
    child = start()
    record = {"owner": dead_process(), "child": ProcessRecord.of(child.pid).to_json()}
    folder = left_behind(jobs, record)
    assert sweep_jobs(jobs) == 1
    assert child.wait(5) == -9
    assert not folder.exists()


def test_the_engine_of_a_living_owner_goes_on(jobs, start):
    child = start()
    with JobFolder(jobs, "one") as folder:
        folder.started(child.pid)
        assert sweep_jobs(jobs) == 0
    assert child.poll() is None


@pytest.mark.parametrize("change", [{"start_time": 1.0}, {"executable": "/bin/another"}])
def test_a_process_that_only_shares_the_number_is_not_ended(jobs, start, change):
    child = start()
    record = {**ProcessRecord.of(child.pid).to_json(), **change}
    left_behind(jobs, {"owner": dead_process(), "child": record})
    assert sweep_jobs(jobs) == 1
    assert child.poll() is None


def test_a_process_that_leads_no_group_is_not_ended(jobs):
    """It would be the group of a shell or of this very program."""
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            left_behind(jobs, {"owner": dead_process(), "child": ProcessRecord.of(child.pid).to_json()})
            assert sweep_jobs(jobs) == 1
            assert child.poll() is None
            assert psutil.Process().is_running()
        finally:
            child.kill()


def test_many_folders_at_once(jobs):
    dead = dead_process()
    for _ in range(30):
        left_behind(jobs, {"owner": dead, "child": dead})
    assert sweep_jobs(jobs) == 30
    assert list(jobs.iterdir()) == []
