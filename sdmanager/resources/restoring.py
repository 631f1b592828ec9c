"""Brings back what is aside: in the background, again and again, and never while pictures are drawn."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import SDManagerError
from sdmanager.threads import in_thread, outlast

from .breaker import FIRST_DELAY, Breaker
from .journal import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from .journal import Entry, Journal
    from .limits import Limits
    from .offloadable import Offloadable

_LOG = logging.getLogger("sdmanager.resources")

_AT_ONCE: Final = 0.0


@dataclass(slots=True, eq=False)
class Aside:
    """One program that is ours to bring back.

    Attributes:
        entry: In the journal.
        breaker: Says when to try again.
        error: Why the last attempt failed.
        due: When it is tried, on the clock of the limits; None: not by itself, or right now.
        not_before: When it may be tried by itself, on the same clock; None: at any time.
        trying: Whether an attempt is going on.
        limit: Of the attempt that is going on.
        broken_off: Whether that has to end for a picture.
        given_up: Whether the breaker has opened, and nobody has asked since.
        task: Waits and tries.
    """

    entry: Entry
    breaker: Breaker = field(default_factory=Breaker)
    error: str | None = None
    due: float | None = None
    not_before: float | None = None
    trying: bool = False
    limit: asyncio.Timeout | None = None
    broken_off: bool = False
    given_up: bool = False
    task: asyncio.Task[object] | None = None


class Restorer:
    """Owns what is aside, and the tasks that bring it back.

    Args:
        journal: Where each is written down.
        offloadables: By name.
        limits: Times.
        changed: Told whenever something of this changed.
    """

    def __init__(
        self,
        journal: Journal,
        offloadables: Mapping[str, Offloadable],
        limits: Limits,
        changed: Callable[[], None],
    ) -> None:
        self._journal, self._offloadables, self._limits = journal, offloadables, limits
        self._changed = changed
        self._aside: dict[str, Aside] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._paused = self._closing = False
        self._waiting = 0
        self._news = asyncio.Event()

    @property
    def aside(self) -> tuple[Aside, ...]:
        """All, the oldest first."""
        return tuple(self._aside.values())

    @property
    def is_trying(self) -> bool:
        """Whether something is being brought back right now."""
        return any(each.trying for each in self.aside)

    def of(self, name: str) -> Aside | None:
        """What is aside of a program."""
        return next((each for each in self.aside if each.entry.name == name), None)

    def keep(self, entry: Entry, before: Aside | None = None) -> Aside:
        """From here on it is to be brought back; only while paused, or for what was left by others.

        Args:
            entry: In the journal.
            before: What it is to take the place of; how that fared is remembered.
        """
        kept = self._aside[entry.id] = Aside(entry)
        if before is not None:
            kept.breaker, kept.error = before.breaker, before.error
            kept.not_before, kept.given_up = before.not_before, before.given_up
        self.tell()
        return kept

    def drop(self, each: Aside) -> None:
        """It is not to be brought back any more."""
        self._aside.pop(each.entry.id, None)
        self.tell()

    def pause(self) -> None:
        """Begin no attempt until `resume`."""
        self._paused = True
        for each in self.aside:
            self._put_off(each)
        self._wake()

    def resume(self, delay: float) -> None:
        """Bring back everything; what has failed, no sooner than it would have been tried anyway.

        Args:
            delay: Seconds until the first attempt; none where somebody waits for it.
        """
        self._wake()
        if self._closing:
            return
        self._paused = False
        for each in self.aside:
            self._begin(each, _AT_ONCE if self._waiting else delay)

    async def make_way(self) -> None:
        """End the attempts that go on: what has failed before is broken off, for the rest is waited."""
        for each in self.aside:
            if each.error is not None and each.limit is not None and not each.limit.expired():
                each.broken_off = True
                each.limit.reschedule(asyncio.get_running_loop().time())
        await self.until(lambda: not self.is_trying)

    async def try_idle(self) -> None:
        """Try at once whatever nobody is about to try, and wait until each was tried, or a pause begins."""
        if self._paused:
            return
        idle = {each: each.entry.attempts for each in self.aside if each.task is None or each.task.done()}
        for each in idle:
            self._ask(each)

        def was_tried(each: Aside) -> bool:
            gone = each.entry.id not in self._aside
            return gone or (not each.trying and each.entry.attempts > idle[each])

        await self.until(lambda: self._paused or all(map(was_tried, idle)))

    async def wait(self) -> None:
        """Try everything at once, and wait until it is back, or given up for now."""
        self._waiting += 1
        try:
            for each in self.aside:
                self._ask(each)
            await self.until(lambda: all(each.given_up for each in self.aside))
        finally:
            self._waiting -= 1

    async def close(self, seconds: float | None = None) -> None:
        """Wait for attempts that go on, make one for each that is not tried just now, and leave the rest to others.

        Cancelling ends the attempts.

        Args:
            seconds: That this may take; then attempts are ended. None: `Limits.close`.
        """
        self.pause()
        self._closing = True
        try:
            for each in self.aside:
                if not each.trying:
                    self._own(each, self._try(each))
            if self._tasks:
                limit = self._limits.close if seconds is None else seconds
                await asyncio.wait(set(self._tasks), timeout=max(limit, 0.0))
        finally:
            try:
                await self._end_tasks()
            finally:
                await self._leave_rest()

    async def _leave_rest(self) -> None:
        for each in self.aside:
            reason = each.error or "there was no time left."
            _LOG.warning("%s is not back, and is left to the next start: %s", each.entry.name, reason)
        try:
            await in_thread(self._journal.release, *(each.entry for each in self.aside))
        finally:
            self._aside.clear()
            self._closing = self._paused = False
            self.tell()

    async def forget(self) -> None:
        """Bring back nothing of this; attempts that go on are cancelled."""
        await self._end_tasks()
        for each in self.aside:
            await in_thread(self._journal.remove, each.entry)
            self.drop(each)

    def change_loop(self) -> None:
        """The loop that all tasks were in is closed, and nothing of it goes on."""
        self._tasks.clear()
        self._news = asyncio.Event()
        self._paused = self._closing = False
        self._waiting = 0
        for each in self.aside:
            each.task, each.trying, each.due, each.limit = None, False, None, None

    def tell(self) -> None:
        """What is aside has changed."""
        self._wake()
        try:
            self._changed()
        except Exception:  # noqa: BLE001 - a callback of the user's, whose faults are not ours
            _LOG.exception("who is told of programs that are put aside failed")

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at whenever something changed."""
        while not reached():
            await self._news.wait()

    def _ask(self, each: Aside) -> None:
        """Try at once, however often it has failed."""
        each.given_up, each.not_before = False, None
        self._begin(each, _AT_ONCE)

    def _begin(self, each: Aside, delay: float) -> None:
        if not (each.trying or self._paused):
            self._put_off(each)
            now = self._limits.clock()
            if each.not_before is not None:
                delay = max(delay, each.not_before - now)
            each.due = now + delay
            self._own(each, self._bring_back(each, delay))

    def _put_off(self, each: Aside) -> None:
        if each.task is not None and not each.trying:
            each.task.cancel()
            each.task = each.due = None

    def _own(self, each: Aside, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        each.task = asyncio.get_running_loop().create_task(work, name=f"restore-{each.entry.name}")
        self._tasks.add(each.task)
        each.task.add_done_callback(self._tasks.discard)
        return each.task

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await outlast(asyncio.gather(*tasks, return_exceptions=True))

    async def _bring_back(self, each: Aside, delay: float | None) -> None:
        while delay is not None:
            each.due = self._limits.clock() + delay
            self.tell()
            await self._limits.sleep(delay)
            delay = await self._try(each)
            if self._paused or each.entry.id not in self._aside:  # when a pause ends, it is begun anew
                return

    async def _try(self, each: Aside) -> float | None:
        """Try once; seconds until the next attempt, None: it is back."""
        each.trying, each.due, each.broken_off, each.given_up = True, None, False, False
        each.entry = replace(each.entry, phase=Phase.RESTORING, attempts=each.entry.attempts + 1)
        self.tell()
        try:
            try:
                async with asyncio.timeout(self._limits.restore) as each.limit:
                    await in_thread(self._journal.note, each.entry)
                    await self._offloadables[each.entry.name].restore(each.entry.state)
            finally:
                each.limit = None
            try:
                await in_thread(self._journal.remove, each.entry)
            finally:
                self._aside.pop(each.entry.id, None)
        except (Exception, asyncio.CancelledError) as exc:  # whatever it is, it is tried again
            if is_cancelled(exc):
                raise
            return self._failed(each, exc)
        finally:
            each.trying = False
            self.tell()
        return None

    def _failed(self, each: Aside, error: BaseException) -> float:
        if each.broken_off:
            return FIRST_DELAY
        name, now = each.entry.name, self._limits.clock()
        each.error = why(error, f"{name} could not be brought back")
        delay = each.breaker.failed(now)
        each.given_up, each.not_before = each.breaker.is_open(now), now + delay
        if not self._closing:
            _LOG.warning("%s is not back, and is tried again in %g s: %s", name, delay, each.error)
        return delay


def is_cancelled(error: BaseException) -> bool:
    """Whether the caller's task is being cancelled; programs may raise that error by themselves."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def why(error: BaseException, what: str) -> str:
    """One sentence for people; an unknown error's own words may hold what is nobody's business."""
    if isinstance(error, SDManagerError):
        return error.message
    if isinstance(error, TimeoutError):
        return f"{what}: it took too long."
    if isinstance(error, asyncio.CancelledError):
        return f"{what}: it was cancelled."
    _LOG.error("%s", what, exc_info=error)
    return f"{what} ({type(error).__name__})."
