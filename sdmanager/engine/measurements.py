"""What a calibration finds, and what it recommends. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sdmanager.generation import MemoryUse, Progress, Replanned, Stage, StageChanged, StageTimings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdmanager.errors import SDManagerError
    from sdmanager.generation import Event, GenerationResult, MemoryPlan

TIE: Final = 1.05
"""Totals within this factor of the best are taken for equal: machines are noisy."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one set of memory flags takes.

    Attributes:
        plan: The flags.
        seconds: Of each run that gave its picture, from the start of the engine to the picture checked.
        timings: Seconds per stage, the median of these runs.
        memory: The most that any of them used.
        error: What a run of it ended with: it is not relied on, whatever the others took. None: it works.
    """

    plan: MemoryPlan
    seconds: tuple[float, ...] = ()
    timings: StageTimings = field(default_factory=StageTimings)
    memory: MemoryUse = field(default_factory=MemoryUse)
    error: SDManagerError | None = None

    @property
    def works(self) -> bool:
        """Whether it drew, every time that it was tried."""
        return self.error is None and bool(self.seconds)

    @property
    def total(self) -> float | None:
        """Median seconds of a run; None where no run gave a picture."""
        return statistics.median(self.seconds) if self.seconds else None

    @classmethod
    def of(
        cls, plan: MemoryPlan, results: Sequence[GenerationResult], error: SDManagerError | None = None
    ) -> Measurement:
        """What the runs of one plan gave.

        Args:
            plan: The flags.
            results: Of the runs that count, with the time since the engine started.
            error: What one of its runs ended with.
        """
        timings = [result.timings for result in results]
        memory = [result.memory for result in results if result.memory is not None]
        return cls(
            plan=plan,
            seconds=tuple(result.time_taken for result in results),
            timings=StageTimings(
                loading=_median(each.loading for each in timings),
                diffusion=_median(each.diffusion for each in timings),
                decoding=_median(each.decoding for each in timings),
                offloading=_median(each.offloading for each in timings),
            ),
            memory=MemoryUse(
                ram=_most(each.ram for each in memory),
                vram=_most(each.vram for each in memory),
                weights=_most(each.weights for each in memory),
            ),
            error=error,
        )


class EngineClock:
    """When the engine started: what came before, such as putting others aside, is not the flags' doing.

    Attributes:
        started: Seconds since the generation began.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.started = 0.0
        self._waits = True

    def see(self, event: Event) -> None:
        """Take an event; a second start counts in the place of the first."""
        match event:
            case Replanned():
                self.started, self._waits = event.elapsed, True
            case StageChanged(stage=Stage.LOADING) if self._waits:
                self.started = event.elapsed
            case Progress(stage=stage) if stage is not Stage.OFFLOADING:
                self._waits = False  # newer engines come back to loading
            case _:
                pass


@dataclass(frozen=True, slots=True)
class CalibrationProgress:
    """How far a calibration is.

    Attributes:
        plan: The flags that are being tried.
        index: Of this combination, from 1.
        count: Combinations in all.
        run: Of how often it is tried, from 1; 0 is the short run that warms the machine up and does not count.
        runs: How often each is tried.
        percentage: Of the whole calibration, 0 to 100; never falls, and is 100 only at the end.
        measured: What is known so far, in the order of the combinations.
    """

    plan: MemoryPlan
    index: int
    count: int
    run: int
    runs: int
    percentage: float
    measured: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What every combination took, and which is the best.

    Attributes:
        model: Name of the model.
        variant: Of the engine (cpu, cuda, vulkan, …, custom).
        width: Of the pictures, in pixels.
        height: Likewise.
        steps: Sampling steps.
        seed: Of the pictures.
        runs: How often each combination was tried.
        measurements: In the order in which they were asked for.
        recommended: The flags that ``recommend`` chose; None: none works.
        stored: Whether later runs of this model, engine and size start with them.
    """

    model: str
    variant: str
    width: int
    height: int
    steps: int
    seed: int
    runs: int
    measurements: tuple[Measurement, ...]
    recommended: MemoryPlan | None
    stored: bool = False

    @property
    def error(self) -> SDManagerError | None:
        """Where nothing works: what the plain combination ended with, or the first where that was not tried."""
        if self.recommended is not None:
            return None
        plain = [each for each in self.measurements if not each.plan.flags]
        return next((each.error for each in (*plain, *self.measurements)), None)

    def measurement_of(self, plan: MemoryPlan) -> Measurement | None:
        """What was measured with these flags; None: they were not tried."""
        return next((each for each in self.measurements if each.plan == plan), None)


def recommend(measurements: Iterable[Measurement]) -> MemoryPlan | None:
    """The fastest combination that works.

    Of those that take at most 5 % longer than the fastest, the one with the fewest flags; of these the fastest.

    Args:
        measurements: Of the combinations that were tried, in any order.

    Returns:
        Its flags, or None where none works.
    """
    working = [
        (total, each.plan) for each in measurements if each.works and (total := each.total) is not None
    ]
    if not working:
        return None
    limit = min(total for total, _ in working) * TIE
    tied = [(len(plan.flags), total, plan.key, plan) for total, plan in working if total <= limit]
    return min(tied, key=lambda each: each[:3])[3]


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else 0.0


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
