"""What happens during a generation, as a closed union of frozen events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmanager.errors import SDManagerError

    from .plan import MemoryPlan
    from .result import GenerationResult, ImageData


class Stage(StrEnum):
    """What a generation is busy with. A stage may come back: newer engines load each part when it is needed.

    Attributes:
        OFFLOADING: Others that hold memory are put aside; before the engine starts, and only where they must be.
        LOADING: The engine reads the model.
        DIFFUSION: It samples.
        DECODING: It makes pictures of latents.
    """

    OFFLOADING = "offloading"
    LOADING = "loading"
    DIFFUSION = "diffusion"
    DECODING = "decoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """What every event carries.

    Attributes:
        generation_id: Which generation.
        sequence: Counts from 0 within a generation.
        elapsed: Seconds since the generation began; from a server, since it was accepted.
    """

    generation_id: str
    sequence: int
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(_Event):
    """Waiting; ``position`` counts from 1."""

    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanged(_Event):
    """The engine has turned to another stage."""

    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_Event):
    """How far the generation is.

    Attributes:
        stage: What the engine is busy with.
        step: Sampling steps done of the current image (diffusion), images decoded (decoding), tensors loaded
            (loading).
        total_steps: Of how many; 0 while unknown.
        percentage: Of the whole generation, 0 to 100; never falls, and is 100 only at the end.
        image: Current image, from 1.
        total_images: Images asked for.
        seconds_per_step: Seconds for one sampling step, or None outside sampling.
        eta_seconds: Estimated seconds left for the whole generation, or None while nothing is known.
    """

    stage: Stage
    step: int
    total_steps: int
    percentage: float
    image: int
    total_images: int
    seconds_per_step: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(_Event):
    """The picture as it stands after ``step`` of ``total_steps`` of image ``image_index`` (from 1)."""

    step: int
    total_steps: int
    image_index: int
    image: ImageData


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned(_Event):
    """The engine ran out of memory, and starts once more with stricter memory flags.

    Attributes:
        plan: What it starts with now.
        reason: Why, in one sentence.
    """

    plan: MemoryPlan
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Event):
    """The last event of a generation that gave its pictures."""

    result: GenerationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Event):
    """The last event of a generation that failed."""

    error: SDManagerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_Event):
    """The last event of a generation that was cancelled."""


Event = Queued | StageChanged | Progress | Preview | Replanned | Completed | Failed | Cancelled

EventCallback = Callable[[Event], None]
