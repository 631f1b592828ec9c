"""How much work goes into a picture, in one word."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

STEPS_MAX: Final = 1000


class GenerationPreset(StrEnum):
    """How many steps to take, in proportion to what suits the model, where no number of steps is given.

    ``fast`` takes half of them, rounded up, ``high-quality`` twice as many, at most 1000. The factors are our own
    choice: what a model gains by more steps differs from one to the next, and a distilled one (turbo, schnell) gains
    little.
    """

    DEFAULT = "default"
    HIGH_QUALITY = "high-quality"
    FAST = "fast"

    def steps(self, usual: int) -> int:
        """Steps to take with a model that usually takes so many."""
        match self:
            case GenerationPreset.FAST:
                return max((usual + 1) // 2, 1)
            case GenerationPreset.HIGH_QUALITY:
                return min(usual * 2, STEPS_MAX)
            case GenerationPreset.DEFAULT:
                return usual
