"""Starting and ending a llama-server, whoever asks for it and whenever."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from sdmanager.errors import PortInUseError, SDManagerError, ServerError, ServerNotRunningError
from sdmanager.process import child_environment
from sdmanager.threads import in_thread

from ._llama_asking import wait_until_ok
from ._llama_ports import free_port, is_taken
from ._llama_process import Lines, LlamaProcess, listens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdmanager.settings import Settings

    from ._llama_command import LlamaCommand

_log = logging.getLogger("sdmanager.resources")

_BIND_SECONDS: Final = 1.0  # within which a program that could not bind its port has said so


class LlamaLife:
    """Brings the process up and down; one of both at a time, and whoever wants the same joins.

    Attributes:
        port: Where it listens; None: not chosen yet.
        lines: What it printed since it was last started.
        error: Why the last start failed, or what it ended with by itself.

    Args:
        name: In messages.
        command: What is started.
        env: More variables for its environment.
        secret: The one that is in no line of its output.
        settings: For its guard.
        ready_timeout: Seconds until its model must be loaded.
        grace: Seconds between asking it to end and killing it.
    """

    def __init__(
        self,
        name: str,
        command: LlamaCommand,
        env: Mapping[str, str],
        secret: str | None,
        settings: Settings,
        *,
        ready_timeout: float,
        grace: float,
    ) -> None:
        self._name, self._command, self._env, self._secret = name, command, env, secret
        self._settings, self._ready_timeout, self._grace = settings, ready_timeout, grace
        self.port = command.port
        self.lines = Lines()
        self.error: SDManagerError | None = None
        self._port_is_known = False  # to clients of this run
        self._process: LlamaProcess | None = None  # one that is ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._joiners = 0
        self._stopping: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there and its model was loaded."""
        return self._process is not None and not self._process.ended.done()

    @property
    def pid(self) -> int | None:
        """Of what runs."""
        return self._process.pid if self._process is not None else None

    def is_wanted(self) -> bool:
        """Whether it runs or is being started."""
        return self.running or self._starting is not None

    def is_of_this_loop(self) -> bool:
        """Whether it was last used in the running event loop."""
        return self._loop is asyncio.get_running_loop()

    def is_of_another_loop(self) -> bool:
        """Whether it runs, or is being started, in another event loop than the running one."""
        return self.is_wanted() and not self.is_of_this_loop()

    def stay_in_loop(self) -> None:
        """All that runs belongs to the event loop of its start.

        Raises:
            ServerError: This is another one.
        """
        if self._process is None and self._starting is None and self._stopping is None:
            self._loop = asyncio.get_running_loop()
        elif not self.is_of_this_loop():
            raise ServerError(
                f"{self._name} was started in another event loop.", hint="Use it within one asyncio.run()."
            )

    async def ensure(self, may: Callable[[], bool]) -> None:
        """Have it run and be ready; see ``LlamaServer.start``.

        Args:
            may: Asked last, whether it may still be started.
        """
        self.stay_in_loop()
        while self._stopping is not None:
            await asyncio.wait([self._stopping])
        # No await from here to the start: a stop in between would find nothing to end.
        if not may():
            raise self._stopped()
        if self.running:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._bring_up(), name="sdmanager-llama-start")
        starting = self._starting
        self._joiners += 1
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            if self._joiners == 1 and not starting.done():
                await self.end()
            raise
        finally:
            self._joiners -= 1
        if starting.cancelled():
            raise self._stopped()
        starting.result()

    def _stopped(self) -> ServerNotRunningError:
        return ServerNotRunningError(f"{self._name} was stopped before it was ready.")

    async def wait_for_start(self, limit: float) -> None:
        """Wait until a start in hand has ended, but no longer than so many seconds."""
        if self._starting is not None:
            await asyncio.wait([self._starting], timeout=limit)

    async def end(self) -> None:
        """Have it dead and collected; if cancelled, that goes on."""
        self.stay_in_loop()
        if self._stopping is None:
            if self._starting is None and self._process is None:
                return
            self._stopping = asyncio.create_task(self._take_down(), name="sdmanager-llama-stop")
        await asyncio.shield(self._stopping)

    async def port_is_taken(self) -> bool:
        """Whether somebody listens where it is to listen."""
        if self.port is None:
            return False
        return await in_thread(is_taken, self._command.host, self.port, self._command.reached_at)

    def leave_port(self) -> None:
        """Take another port, if that is ours to choose and no client of this run knows it yet.

        Raises:
            PortInUseError: It is not.
        """
        if self._command.port is not None or self._port_is_known:
            raise _taken(self.port)
        self.port = None

    async def _bring_up(self) -> None:
        try:
            self.error = None
            if await self.port_is_taken():
                self.leave_port()
            if self.port is None:
                self.port = await in_thread(free_port, self._command.host)
            self.lines = Lines(self._secret)
            process = LlamaProcess(
                self._command.listening_on(self.port),
                child_environment(self._env),
                self.lines,
                self._settings,
                self._grace,
            )
            try:
                await self._wait_until_ready(process, self.port)
            except BaseException:
                await process.stop()
                raise
            self._process, self._port_is_known = process, True
            process.ended.add_done_callback(lambda _: self._on_end(process))
        except SDManagerError as exc:
            self.error = exc
            raise
        finally:
            self._starting = None

    async def _wait_until_ready(self, process: LlamaProcess, port: int) -> None:
        polling = asyncio.create_task(wait_until_ok(self._command.url(port)))
        try:
            await asyncio.wait(
                {polling, process.ended}, timeout=self._ready_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            polling.cancel()
            await asyncio.wait([polling])
        if not process.ended.done() and polling.cancelled():
            raise ServerError(
                f"{self._name} was not ready within {self._ready_timeout:g} s{_said(process)}.",
                hint="Give it more time, or a smaller model.",
            )
        if not process.ended.done() and process.pid is not None:
            # What answers may be another program, which began to listen while this one was being started.
            if await in_thread(listens, process.pid, port) is False:
                await asyncio.wait([process.ended], timeout=_BIND_SECONDS)
            if not process.ended.done():
                return polling.result()
        raise await self._explain_start(process)

    async def _explain_start(self, process: LlamaProcess) -> SDManagerError:
        if process.failure is not None:
            reason = process.failure.strerror or type(process.failure).__name__
            return ServerError(
                f"{self._name} could not be started: {reason}.",
                hint="Check the program in its command: give its whole path, or install it.",
            )
        return _taken(self.port) if await self.port_is_taken() else _ended(self._name, process)

    def _on_end(self, process: LlamaProcess) -> None:
        if self._process is not process:
            return
        self._process = None
        if self._stopping is None and not process.ended.cancelled():
            self.error = _ended(self._name, process)
            _log.warning("%s ended by itself %s", self._name, process.how_it_ended())

    async def _take_down(self) -> None:
        try:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.wait([self._starting])
            if self._process is not None:
                await self._process.stop()
        finally:
            self._process = self._stopping = None


def _ended(name: str, process: LlamaProcess) -> ServerError:
    return ServerError(
        f"{name} ended by itself {process.how_it_ended()}{_said(process)}.",
        hint="Run its command by hand to see all that it prints.",
        details={"last_lines": process.lines.last(20)},
    )


def _said(process: LlamaProcess) -> str:
    words = process.lines.last_words()
    return f"; its last words: {words}" if words else ""


def _taken(port: int | None) -> PortInUseError:
    return PortInUseError(
        f"Another program listens on port {port}.",
        hint="Stop the other program, or give the llama-server another port.",
        details={"port": port},
    )
