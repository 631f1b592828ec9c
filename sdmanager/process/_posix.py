from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psutil

from ._executable import resolve
from ._guard import GUARD_COMMAND, close_lifeline, create_lifeline, exit_code_and_signal
from ._types import STDERR, STDOUT, OnExit, OnOutput

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from pathlib import Path

assert sys.platform != "win32"  # noqa: S101 - for the type checker

logger = logging.getLogger("sdmanager.process")

_CHUNK = 65536
_DEAD = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_UNGUARDED = 2.0  # seconds; see Process._on_lifeline


class Process:
    """The group of one child. See `_types.Process`."""

    def __init__(
        self, popen: subprocess.Popen[bytes], lifeline: socket.socket, pipes: dict[int, int], on_exit: OnExit
    ) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._lifeline = lifeline
        self._pipes = pipes
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._pidfd: int | None = None
        self._unguarded: asyncio.TimerHandle | None = None
        self._wait_status: int | None = None
        self._reaped = False

    def watch(self, on_output: OnOutput, *, watch_lifeline: bool) -> None:
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._loop.add_reader(pipe, self._on_readable, stream, on_output)
        if watch_lifeline:
            self._loop.add_reader(self._lifeline, self._on_lifeline)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system, an old kernel, a container's filter
            threading.Thread(target=self._wait_in_thread, name="sdmanager-wait", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._on_pidfd)

    def has_exited(self) -> bool:
        if self._reaped:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except AttributeError:  # no waitid on this system: the watching thread tells
            return self._popen.returncode is not None
        except ChildProcessError:
            return True

    def terminate(self) -> bool:
        self._signal(signal.SIGTERM)
        return True

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def reap(self) -> bool:
        if not self._reaped:
            self._reap_leader()
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS answers EPERM for zombies
            return True
        gone = not _has_living_members(self.pid)
        with suppress(ChildProcessError):
            # Where this process inherits orphans, they are its zombies; after the look, since they may end now.
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        return gone

    def close(self) -> tuple[int | None, int | None]:
        for stream in list(self._pipes):
            self._close_pipe(stream)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._unguarded is not None:
            self._unguarded.cancel()
        self._loop.remove_reader(self._lifeline)
        close_lifeline(self._lifeline)
        if self._wait_status is None:
            return None, None
        return exit_code_and_signal(os.waitstatus_to_exitcode(self._wait_status))

    def abort(self) -> None:
        self.kill()
        self._reap_leader()
        self.close()

    def _signal(self, number: int) -> None:
        # Not from a fork of this process, and not once the group's id may be another's.
        if not self._reaped and os.getpid() == self._owner:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _reap_leader(self) -> None:
        self._reaped = True
        if self._popen.returncode is not None:  # by the watching thread
            code = self._popen.returncode
            self._wait_status = -code if code < 0 else code << 8
            return
        # Popen.wait would say 0 when somebody else in this process reaped the child.
        with suppress(ChildProcessError):
            self._wait_status = os.waitpid(self.pid, 0)[1]
        self._popen.returncode = self._wait_status or 0

    def _on_readable(self, stream: int, on_output: OnOutput) -> None:
        try:
            chunk = os.read(self._pipes[stream], _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        if not chunk:
            self._close_pipe(stream)
        on_output(stream, chunk)

    def _close_pipe(self, stream: int) -> None:
        pipe = self._pipes.pop(stream)
        self._loop.remove_reader(pipe)
        os.close(pipe)

    def _on_pidfd(self) -> None:
        assert self._pidfd is not None  # noqa: S101
        self._loop.remove_reader(self._pidfd)
        self._on_exit()

    def _on_lifeline(self) -> None:
        # The watcher ended. The guard ends it just before itself; if the guard goes on, somebody killed the
        # watcher, and the child would survive this process. The wait is for a guard on a busy machine.
        self._loop.remove_reader(self._lifeline)
        self._unguarded = self._loop.call_later(_UNGUARDED, self._end_unguarded)

    def _end_unguarded(self) -> None:
        logger.error("the guard of %d lost its watcher: killing the group", self.pid)
        self.kill()

    def _wait_in_thread(self) -> None:
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except AttributeError:
            # Reaped before the group is killed: its id stays taken as long as the group has members.
            self._popen.wait()
        except ChildProcessError:
            pass
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._on_exit)


def start(
    argv: Sequence[str],
    *,
    cwd: Path | None,
    env: Mapping[str, str],
    guard: Sequence[str] | None,
    on_output: OnOutput,
    on_exit: OnExit,
) -> Process:
    """Start a child in a group of its own; the callbacks come on the running loop."""
    program = resolve(argv[0], cwd, env)
    with ExitStack() as on_failure, ExitStack() as always:
        lifeline, childs_end = create_lifeline()
        on_failure.callback(close_lifeline, lifeline)
        always.callback(childs_end.close)
        pipes: dict[int, int] = {}
        writers: dict[int, int] = {}
        for stream in (STDOUT, STDERR):
            # Popen's own pipes leak when it fails half-way (Python 3.11).
            pipes[stream], writers[stream] = os.pipe()
            on_failure.callback(os.close, pipes[stream])
            always.callback(os.close, writers[stream])
        popen = subprocess.Popen(
            [*(guard or GUARD_COMMAND), program, *argv[1:]],
            stdin=childs_end.fileno(),
            stdout=writers[STDOUT],
            stderr=writers[STDERR],
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        on_failure.pop_all()
        process = Process(popen, lifeline, pipes, on_exit)
        on_failure.callback(process.abort)
        process.watch(on_output, watch_lifeline=not guard)
        on_failure.pop_all()
    return process


def _has_living_members(group: int) -> bool:
    # Orphans wait as zombies for an init that may take seconds to reap them, or never does in a container.
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getpgid(pid) == group:
                process = psutil.Process(pid)
                # A process whose first thread ended looks like a zombie while the others still hold its memory.
                if process.status() not in _DEAD or process.num_threads() > 1:
                    return True
    return False


def kill_group(pid: int) -> bool:
    """Kill the group that a process leads; False when it leads none, or it is gone."""
    try:
        if os.getpgid(pid) != pid or pid == os.getpgrp():
            return False
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        return False
    return True
