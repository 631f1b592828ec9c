"""A thread with an event loop of its own, for a library that blocks the loop it is awaited on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sdmanager.threads import outlast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self

_T = TypeVar("_T")

# What ends at all ends in milliseconds; what blocks for longer is left to end by itself.
_GRACE: Final = 0.1

# Seconds between two looks at whether the caller's loop is still there.
_LOOK: Final = 1.0


class _Daemons(ThreadPoolExecutor):
    """Daemon threads: those of the loop's own pool would keep the program from ending while they poll a service."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        future: Future[_T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as exc:  # noqa: BLE001 - the future carries it, as it does in any pool
                future.set_exception(exc)
            else:
                future.set_result(result)

        threading.Thread(target=work, name="sdmanager-cloud-call", daemon=True).start()
        return future


class Worker:
    """Runs coroutines in a daemon thread, for as long as it is entered.

    Leaving it waits for what was cancelled, but not for long: a function that blocks the thread cannot be ended, and is
    left behind. Where the caller's loop is closed under it, the work is cancelled within a second.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Daemons(1))

    async def __aenter__(self) -> Self:
        outside = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = outside.create_future()
        threading.Thread(target=self._main, args=(outside,), name="sdmanager-cloud", daemon=True).start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        if kind is GeneratorExit:  # the caller's loop is gone: there is none on which to wait
            return
        await outlast(asyncio.ensure_future(asyncio.wait([self._ended], timeout=_GRACE)))

    async def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """What a coroutine gives; cancelling cancels it, and does not wait for that."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def _main(self, outside: asyncio.AbstractEventLoop) -> None:
        loop = self._loop
        try:
            self._watch(outside)
            loop.run_forever()
            self._watching.cancel()  # what is to end may end
            if tasks := asyncio.all_tasks(loop):  # cancelled before, and closing their connections
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            with contextlib.suppress(RuntimeError):  # the caller's loop did not wait so long
                outside.call_soon_threadsafe(self._tell_end)

    def _watch(self, outside: asyncio.AbstractEventLoop) -> None:
        """End once the caller's loop was closed under the work: nobody can ask for its end any more."""
        self._watching = self._loop.call_later(_LOOK, self._watch, outside)
        if outside.is_closed():
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.stop()

    def _tell_end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
