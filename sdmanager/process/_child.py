from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

from ._environment import child_environment
from ._platform import start
from ._types import STDERR, STDOUT, ExitStatus, OnExit, OnOutput, Process, StopOutcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger("sdmanager.process")

_GROUP_POLL = 0.005


@final
class Child:
    """A running child and everything it started. Only `spawn` makes one; use it on that event loop.

    Everything here is driven by callbacks of the loop rather than by a task: a task could be cancelled
    (`asyncio.run` cancels all of them when it ends), and the child would outlive it.

    Attributes:
        pid: The leader of the child's group; with a guard, the guard.
    """

    pid: int

    def __init__(
        self,
        begin: Callable[[OnOutput, OnExit], Process],
        callbacks: Mapping[int, Callable[[bytes], None]],
        *,
        grace: float,
        backstop: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks = callbacks
        self._grace = grace
        self._backstop = backstop
        self._open_streams = set(callbacks)
        self._outcome = StopOutcome.EXITED
        self._exited = False
        self._deadline = 0.0
        self._settle_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        self._final: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._process = begin(self._on_output, self._on_exit)
        self.pid = self._process.pid

    async def wait(self) -> ExitStatus:
        """Wait until the child ended and its group is gone.

        The output is complete by then, unless a process that left the group holds a pipe beyond the backstop.

        Returns:
            How it ended.

        Raises:
            Exception: Whatever an output callback raised; the child was ended for it.

        If cancelled, the child goes on; leaving the `spawn` block ends it.
        """
        await asyncio.wait([self._final])
        self._raise_callback_error()
        return self._final.result()

    async def stop(self, grace: float | None = None) -> ExitStatus:
        """End the child: ask its group, and kill what is left after the grace. May be called repeatedly.

        Args:
            grace: Seconds between asking and killing; by default what `spawn` was given. 0 kills at once.
                Of several calls the earliest deadline counts.

        Returns:
            How it ended; EXITED if it had done so before this call.

        If cancelled, stopping goes on.
        """
        self._begin_stop(self._grace if grace is None else grace)
        await asyncio.wait([self._final])
        return self._final.result()

    async def _end(self) -> None:
        self._begin_stop(self._grace)
        cancelled: asyncio.CancelledError | None = None
        while not self._final.done():
            try:
                await asyncio.wait([self._final])
            except asyncio.CancelledError as error:
                # The rest takes grace and backstop at most; leaving now would leave the child.
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _raise_callback_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _begin_stop(self, grace: float) -> None:
        if self._exited or self._outcome is StopOutcome.KILLED or self._process.has_exited():
            return
        if grace <= 0:
            self._kill()
            return
        if self._outcome is StopOutcome.EXITED:
            self._outcome = StopOutcome.TERMINATED
            if not self._process.terminate():
                self._kill()
                return
        deadline = self._loop.time() + grace
        if self._kill_timer is None or deadline < self._kill_timer.when():
            _cancel(self._kill_timer)
            self._kill_timer = self._loop.call_at(deadline, self._kill)

    def _kill(self) -> None:
        if self._exited or self._process.has_exited():
            return
        self._outcome = StopOutcome.KILLED
        _cancel(self._kill_timer)
        self._process.kill()

    def _on_output(self, stream: int, chunk: bytes) -> None:
        if not chunk:
            self._open_streams.discard(stream)
            if self._exited:
                self._settle()
        elif self._error is None:
            try:
                self._callbacks[stream](chunk)
            except Exception as error:  # noqa: BLE001 - the callback is the caller's, and so is its error
                self._error = error
                self._begin_stop(self._grace)

    def _on_exit(self) -> None:
        if self._exited:
            return
        self._exited = True
        _cancel(self._kill_timer)
        # While the leader is a zombie its id cannot be used again, so this reaches nobody else.
        self._process.kill()
        self._deadline = self._loop.time() + self._backstop
        self._settle()

    def _settle(self) -> None:
        if self._final.done():
            return
        _cancel(self._settle_timer)
        late = self._loop.time() >= self._deadline
        if self._open_streams and not late:
            self._settle_timer = self._loop.call_at(self._deadline, self._settle)
            return
        gone = self._process.reap()
        if not gone and not late:
            # Killed processes end when the system lets them; a driver may take its time with the memory.
            self._settle_timer = self._loop.call_later(_GROUP_POLL, self._settle)
            return
        if not gone:
            logger.warning(
                "processes of group %d still there %.1f s after their kill", self.pid, self._backstop
            )
        if self._open_streams:
            logger.warning("output of %d cut: a process outside its group holds the pipe", self.pid)
        code, signal = self._process.close()
        self._final.set_result(ExitStatus(code, signal, self._outcome))
        # The child and its process hold each other: what the callbacks hold must not wait for the collector.
        self._callbacks = {}


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


@asynccontextmanager
async def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
    grace: float = 2.0,
    backstop: float = 1.0,
    guard: Sequence[str] | None = None,
) -> AsyncIterator[Child]:
    """Run a child for the length of the block.

    However the block is left, the child and its whole group are dead and reaped afterwards, and no
    callback is called again. The child also dies when this process does, killed or not. A process that
    leaves the group (`setsid`) is not followed. The child's stdin is empty.

    Args:
        argv: The program and its arguments, passed unchanged. A bare name is looked up in PATH of `env`.
        cwd: Working directory; by default this process's.
        env: The whole environment; by default `child_environment()`. On POSIX, variables whose names a
            shell cannot hold may get lost.
        on_stdout: Called on the event loop with chunks of at most 64 KiB as they arrive. The child waits
            while it runs, so memory stays bounded.
        on_stderr: The same for the other stream.
        grace: Seconds between the polite stop and the kill.
        backstop: Seconds to wait after the child's end for its pipes and its group.
        guard: On POSIX, a command that replaces the built-in guard. It is followed by `argv`, must run
            it with empty stdin and pass its exit code on, and must kill its own process group as soon as
            its stdin ends.

    Yields:
        The running child.

    Raises:
        FileNotFoundError: There is no such program or working directory.
        PermissionError: The program may not be executed.
        OSError: With errno ENOEXEC the program is not for this machine; otherwise the system refused.
        Exception: Whatever an output callback raised, when the block itself ends without an exception.

    If cancelled, the child is stopped first: at most `grace` plus `backstop` later CancelledError goes on.
    """
    if not argv:
        message = "argv is empty: there is no program to run"
        raise ValueError(message)
    arguments = [str(argument) for argument in argv]
    environment = dict(child_environment() if env is None else env)

    def begin(on_output: OnOutput, on_exit: OnExit) -> Process:
        return start(arguments, cwd=cwd, env=environment, guard=guard, on_output=on_output, on_exit=on_exit)

    child = Child(begin, {STDOUT: on_stdout, STDERR: on_stderr}, grace=grace, backstop=backstop)
    try:
        yield child
    finally:
        await child._end()
    child._raise_callback_error()
