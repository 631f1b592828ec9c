"""Any other program: put aside and brought back by two commands or functions of the user's."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from sdmanager.errors import InvalidRequestError, OffloadError, RestoreError
from sdmanager.process import run
from sdmanager.threads import beside

from ._asking import until
from ._offload_checks import checked_bytes, checked_name, checked_seconds
from .offloadable import Holding

if TYPE_CHECKING:
    from .offloadable import State

logger = logging.getLogger("sdmanager.resources")

Hook: TypeAlias = "Sequence[str | os.PathLike[str]] | Callable[[], object] | Callable[[], Awaitable[object]]"
"""An argument list, or a function, plain or async, that takes nothing."""

_OUTPUT_MAX: Final = 4096
_WORDS_MAX: Final = 200


class _HookError(Exception):
    """A hook failed; the text goes on from its name."""


class HookOffloadable:
    """A program that two commands or functions put aside and bring back.

    Commands are run without a shell and with empty input; whatever a command has started ends with it, unless it
    is in a session of its own: have services started by what manages them (``systemctl --user start``,
    ``docker start``). Plain functions are called in a thread, async ones on the event loop. ``restore`` may be
    called where the program is back already, and should then do nothing; with ``holds`` it is not.

    Args:
        name: By which it is known; it stays the same between runs.
        put_aside: Has it let go of its memory. It is done when it returns.
        restore: Brings it back.
        ram_bytes: What it takes of RAM; None: unknown.
        vram_bytes: Likewise of VRAM.
        holds: Whether it holds memory now: a function that returns that, or a command whose exit code is 0 if it
            does. None: it always does, unless we have put it aside.
        timeout: Seconds for each of them, and for what they did to show in ``holds``.

    Raises:
        InvalidRequestError: Something given cannot be used.
    """

    def __init__(
        self,
        name: str,
        put_aside: Hook,
        restore: Hook,
        *,
        ram_bytes: int | None = None,
        vram_bytes: int | None = None,
        holds: Hook | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._name = checked_name(name)
        self._ram = checked_bytes(ram_bytes, "ram_bytes")
        self._vram = checked_bytes(vram_bytes, "vram_bytes")
        self._timeout = checked_seconds(timeout, "timeout")
        self._put_aside = _Call(put_aside, "put_aside", self._timeout)
        self._restore = _Call(restore, "restore", self._timeout)
        self._holds = None if holds is None else _Call(holds, "holds", self._timeout)
        self._lock = asyncio.Lock()
        self._is_back: bool | None = None  # what we ourselves saw to; None: nothing, or it was broken off

    @property
    def name(self) -> str:
        """By which it is known."""
        return self._name

    def __repr__(self) -> str:
        return f"HookOffloadable({self._name!r})"

    async def holding(self) -> Holding | None:
        """What was given, where it holds memory. Raises nothing but CancelledError."""
        held = self._is_back is not False if self._holds is None else await self._is_held()
        return Holding(self._name, self._ram, self._vram) if held else None

    async def put_aside(self, holding: Holding) -> None:  # noqa: ARG002 - there is but one thing to hold
        """Call ``put_aside``, and see by ``holds`` that it let go.

        Raises:
            OffloadError: It fails, or takes longer than ``timeout``.

        If cancelled, a command is ended; a function in a thread goes on, and the next call waits for it.
        """
        async with self._lock:
            self._is_back = None
            try:
                await self._settle_threads()
                await self._put_aside()
                if self._holds is not None and not await until(self._is_free, self._timeout):
                    raise _HookError(f"was called, and it still holds memory after {self._timeout:g} s")
            except _HookError as exc:
                raise OffloadError(
                    f"{self._name} could not be put aside: its hook put_aside {exc}.",
                    details={"name": self._name},
                ) from exc
            self._is_back = False

    async def restore(self, state: State) -> None:  # noqa: ARG002 - the hooks know
        """Call ``restore``, unless it is back, and see by ``holds`` that it is.

        Raises:
            RestoreError: It fails, or takes longer than ``timeout``.

        If cancelled, as for `put_aside`.
        """
        async with self._lock:
            try:
                await self._settle_threads()
                if self._is_back or (self._holds is not None and await self._is_held()):
                    self._is_back = True
                    return
                self._is_back = None
                await self._restore()
                if self._holds is not None and not await until(self._is_held, self._timeout):
                    raise _HookError(f"was called, and it is not back after {self._timeout:g} s")
            except _HookError as exc:
                raise RestoreError(
                    f"{self._name} could not be brought back: its hook restore {exc}.",
                    details={"name": self._name},
                ) from exc
            self._is_back = True

    async def _settle_threads(self) -> None:
        """What a thread still does would undo what comes next."""
        for call in (self._put_aside, self._restore):
            await call.settle()

    async def _is_held(self) -> bool:
        """As ``holds`` says; False where it cannot say."""
        return await self._ask() is True

    async def _is_free(self) -> bool:
        return await self._ask() is False

    async def _ask(self) -> bool | None:
        assert self._holds is not None  # noqa: S101 - for the type
        try:
            return bool(await self._holds(asks=True))
        except _HookError as exc:
            logger.warning("The hook holds of %s %s", self._name, exc)
            return None


class _Call:
    """One hook."""

    def __init__(self, hook: Hook, what: str, timeout: float) -> None:
        self._timeout = timeout
        self._function: Callable[[], object] | None = None
        self._command: list[str] = []
        self._thread: asyncio.Future[object] | None = None
        if callable(hook):
            self._function = hook
        else:
            self._command = _command_of(hook, what)

    async def __call__(self, *, asks: bool = False) -> object:
        """What a function returns, or whether a command ended with 0, which it must unless it `asks`.

        Raises:
            _HookError: It fails, or takes too long.
        """
        try:
            async with asyncio.timeout(self._timeout):
                if self._function is None:
                    return await self._run(asks=asks)
                return await self._called(self._function)
        except TimeoutError:
            raise _HookError(f"took longer than {self._timeout:g} s") from None

    async def settle(self) -> None:
        """Wait for a thread that was left behind.

        Raises:
            _HookError: It takes too long.
        """
        if self._thread is not None and not self._thread.done():
            await asyncio.wait([self._thread], timeout=self._timeout)
            if not self._thread.done():
                raise _HookError("cannot be called while an earlier call still runs")
        self._thread = None

    async def _called(self, function: Callable[[], object]) -> object:
        await self.settle()
        try:
            if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
                result = function()
            else:
                self._thread = asyncio.ensure_future(beside(function))
                self._thread.add_done_callback(_see)
                result = await asyncio.shield(self._thread)
            return await result if inspect.isawaitable(result) else result
        except _HookError:
            raise
        except Exception as exc:
            words = _last_words(str(exc))
            raise _HookError(f"raised {type(exc).__name__}{f': {words}' if words else ''}") from exc

    async def _run(self, *, asks: bool) -> bool:
        program = os.path.basename(self._command[0])  # noqa: PTH119 - a name as good as any
        try:
            done = await run(self._command, limit=_OUTPUT_MAX)
        except OSError as exc:
            raise _HookError(f"cannot run {program}: {exc.strerror or type(exc).__name__}") from exc
        if done.status.ok:
            return True
        if asks and done.status.code is not None:
            return False
        how = f"code {done.status.code}" if done.status.code is not None else f"signal {done.status.signal}"
        words = _last_words(done.stderr.decode(errors="replace"))
        raise _HookError(f"ended with {how}{f': {words}' if words else ''}")


def _see(thread: asyncio.Future[object]) -> None:
    if not thread.cancelled():
        thread.exception()  # seen, so that nobody complains that it was not


def _command_of(hook: object, what: str) -> list[str]:
    words = list(hook) if isinstance(hook, Sequence) and not isinstance(hook, str | bytes) else []
    texts = [os.fspath(word) for word in words if isinstance(word, str | os.PathLike)]
    command = [text for text in texts if isinstance(text, str) and "\0" not in text]
    if not command or len(command) != len(words) or not command[0]:
        raise InvalidRequestError(
            f"The hook {what} must be an argument list or a function.",
            hint='Write it like ["systemctl", "--user", "stop", "my-model"]; there is no shell.',
        )
    return command


def _last_words(text: str) -> str:
    """The last line, shortened, without its full stop and without what moves a terminal's cursor."""
    lines = [line for line in text.splitlines() if line.strip()]
    shown = "".join(char for char in (lines[-1].strip() if lines else "") if char.isprintable())
    return shown[:_WORDS_MAX].rstrip(".")
