"""Blocking work beside the event loop, and an event loop beside blocking work."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # here: once the main thread has ended, libraries could import it no more
import contextlib
import contextvars
import functools
import os
import queue
import threading
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from sdmanager.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")


_WORKERS: Final = 16


class _Workers:
    """Threads that take work until the interpreter is gone.

    Those of an executor take none once the main thread has ended, while threads of the user's may still be drawing.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._started = self._unfinished = 0

    def submit(self, function: Callable[[], _T]) -> concurrent.futures.Future[_T]:
        future: concurrent.futures.Future[_T] = concurrent.futures.Future()
        with self._changed:
            if self._unfinished >= self._started and self._started < _WORKERS:
                self._start()
            self._unfinished += 1
            self._tasks.put(functools.partial(_carry_out, future, function))
        return future

    def finish(self) -> None:
        """Wait until all work is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)

    def _start(self) -> None:
        name = f"sdmanager_{self._started}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:  # at exit some Pythons start no thread any more (3.12.1)
            if not self._started:
                raise
            return
        self._started += 1

    def _work(self) -> None:
        while True:
            self._tasks.get()()  # kept in no variable: it holds what it was called with
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()


def _carry_out(future: concurrent.futures.Future[_T], function: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as exc:  # noqa: BLE001 - it is for who waits
        future.set_exception(exc)
        del future  # else it and the error would hold each other
    else:
        future.set_result(result)


# Not the loop's own pool: an application may fill that with calls that wait for us.
_workers = _Workers()


def _forget_workers() -> None:
    global _workers
    _workers = _Workers()


# Daemon threads end anywhere, and what they do may be half done. First registered, this comes last.
atexit.register(lambda: _workers.finish())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


async def beside(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a blocking function in a thread; if cancelled, it is left to end by itself.

    It works until the interpreter is gone, also in a thread that outlives the main one.
    """
    work = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.wrap_future(_workers.submit(work))


async def outlast(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, however often this task is cancelled meanwhile.

    Raises:
        asyncio.CancelledError: Once it is done, if this task was cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a blocking function in a thread and stay until it has returned.

    If cancelled, it is waited for all the same: a thread cannot be ended, and must not go on working in a
    folder that is being removed.
    """
    return await in_stoppable_thread(threading.Event(), function, *args, **kwargs)


async def in_stoppable_thread(
    stop: threading.Event, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """Run a blocking function that looks at an event, and set that event when cancelled.

    If cancelled, it is waited for: it should end soon, with whatever error it likes.
    """
    work = asyncio.ensure_future(beside(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await outlast(work)
        with contextlib.suppress(Exception):  # seen, so that nobody complains that it was not
            work.result()
        raise


class LoopThread:
    """An event loop in a daemon thread, started on first use.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._left: set[asyncio.Task[object]] = set()

    def is_current(self) -> bool:
        """Whether this is the thread of the loop, as it is in callbacks that the loop calls."""
        return threading.current_thread() is self._thread

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What a function gives when it is called on the loop; may be used in the loop's own thread, too."""
        if self.is_current():
            return function(*args, **kwargs)

        async def called() -> _T:
            return function(*args, **kwargs)

        return self.run(lambda _: called())

    def run(
        self,
        begin: Callable[[Callable[[Any], None]], Coroutine[Any, Any, _T]],
        deliver: Callable[[Any], None] = lambda _: None,
    ) -> _T:
        """Run a coroutine on the loop and wait for it; what interrupts the wait cancels it, and waits for that.

        Args:
            begin: Makes the coroutine, given a function that it may call, on the loop, to tell things on its way.
            deliver: Called in this thread, while it waits, with each thing told; what it raises cancels the
                coroutine.

        Raises:
            ServerError: Called in the thread of the loop, which would wait for itself.
        """
        if self.is_current():
            raise ServerError(
                "A blocking call was made in a callback, which would wait for itself.",
                hint="Make it in another thread, or after the callback.",
            )
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = object()
        tasks: list[asyncio.Task[_T]] = []

        async def whole() -> _T:
            return await begin(told.put)  # here, so that what making it raises is this task's error

        def launch() -> None:
            tasks.append(asyncio.get_running_loop().create_task(whole()))
            tasks[0].add_done_callback(lambda _: told.put(end))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # it was never begun
                told.put(end)

        loop = self._running_loop()
        try:
            loop.call_soon_threadsafe(launch)
            while (fact := told.get()) is not end:
                deliver(fact)
        except BaseException:
            loop.call_soon_threadsafe(cancel)  # after launch(), if that is to be
            while told.get() is not end:  # until nothing of it runs any more
                pass
            if tasks and not tasks[0].cancelled():
                tasks[0].exception()  # seen: this error takes its place
            raise
        return tasks[0].result()

    def leave(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine on the loop that nobody waits for, from the loop's own thread."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    def close(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        """Cancel what runs, wait for it, and end the thread; idempotent.

        Args:
            before: Awaited on the loop first.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_all(before), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def forget(self) -> None:
        """In a forked child the thread does not exist: start afresh."""
        self.__init__(self._name)  # type: ignore[misc]

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
            return self._loop


async def _end_all(before: Callable[[], Awaitable[None]] | None) -> None:
    if before is not None:
        await before()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    # At exit some Pythons start no thread any more (3.12.1); the workers are joined by then.
    with contextlib.suppress(RuntimeError):
        await asyncio.get_running_loop().shutdown_default_executor()
