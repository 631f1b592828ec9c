"""The life of a server: one state, one table of what may follow, and one way up and down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from sdmanager.errors import (
    SDManagerError,
    ServerAlreadyRunningError,
    ServerError,
    ServerNotRunningError,
)

from .states import NEXT_STATES, ServerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .options import StartOptions
    from .parts import Parts

_log = logging.getLogger("sdmanager.manager")


class Lifecycle:
    """Brings the parts of a server up and down; what each call does in each state is in the manager's table.

    Attributes:
        state: Changed by this class alone.
        options: Of the last start, or None.
        parts: Of a running server, or None.
        error: What it crashed with, or None.

    Args:
        make: Makes the parts; the stack takes down as many as there are when it ends.
        changed: Told of each new state but the first two of a start.
    """

    def __init__(
        self,
        make: Callable[[StartOptions, contextlib.AsyncExitStack], Awaitable[Parts]],
        changed: Callable[[ServerState], None],
    ) -> None:
        self._make = make
        self._changed = changed
        self.state = ServerState.STOPPED
        self.options: StartOptions | None = None
        self.parts: Parts | None = None
        self.error: SDManagerError | None = None
        self._stack = contextlib.AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._joiners = 0
        self._stopping: asyncio.Task[None] | None = None
        self._clearing: asyncio.Task[None] | None = None  # what is left of a server that crashed

    async def start(self, wanted: StartOptions) -> None:
        """Bring it up, or join the start that is going on; see ``DiffusionServerManager.start``."""
        self.stay_in_loop()
        while self.state is ServerState.STOPPING or self._clearing is not None:
            await (self.stop() if self._clearing is None else asyncio.wait([self._clearing]))
        if self.state is ServerState.RUNNING:
            raise ServerAlreadyRunningError("The server runs already.")
        if self.state is ServerState.STARTING:
            if wanted != self.options:
                raise ServerAlreadyRunningError("The server is being started with other options.")
        else:
            self._set(ServerState.STARTING)
            self.options, self.error = wanted, None
            self._starting = asyncio.create_task(self._bring_up(wanted), name="sdmanager-start")
        await self._join_start()

    async def stop(self) -> None:
        """Take everything down, whatever goes on; see ``DiffusionServerManager.stop``."""
        if self.state is ServerState.STOPPED:
            return
        self.stay_in_loop()
        if self._stopping is None:
            self._set(ServerState.STOPPING)
            self._changed(self.state)
            self._stopping = asyncio.create_task(self._take_down(), name="sdmanager-stop")
        await asyncio.shield(self._stopping)

    def crash(self, cause: BaseException) -> None:
        """A part has failed: the others go, too, so that nothing serves or draws in the name of a crashed server."""
        if self.state is ServerState.RUNNING:
            self._fail(_typed(cause))
            self._clearing = asyncio.create_task(self._clear(), name="sdmanager-clear")

    def stay_in_loop(self) -> None:
        """All that runs belongs to the event loop of the start; another one could only wait for it in vain.

        Of what was stopped, or has crashed and is cleared away, nothing runs any more.

        Raises:
            ServerError: This is another one.
        """
        loop = asyncio.get_running_loop()
        cleared = self.state is ServerState.CRASHED and self._clearing is None
        if cleared or self.state is ServerState.STOPPED:
            self._loop = loop
        elif self._loop is not loop:
            raise ServerError(
                "The manager was started in another event loop.",
                hint="Use it within one asyncio.run(), or use BlockingServerManager.",
            )

    def _set(self, state: ServerState) -> None:
        assert state in NEXT_STATES[self.state], (self.state, state)  # noqa: S101 - a fault of this class
        self.state = state

    def _fail(self, error: SDManagerError) -> None:
        self.error = error
        self.parts = None
        self._set(ServerState.CRASHED)
        self._changed(self.state)

    async def _join_start(self) -> None:
        starting = self._starting
        assert starting is not None  # noqa: S101 - the caller is in the state that has one
        self._joiners += 1
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            if self._joiners == 1 and not starting.done():
                await self.stop()
            raise
        finally:
            self._joiners -= 1
        if not starting.cancelled():
            starting.result()
        if self.state is not ServerState.RUNNING:
            raise ServerNotRunningError("The server was stopped before it had started.")

    async def _bring_up(self, options: StartOptions) -> None:
        try:
            self.parts = await self._make(options, self._stack)
        except Exception as exc:
            await self._stack.aclose()
            self._end_if_stopping()
            error = _typed(exc)
            self._fail(error)
            if error is exc:
                raise
            raise error from exc
        self._end_if_stopping()
        self._set(ServerState.RUNNING)
        self._changed(self.state)

    def _end_if_stopping(self) -> None:
        # stop() has asked this task to end, too late for it to notice; the stop takes down what there is.
        if self.state is not ServerState.STARTING:
            raise asyncio.CancelledError

    async def _take_down(self) -> None:
        try:
            if self._clearing is not None:
                await asyncio.wait([self._clearing])
            if self._starting is not None and not self._starting.done():
                self._starting.cancel()
                await asyncio.wait([self._starting])
            await self._stack.aclose()
        except Exception:  # noqa: BLE001 - whatever a part says, the others have been taken down by now
            _log.exception("a part of the server did not stop well")
        finally:
            self.parts = None
            self._starting = self._stopping = None
            self._set(ServerState.STOPPED)
            self._changed(self.state)

    async def _clear(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            self._clearing = None


def _typed(error: BaseException) -> SDManagerError:
    if isinstance(error, SDManagerError):
        return error
    # An unknown error's own words may hold a path or a prompt.
    _log.error("a part of the server failed unexpectedly", exc_info=error)
    return ServerError(f"The server failed unexpectedly ({type(error).__name__}).")
