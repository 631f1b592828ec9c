from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import PurePath
from typing import IO, TYPE_CHECKING

import psutil

from ._types import STDERR, STDOUT, OnExit, OnOutput
from ._windows_job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_CHUNK = 65536


class Process:
    """The job object of one child. See `_types.Process`.

    The default event loop cannot wait for a pipe that it did not open itself, so threads do. Each owns its
    pipe: closing it from elsewhere would block for as long as the thread reads.
    """

    def __init__(self, popen: subprocess.Popen[bytes], job: Job) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def watch(self, on_output: OnOutput, on_exit: OnExit) -> None:
        for stream, pipe in ((STDOUT, self._popen.stdout), (STDERR, self._popen.stderr)):
            threading.Thread(target=self._read, args=(stream, pipe, on_output), daemon=True).start()
        threading.Thread(target=self._wait, args=(on_exit,), daemon=True).start()

    def has_exited(self) -> bool:
        return self._popen.poll() is not None

    def terminate(self) -> bool:
        # A console event reaches only processes of our own console, and a library's host may have none.
        return False

    def kill(self) -> None:
        self._job.terminate()

    def reap(self) -> bool:
        self._popen.wait()
        return self._job.active_processes() == 0

    def close(self) -> tuple[int | None, int | None]:
        self._closed = True
        self._job.close()
        return self._popen.returncode, None

    def _read(self, stream: int, pipe: IO[bytes], on_output: OnOutput) -> None:
        with pipe, suppress(OSError):
            while chunk := pipe.read(_CHUNK):
                handled = threading.Event()
                if not self._post(self._deliver, stream, chunk, on_output, handled):
                    return
                # The next chunk waits until this one is handled: that bounds the memory.
                handled.wait()
        self._post(self._deliver, stream, b"", on_output, threading.Event())

    def _deliver(self, stream: int, chunk: bytes, on_output: OnOutput, handled: threading.Event) -> None:
        try:
            if not self._closed:
                on_output(stream, chunk)
        finally:
            handled.set()

    def _wait(self, on_exit: OnExit) -> None:
        self._popen.wait()
        self._post(on_exit)

    def _post(self, callback: Callable[..., object], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits
            return False
        return True


def start(
    argv: Sequence[str],
    *,
    cwd: Path | None,
    env: Mapping[str, str],
    guard: Sequence[str] | None,
    on_output: OnOutput,
    on_exit: OnExit,
) -> Process:
    """Start a child in a job of its own; the callbacks come on the running loop."""
    program = _resolve(argv[0], env)
    with ExitStack() as on_failure:
        job = Job()
        on_failure.callback(job.close)
        popen = subprocess.Popen(
            [*(guard or ()), program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=env,
            creationflags=job.creation_flags,
        )
        on_failure.callback(_abandon, popen)
        # Suspended until it is in the job: what it starts before that would not be.
        job.adopt(popen.pid)
        process = Process(popen, job)
        process.watch(on_output, on_exit)
        on_failure.pop_all()
    return process


def _resolve(program: str, env: Mapping[str, str]) -> str:
    if not os.path.dirname(program):  # noqa: PTH120 - the system would look beside this process's executable first
        found = shutil.which(program, path=env.get("PATH", os.defpath)) if program else None
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
        program = found
    if PurePath(program).suffix.lower() in {".bat", ".cmd"}:
        # These go through cmd.exe, which reads arguments as commands.
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), program)
    return program


def _abandon(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    for pipe in (popen.stdout, popen.stderr):
        if pipe is not None:
            pipe.close()


def kill_group(pid: int) -> bool:
    """Kill a process and its descendants; False when it is gone."""
    try:
        process = psutil.Process(pid)
        members = [*process.children(recursive=True), process]
    except psutil.Error:
        return False
    for member in members:
        with suppress(psutil.Error):
            member.kill()
    return True
