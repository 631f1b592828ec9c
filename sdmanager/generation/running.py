"""What runs in a generator, on whichever event loops it is used: one after the other, or several at once in threads."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds between two looks at whether the loops of others still run.
_LOOK: Final = 1.0


class RunningTasks:
    """The tasks that are busy in a generator."""

    def __init__(self) -> None:
        # Not futures of asyncio: whoever waits may do so on another loop.
        self._ended: dict[asyncio.Task[Any], Future[None]] = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._ended)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Count the current task in."""
        task, ended = asyncio.current_task(), Future[None]()
        if task is not None:
            self._ended[task] = ended
        try:
            yield
        finally:
            if task is not None:
                self._ended.pop(task, None)
            ended.set_result(None)

    async def cancel_others(self) -> None:
        """Cancel all tasks but the current one, and wait until they have ended.

        What a loop was stopped or closed under is not waited for: it does not go on. If cancelled, the tasks are
        cancelled all the same.
        """
        others = self._ended.copy()
        if (current := asyncio.current_task()) is not None:
            others.pop(current, None)
        for task in others:
            _cancel(task)
        while waiting := [ended for task, ended in others.items() if not ended.done() and _can_end(task)]:
            await asyncio.wait([asyncio.wrap_future(ended) for ended in waiting], timeout=_LOOK)
        for task in others:
            if task.get_loop().is_closed():
                self._ended.pop(task, None)


class LoopLocks:
    """A lock for each event loop: a lock of asyncio may be used on one loop only."""

    def __init__(self) -> None:
        self._locks: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    def current(self) -> asyncio.Lock:
        """That of the running loop."""
        for loop in self._locks.copy():
            if loop.is_closed():
                self._locks.pop(loop, None)
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _cancel(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
        return
    with contextlib.suppress(RuntimeError):  # closed
        loop.call_soon_threadsafe(task.cancel)


def _can_end(task: asyncio.Task[Any]) -> bool:
    return task.get_loop().is_running()
