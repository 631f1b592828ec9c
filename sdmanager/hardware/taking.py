"""Snapshots of this machine, remembered for a while and shared by all who ask at once."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from sdmanager.threads import beside

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sdmanager.settings import Settings

    from .snapshot import HardwareSnapshot


async def take_snapshot(
    settings: Settings, *, max_age: float = 30.0, time_limit: float = 5.0
) -> HardwareSnapshot:
    """Look at this machine, or return what was seen a moment ago.

    Args:
        settings: The guard of child processes.
        max_age: Seconds since the beginning of an earlier look for which its result will do; 0 looks anew.
        time_limit: Seconds after which what is still unknown stays None, with a line in ``problems``.

    Those who ask at once on one event loop share one look. If cancelled, the others still get theirs; when
    nobody waits any more, every process of the look is dead before CancelledError goes on.
    """

    async def look() -> HardwareSnapshot:
        from ._machine import this_machine
        from ._probe import probe

        return await probe(await beside(this_machine, settings.guard), time_limit)

    return await _LOOKS.get(look, max_age=max_age, time_limit=time_limit)


@dataclass(slots=True, eq=False)
class _Flight:
    """A look that is under way, and how many wait for it."""

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[HardwareSnapshot]
    started: float
    deadline: float
    waiting: int = 0


@final
class Looks:
    """Remembers the newest look and shares those under way. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the time from this clock."""
        self._clock = clock
        self._lock = threading.Lock()
        self._flights: list[_Flight] = []
        self._newest: HardwareSnapshot | None = None
        self._newest_at = 0.0

    async def get(
        self,
        look: Callable[[], Coroutine[None, None, HardwareSnapshot]],
        *,
        max_age: float,
        time_limit: float,
    ) -> HardwareSnapshot:
        """What was seen at most `max_age` seconds ago, or the result of a new look."""
        now = self._clock()
        with self._lock:
            if self._newest is not None and now - self._newest_at < max_age:
                return self._newest
            flight = self._join(now, max_age, time_limit) or self._start(look, now, time_limit)
            flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            with self._lock:
                flight.waiting -= 1
                abandoned = not flight.waiting and not flight.task.done()
                if abandoned and flight in self._flights:
                    self._flights.remove(flight)
            if abandoned:
                await _end(flight.task)

    def _join(self, now: float, max_age: float, time_limit: float) -> _Flight | None:
        loop = asyncio.get_running_loop()
        for flight in self._flights:
            young = now - flight.started <= max_age
            if (
                flight.loop is loop
                and young
                and flight.deadline <= now + time_limit
                and not flight.task.done()
            ):
                return flight
        return None

    def _start(
        self, look: Callable[[], Coroutine[None, None, HardwareSnapshot]], now: float, time_limit: float
    ) -> _Flight:
        loop = asyncio.get_running_loop()
        flight = _Flight(loop, loop.create_task(look()), now, now + time_limit)
        self._flights.append(flight)
        flight.task.add_done_callback(lambda task: self._land(flight, task))
        return flight

    def _land(self, flight: _Flight, task: asyncio.Task[HardwareSnapshot]) -> None:
        with self._lock:
            if flight in self._flights:
                self._flights.remove(flight)
            if not task.cancelled() and task.exception() is None and flight.started >= self._newest_at:
                self._newest, self._newest_at = task.result(), flight.started


async def _end(task: asyncio.Task[HardwareSnapshot]) -> None:
    """Cancel a look and stay until its processes are dead; another cancellation must not leave them."""
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue


_LOOKS = Looks()
