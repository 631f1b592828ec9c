import asyncio
import dataclasses
import json
import os
import subprocess

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.process import ProcessRecord, run, spawn


def ignored(_chunk):
    pass


@pytest.fixture
def sleeper():
    """A process that leads a group of its own."""
    process = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_record_of_a_process(sleeper):
    record = ProcessRecord.of(sleeper.pid)
    assert record is not None
    assert record.pid == sleeper.pid
    assert record.executable == psutil.Process(sleeper.pid).exe()
    assert record.is_running()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**40, 2**80])
def test_no_record_of_an_absent_process(pid):
    assert ProcessRecord.of(pid) is None


def test_zombie_is_not_running(sleeper):
    record = ProcessRecord.of(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not record.is_running()
    assert not record.kill_group()
    assert ProcessRecord.of(sleeper.pid) is None


@pytest.mark.parametrize("change", [{"start_time": 1.0}, {"executable": "/bin/other"}])
def test_another_process_with_the_same_id_is_not_killed(sleeper, change):
    record = dataclasses.replace(ProcessRecord.of(sleeper.pid), **change)
    assert not record.is_running()
    assert not record.kill_group()
    assert sleeper.poll() is None


def test_clock_that_was_set_a_little_does_not_matter(sleeper):
    record = ProcessRecord.of(sleeper.pid)
    assert dataclasses.replace(record, start_time=record.start_time + 1).is_running()


async def test_kill_group_ends_a_group(fake, output, token, living):
    async with spawn(fake("tree", "1"), on_stdout=output, on_stderr=ignored) as child:
        await output.until(b"leaf", 2)
        record = ProcessRecord.from_json(json.loads(json.dumps(ProcessRecord.of(child.pid).to_json())))
        assert record.kill_group()
        await asyncio.wait_for(child.wait(), 20)
        assert not living(token)
        assert not record.is_running()
        assert not record.kill_group()


def test_group_that_the_process_does_not_lead_is_not_killed():
    process = subprocess.Popen(["/bin/sleep", "60"])  # in this very group
    try:
        assert not ProcessRecord.of(process.pid).kill_group()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


async def test_record_of_a_child_that_ended(fake, output):
    async with spawn(fake("obey"), on_stdout=output, on_stderr=ignored) as child:
        await output.until(b"ready")
        record = ProcessRecord.of(child.pid)
    assert not record.is_running()
    assert (await run(["/bin/true"])).status.ok


def test_json_round_trip(sleeper):
    record = ProcessRecord.of(sleeper.pid)
    assert ProcessRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.fixed_dictionaries({}, optional={"pid": JSON, "start_time": JSON, "executable": JSON})


@given(JSON | FIELDS)
def test_malformed_json_is_no_record(data):
    record = ProcessRecord.from_json(data)
    if record is not None:
        assert type(record.pid) is int
        assert record.pid > 0
        assert type(record.start_time) is float
        assert record.executable
        record.is_running()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"pid": True, "start_time": 1.0, "executable": "/x"},
        {"pid": 0, "start_time": 1.0, "executable": "/x"},
        {"pid": 1.5, "start_time": 1.0, "executable": "/x"},
        {"pid": 1, "start_time": "1", "executable": "/x"},
        {"pid": 1, "start_time": float("nan"), "executable": "/x"},
        {"pid": 1, "start_time": 10**400, "executable": "/x"},
        {"pid": 1, "start_time": 1.0, "executable": ""},
        {"pid": 1, "start_time": 1.0},
    ],
)
def test_incomplete_or_wrong_json_is_no_record(data):
    assert ProcessRecord.from_json(data) is None
