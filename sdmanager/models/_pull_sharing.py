"""One transfer for all who ask for the same: callers of this process share it, other processes wait."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from sdmanager.errors import StorageError
from sdmanager.threads import outlast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
    from pathlib import Path

    from ._pull_progress import OnPull, PullProgress
    from .installed import InstalledModel

Begin: TypeAlias = "Callable[[OnPull], Coroutine[None, None, InstalledModel]]"

_POLL_SECONDS: Final = 0.1


@dataclass(slots=True, eq=False)
class _Flight:
    """A pull that is under way, and whom to tell of it."""

    task: asyncio.Task[InstalledModel] | None = None
    listeners: list[OnPull] = field(default_factory=list)
    latest: PullProgress | None = None
    waiting: int = 0

    def report(self, progress: PullProgress) -> None:
        self.latest = progress
        for listener in list(self.listeners):
            listener(progress)


@final
class Pulls:
    """The pulls that are under way in this process. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    async def share(self, key: Hashable, begin: Begin, on_progress: OnPull | None) -> InstalledModel:
        """Wait for the pull of that key on this event loop, which is begun where there is none.

        Args:
            key: Of what is pulled, and how.
            begin: Makes the coroutine, given a function to report to.
            on_progress: What it raises ends the part of this caller, and is raised.

        If cancelled, the others still get theirs; when nobody waits any more, the pull is cancelled, too, and
        has ended before CancelledError goes on.
        """
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        raised: list[BaseException] = []

        def deliver(progress: PullProgress) -> None:
            if on_progress is None or failed.done():
                return
            try:
                on_progress(progress)
            except BaseException as exc:  # noqa: BLE001 - the callback is the caller's, and so is its error
                raised.append(exc)
                failed.set_result(None)

        place = (id(loop), key)
        with self._lock:
            flight = self._flights.get(place)
            if flight is None or flight.task is None or flight.task.done():
                flight = self._flights[place] = _Flight()
                flight.task = loop.create_task(begin(flight.report))
        flight.listeners.append(deliver)
        flight.waiting += 1
        if flight.latest is not None:
            deliver(flight.latest)
        task = flight.task
        assert task is not None  # noqa: S101 - set above
        try:
            either: list[asyncio.Future[Any]] = [task, failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if raised:
                raise raised[0]
            return task.result()
        finally:
            flight.listeners.remove(deliver)
            flight.waiting -= 1
            if not flight.waiting:
                with self._lock:
                    if self._flights.get(place) is flight:
                        del self._flights[place]
                await _end(task)
            if not failed.done():
                failed.cancel()


async def _end(task: asyncio.Task[InstalledModel]) -> None:
    """Cancel a pull that is not done and stay until it has ended."""
    if task.done():
        return
    task.cancel()
    try:
        await outlast(task)
    finally:
        if task.done() and not task.cancelled():
            task.exception()  # seen


@asynccontextmanager
async def turn(lock_file: Path, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Be the only one of all processes for the length of the block.

    Args:
        lock_file: What they agree on; its folder is made.
        on_wait: Called once if another is first.

    Raises:
        StorageError: It cannot be locked.

    If cancelled, the lock is not held.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file, timeout=0, thread_local=False)
    told = False
    while True:
        try:
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            break
        except Timeout:
            if not told:
                told = True
                on_wait()
            await asyncio.sleep(_POLL_SECONDS)
        except (OSError, NotImplementedError) as exc:
            raise StorageError(
                f"The folder of running pulls cannot be used: {getattr(exc, 'strerror', None) or exc}.",
                hint="Check the state folder and its rights; SDMANAGER_HOME names another place.",
                details={"path": str(lock_file)},
            ) from exc
    try:
        yield
    finally:
        lock.release()


PULLS: Final = Pulls()
