"""The Windows half, driven through the interface that it shares with the other one.

The job object is replaced, by one that kills through psutil or by one that notes the system calls; everything
else is real: children, pipes and threads.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from sdmanager.process import Child, StopOutcome, _windows
from sdmanager.process._types import STDERR, STDOUT
from sdmanager.process._windows_job import BasicAccounting, ExtendedLimits, Job

OUT_AND_ERR = "import sys; sys.stdout.write('o' * 200_000); sys.stderr.write('e' * 100_000); sys.exit(3)"


def python(code):
    return [sys.executable, "-I", "-S", "-c", code]


def ignored(_chunk):
    pass


class PsutilJob:
    """Does what a job object does, for the processes that are still each other's children."""

    creation_flags = 0

    def __init__(self):
        self.members = []
        self.closed = False

    def adopt(self, pid):
        self.members = [psutil.Process(pid)]

    def terminate(self):
        for leader in list(self.members):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.members += leader.children(recursive=True)
        for member in self.members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()

    def active_processes(self):
        return sum(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in self.members)

    def close(self):
        self.closed = True


@pytest.fixture
def jobs(monkeypatch):
    made = []

    def make():
        made.append(PsutilJob())
        return made[-1]

    monkeypatch.setattr(_windows, "Job", make)
    return made


@pytest.fixture
async def child(jobs):
    """Makes children as `spawn` would on Windows, and ends them."""
    children, others = [], set(threading.enumerate())

    def child(argv, on_stdout=ignored, on_stderr=ignored, *, grace=0.1, backstop=2.0):
        def begin(on_output, on_exit):
            options = {"cwd": None, "env": os.environ, "guard": None}
            return _windows.start(argv, **options, on_output=on_output, on_exit=on_exit)

        made = Child(begin, {STDOUT: on_stdout, STDERR: on_stderr}, grace=grace, backstop=backstop)
        children.append(made)
        return made

    yield child
    for made in children:
        await made._end()
    assert all(job.closed for job in jobs)
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - others) and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    assert not left


async def test_output_and_exit_code(child, new_output):
    stdout, stderr = new_output(), new_output()
    status = await child(python(OUT_AND_ERR), stdout, stderr).wait()
    assert (status.code, status.signal, status.outcome) == (3, None, StopOutcome.EXITED)
    assert (stdout.received, stderr.received) == (b"o" * 200_000, b"e" * 100_000)


async def test_stdin_is_empty(child, output):
    await child(python("import sys; print(repr(sys.stdin.read()))"), output).wait()
    assert output.received == b"''\n"


@pytest.mark.parametrize("mode", ["obey", "ignore", "flood", "grandchild"])
async def test_stop_kills_the_job_at_once(child, fake, output, token, living, mode):
    running = child(fake(mode), output, grace=60)
    await output.until(b"ready")
    assert (await running.stop()).outcome is StopOutcome.KILLED
    assert not living(token)


async def test_pipe_that_stays_open_is_cut_after_the_backstop(child, fake, output, caplog):
    start = time.monotonic()
    running = child(fake("escape"), output, backstop=0.3)
    # An escaped process is no longer a child when the leader is gone, so the replaced job misses it.
    assert (await running.wait()).code == 0
    assert time.monotonic() - start >= 0.3
    assert "holds the pipe" in caplog.text
    psutil.Process(int(output.received.split(b"escaped ")[1].split()[0])).kill()


async def test_slow_consumer_slows_the_child_down(child):
    """At most one chunk of each stream is on its way."""
    written = "import os, sys\nfor n in range(200): os.write(1, b'x' * 65536); os.write(2, b'%d\\n' % n)"
    progress = bytearray()
    chunks = []

    def slow(chunk):
        time.sleep(0.01)
        chunks.append(chunk)
        # What the child wrote beyond what was consumed is in the pipe (64 KiB) or in one chunk.
        done = progress.count(b"\n") * 65536
        assert done - sum(map(len, chunks)) <= 4 * 65536

    assert (await child(python(written), slow, progress.extend).wait()).code == 0
    assert sum(map(len, chunks)) == 200 * 65536


