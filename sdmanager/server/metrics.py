"""What a server counts, for ``/metrics``. Pure: cheap to count, and given its format only when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from sdmanager.generation import (
    Cancelled,
    Completed,
    Failed,
    Preview,
    Progress,
    Queued,
    Replanned,
    Stage,
    StageChanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmanager.errors import SDManagerError
    from sdmanager.generation import Event, GenerationResult

# Seconds: from a warm GPU's single step to a large picture on a processor.
_BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_MODELS_MAX: Final = 50
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# For what would be a new time series for every name that somebody thinks of.
OTHER: Final = "other"


class Histogram:
    """How often what took so many seconds.

    Attributes:
        sum: Of all that was observed, in seconds.
    """

    def __init__(self) -> None:
        self.sum = 0.0
        self._counts = [0] * (len(_BOUNDS) + 1)

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Upper bounds in seconds, the last of them infinite, each with how many took at most so long."""
        total = 0
        for bound, count in zip((*_BOUNDS, float("inf")), self._counts, strict=True):
            total += count
            yield bound, total


class Metrics:
    """Counts what happens to generations and requests. All methods belong to one event loop.

    Attributes:
        generations: That ended, by outcome: ``complete``, ``error``, ``cancelled``.
        errors: Of generations that failed, by code.
        images: Pictures that were finished.
        previews: That were published.
        replans: Starts of the engine after it ran out of memory.
        offloads: How often other programs began to be put aside.
        offloaded: Generations that were drawn while a program was aside, by its name.
        drawing: Seconds from the request's turn to its last picture, by model, of complete generations.
        stages: Seconds in each stage that there was, of complete generations.
        queue: Seconds from being accepted to the first stage.
        requests: Answers whose header was sent, by method, route and status.
        refusals: Errors that were answered to requests, by code.
    """

    def __init__(self) -> None:
        self.generations = Counter[str](complete=0, error=0, cancelled=0)
        self.errors = Counter[str]()
        self.images = self.previews = self.replans = self.offloads = 0
        self.offloaded = Counter[str]()
        self.drawing: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.stages = {stage.value: Histogram() for stage in Stage}
        self.queue = Histogram()
        self.requests = Counter[tuple[str, str, int]]()
        self.refusals = Counter[str]()
        self._begun: set[str] = set()

    def take(self, event: Event) -> None:
        """Count an event of a generation."""
        match event:
            case Progress() | Queued():
                pass
            case Preview():
                self.previews += 1
            case StageChanged():
                self._enter(event)
            case Replanned():
                self.replans += 1
            case Completed():
                self._end(event, "complete")
                self._count(event.result)
            case Failed():
                self._end(event, "error")
                self.errors[event.error.code] += 1
            case Cancelled():
                self._end(event, "cancelled")

    def answer(self, method: str, route: str, status: int) -> None:
        """Count an answer.

        Args:
            method: Of the request.
            route: Template of its path: never the path itself, which is the client's.
            status: Of the answer.
        """
        self.requests[method if method in _METHODS else OTHER, route, status] += 1

    def refuse(self, error: SDManagerError) -> None:
        """Count an error that is answered to a request."""
        self.refusals[error.code] += 1

    def _enter(self, event: StageChanged) -> None:
        if event.stage is Stage.OFFLOADING:
            self.offloads += 1
        if event.generation_id not in self._begun:
            self._begun.add(event.generation_id)
            self.queue.observe(event.elapsed)

    def _end(self, event: Completed | Failed | Cancelled, outcome: str) -> None:
        self._begun.discard(event.generation_id)
        self.generations[outcome] += 1

    def _count(self, result: GenerationResult) -> None:
        self.images += len(result.images)
        self.offloaded.update(result.plan.evictions)
        known = result.model in self.drawing or len(self.drawing) < _MODELS_MAX
        self.drawing[result.model if known else OTHER].observe(result.time_taken)
        for name, stage in self.stages.items():
            seconds = getattr(result.timings, name)
            if seconds > 0:  # what the engine did not report is 0
                stage.observe(seconds)
