"""A program that does as a test says, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools

from held import FREE, HELD, snapshot

from sdmanager import threads
from sdmanager.errors import OffloadError, RestoreError
from sdmanager.resources import Holding


async def until(reached, seconds=10.0):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.002)


def fill(disk):
    """Leave no byte free."""
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


class Program:
    """Offloadable: what it holds, what was asked of it, and what goes wrong.

    ``failing`` are calls that raise; calls in ``slow`` wait for ``gate``.
    """

    def __init__(self, name="held", model="llama"):
        self.name, self.model = name, model
        self.calls, self.failing, self.slow = [], set(), set()
        self.gate = asyncio.Event()

    async def _called(self, call):
        self.calls.append(call)
        if call in self.slow:
            await self.gate.wait()

    async def holding(self):
        await self._called("holding")
        if "holding" in self.failing:
            raise ValueError("broken")
        return Holding(self.model, HELD, None, {"model": self.model}) if self.model else None

    async def put_aside(self, holding):
        await self._called("put_aside")
        if "put_aside" in self.failing:
            raise OffloadError("The program refuses.")
        self.model = None

    async def restore(self, state):
        await self._called("restore")
        if "restore" in self.failing:
            raise RestoreError("The program is not back.")
        self.model = self.model or state["model"]

    @property
    def moves(self):
        """What it was asked for, but for questions."""
        return [call for call in self.calls if call != "holding"]

    async def look(self):
        return snapshot(FREE - HELD if self.model else FREE)


class Time:
    """A clock that stands still, and sleeps that end when it is moved."""

    def __init__(self):
        self.now = 1000.0
        self._sleeping, self._order = [], itertools.count()

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._order), woken))
        await woken

    async def pass_by(self, seconds):
        """Move on, and let everything happen that was due on the way."""
        end = self.now + seconds
        while True:
            await settled()
            self._sleeping = [each for each in self._sleeping if not each[2].done()]
            heapq.heapify(self._sleeping)
            if not self._sleeping or self._sleeping[0][0] > end:
                break
            self.now, _, woken = heapq.heappop(self._sleeping)
            woken.set_result(None)
        self.now = end

    @property
    def next_due(self):
        """Seconds until the next sleep ends; None: nobody sleeps."""
        due = [when for when, _, woken in self._sleeping if not woken.done()]
        return min(due) - self.now if due else None


async def settled():
    """Let tasks run until they wait for something that a test decides; what they do in threads is waited for."""
    for _ in range(20):
        await asyncio.sleep(0)
        while threads._workers._unfinished:
            await asyncio.sleep(0.001)
