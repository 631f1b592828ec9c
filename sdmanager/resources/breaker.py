"""How long to wait after a failure. Pure: the time is handed in."""

from __future__ import annotations

from collections import deque
from typing import Final

FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
FAILURES: Final = 5
WINDOW: Final = 600.0


class Breaker:
    """Back-off of 1, 2, 4 … 60 seconds; after 5 failures within 10 minutes, a rest of 10 minutes.

    After the rest one more failure opens it again. Times are seconds on any one clock.
    """

    def __init__(self) -> None:
        self._failures: deque[float] = deque()
        self._in_a_row = 0
        self._open_until: float | None = None

    def failed(self, now: float) -> float:
        """Note a failure; seconds to wait until the next attempt."""
        self._in_a_row += 1
        self._failures.append(now)
        while self._failures and now - self._failures[0] >= WINDOW:
            self._failures.popleft()
        if self._open_until is not None or len(self._failures) >= FAILURES:
            self._open_until = now + WINDOW
            return WINDOW
        return min(FIRST_DELAY * 2.0 ** min(self._in_a_row - 1, 10), LONGEST_DELAY)

    def is_open(self, now: float) -> bool:
        """Whether it was given up for now."""
        return self._open_until is not None and now < self._open_until
