"""How far a generation is, as people read it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .events import Progress

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True)
class ImageGenerationProgress:
    """How far a generation is, and how long it will take.

    Attributes:
        step: Sampling steps done of the current image, or whatever else the stage counts.
        total_steps: Of how many; 0 while unknown.
        elapsed: Seconds since the generation began.
        estimated_remaining: Seconds left for the whole generation; None while nothing is known.
        fraction: Of the whole generation, 0 to 1; is 1 only at the end.
    """

    step: int
    total_steps: int
    elapsed: float
    estimated_remaining: float | None
    fraction: float

    @classmethod
    def of(cls, event: Progress) -> Self:
        """What an event says; what is no number counts as unknown, and what is out of range as its limit."""
        fraction = event.percentage / 100
        remaining = event.eta_seconds
        return cls(
            step=event.step,
            total_steps=event.total_steps,
            elapsed=event.elapsed,
            estimated_remaining=None
            if remaining is None or not math.isfinite(remaining)
            else max(remaining, 0.0),
            fraction=0.0 if math.isnan(fraction) else min(max(fraction, 0.0), 1.0),
        )

    @property
    def percent(self) -> int:
        """Whole percent, rounded down, so that 100 is the end."""
        return int(self.fraction * 100 + 1e-9)  # 0.29 * 100 is a little less than 29

    @property
    def remaining_text(self) -> str:
        """Such as ``~45s remaining``, ``~1m 20s remaining`` or ``~2h 05m remaining``; empty while unknown."""
        if self.estimated_remaining is None or not math.isfinite(self.estimated_remaining):
            return ""
        return f"~{_duration(max(self.estimated_remaining, 0.0))} remaining"


def _duration(seconds: float) -> str:
    # Rounded before it is split, so that 59.6 s is a minute and nothing is ever sixty of its unit.
    whole = int(seconds + 0.5)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02}s"
    minutes = int(seconds / _MINUTE + 0.5)
    return f"{minutes // 60}h {minutes % 60:02}m"
