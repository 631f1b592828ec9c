"""Times of the orchestrator, and where it takes the time from."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, slots=True)
class Limits:
    """All in seconds. Calls of an offloadable have limits of their own; these are for those that do not keep theirs.

    Attributes:
        holding: For saying what it holds.
        put_aside: For letting go.
        restore: For coming back.
        settle: For the memory to be free, once a program has let go.
        patience: That memory may stop growing before no more is expected.
        poll: Between two looks at the memory.
        close: That closing takes at the most; half of it may be spent on waiting for leases to end.
        clock: Seconds on a clock that is never set.
        wall: Seconds since the epoch.
        sleep: Waits.
    """

    holding: float = 10.0
    put_aside: float = 600.0
    restore: float = 1800.0
    settle: float = 10.0
    patience: float = 0.75
    poll: float = 0.02
    close: float = 60.0
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