async def test_error_of_a_callback_ends_the_child(child, fake):
    def fail(_chunk):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await child(fake("flood"), fail).wait()


async def test_failure_to_join_the_job_leaves_nothing(child, jobs, fake, token, living, monkeypatch):
    def fail(_job, _pid):
        raise OSError("refused")

    monkeypatch.setattr(PsutilJob, "adopt", fail)
    with pytest.raises(OSError, match="refused"):
        child(fake("ignore"))
    assert jobs[0].closed
    assert not living(token)


@pytest.mark.parametrize("program", ["certainly-absent-program", "/absent/program", ""])
async def test_missing_program(child, program):
    with pytest.raises(FileNotFoundError):
        child([program])


@pytest.mark.parametrize("name", ["run.bat", "RUN.CMD"])
async def test_batch_files_are_refused(child, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / name).chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        child([str(tmp_path / name), "& calc"])


def test_kill_group_ends_a_tree(fake, token, living, seconds_until_gone):
    with subprocess.Popen(fake("tree", "1"), stdout=subprocess.PIPE) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"leaf\n"] * 2
        assert _windows.kill_group(process.pid)
        seconds_until_gone(token)
        assert process.wait() == -signal.SIGKILL
    assert not _windows.kill_group(process.pid)


class Kernel32:
    """Notes the calls and answers as told."""

    def __init__(self, **answers):
        self.calls = []
        self._answers = {"CreateJobObjectW": 11, "OpenProcess": 22, "GetLastError": 5, **answers}

    def __getattr__(self, name):
        def function(*arguments):
            self.calls.append((name, *(getattr(argument, "value", argument) for argument in arguments)))
            return self._answers.get(name, 1)

        setattr(self, name, function)
        return function

    def names(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def resumed(monkeypatch):
    pids = []
    monkeypatch.setattr(psutil.Process, "__init__", lambda self, pid: setattr(self, "given", pid))
    monkeypatch.setattr(psutil.Process, "resume", lambda self: pids.append(self.given))
    return pids


def test_structures_have_the_sizes_of_the_system():
    assert ctypes.sizeof(ExtendedLimits) == 144
    assert ctypes.sizeof(BasicAccounting) == 48
    assert ExtendedLimits.flags.offset == 16
    assert BasicAccounting.active_processes.offset == 40


def test_job_kills_on_close_and_takes_the_child_before_it_runs(resumed):
    kernel32 = Kernel32()
    job = Job(kernel32)
    name, handle, kind, limits, size = kernel32.calls[1]
    assert (name, handle, kind, size) == ("SetInformationJobObject", 11, 9, 144)
    assert limits._obj.flags == 0x2000
    job.adopt(77)
    assert kernel32.calls[2:] == [
        ("OpenProcess", 0x101, 0, 77),
        ("AssignProcessToJobObject", 11, 22),
        ("CloseHandle", 22),
    ]
    assert resumed == [77]
    job.terminate()
    job.close()
    job.close()
    job.terminate()
    assert kernel32.calls[5:] == [("TerminateJobObject", 11, 1), ("CloseHandle", 11)]


def test_child_that_cannot_join_the_job_is_not_let_go(resumed):
    job = Job(kernel32 := Kernel32(AssignProcessToJobObject=0))
    with pytest.raises(OSError, match="AssignProcessToJobObject failed with Windows error 5"):
        job.adopt(77)
    assert kernel32.names()[-3:] == ["AssignProcessToJobObject", "GetLastError", "CloseHandle"]
    assert resumed == []


def test_job_without_its_limit_is_not_used():
    kernel32 = Kernel32(SetInformationJobObject=0)
    with pytest.raises(OSError, match="SetInformationJobObject"):
        Job(kernel32)
    assert kernel32.calls[-1] == ("CloseHandle", 11)


def test_processes_in_the_job_are_counted():
    kernel32 = Kernel32()
    job = Job(kernel32)

    def query(_handle, kind, accounting, size, _length):
        assert (kind, size) == (1, 48)
        accounting._obj.active_processes = 3
        return 1

    kernel32.QueryInformationJobObject = query
    assert job.active_processes() == 3
