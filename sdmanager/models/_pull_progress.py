"""How far a pull is, out of what the transfer tells of each file. Pure but for the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

PullPhase: TypeAlias = Literal["waiting", "planning", "downloading", "verifying", "done"]
"""``waiting``: for another process, which fetches the same model."""

_WINDOW_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        phase: What is going on.
        model: The name that was asked for.
        done: Bytes that are there, of all files together; it falls only where a file that was there proves damaged.
        total: Bytes of all files together; 0 while they are unknown.
        file: The file that something came of last; None where none did.
        files_done: Files that are there.
        files: How many there are; 0 while that is unknown.
        seconds_left: Until everything is there, at the rate of the last quarter of a minute; None while unknown.
    """

    phase: PullPhase
    model: str
    done: int = 0
    total: int = 0
    file: str | None = None
    files_done: int = 0
    files: int = 0
    seconds_left: float | None = None


OnPull: TypeAlias = Callable[[PullProgress], None]


class Tracker:
    """Adds up what is told of each file.

    Args:
        model: The name that was asked for.
        report: Called with each progress.
        clock: Seconds.
    """

    def __init__(self, model: str, report: OnPull, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._report = report
        self._clock = clock
        self._names: Sequence[str] = ()
        self._sizes: Sequence[int] = ()
        self._done: list[int] = []
        self._file: str | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, phase: PullPhase) -> None:
        """Report that something else is going on."""
        self._tell(phase)

    def plan(self, names: Sequence[str], sizes: Sequence[int], *, held: Sequence[bool]) -> None:
        """Note what is to come.

        Args:
            names: Of the files.
            sizes: Bytes of each; 0 where unknown.
            held: Whether it is there already.
        """
        self._names, self._sizes = names, sizes
        self._done = [size if there else 0 for size, there in zip(sizes, held, strict=True)]
        self._samples.append((self._clock(), sum(self._done)))
        self._tell("verifying" if all(held) else "downloading")

    def advance(self, done: Sequence[int]) -> None:
        """Note how many bytes of each file have come."""
        for index, (count, size) in enumerate(zip(done, self._sizes, strict=True)):
            count = min(count, size)
            if count > self._done[index]:
                self._done[index] = count
                self._file = self._names[index]
        now = self._clock()
        self._samples.append((now, sum(self._done)))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()
        self._tell("downloading" if sum(self._done) < sum(self._sizes) else "verifying")

    def restart(self, index: int) -> None:
        """Note that a file comes after all that was thought to be there."""
        self._done[index], self._file = 0, self._names[index]
        self._samples.clear()
        self._samples.append((self._clock(), sum(self._done)))
        self._tell("downloading")

    def finish(self, sizes: Sequence[int]) -> None:
        """Report that everything is there and right, with the bytes of each file."""
        self._sizes, self._done = sizes, list(sizes)
        self._tell("done")

    def _tell(self, phase: PullPhase) -> None:
        done, total = sum(self._done), sum(self._sizes)
        counts = [count == size for count, size in zip(self._done, self._sizes, strict=True)]
        left = 0.0 if phase == "done" else self._seconds_left(total - done)
        self._report(
            PullProgress(phase, self._model, done, total, self._file, sum(counts), len(self._sizes), left)
        )

    def _seconds_left(self, missing: int) -> float | None:
        if len(self._samples) < 2:
            return None
        (began, before), (now, after) = self._samples[0], self._samples[-1]
        return missing * (now - began) / (after - before) if after > before and now > began else None
