"""What earlier runs took, kept between runs, so that the next one can say how long it will take."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_json

from .progress import Estimate

if TYPE_CHECKING:
    from pathlib import Path

_ENTRIES_MAX: Final = 200

# Weight of the newest run: a changed machine is believed after two or three runs, one odd run is not.
_NEWEST_WEIGHT: Final = 0.5

_SIZE: Final = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_SECONDS_MAX: Final = 1e9


class EstimateStore:
    """Learned seconds per (model, variant, size).

    A lost or damaged file costs an estimate, never a run. Two processes that learn at once may lose one lesson.

    Args:
        path: JSON file; made on the first lesson.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, model: str, variant: str, width: int, height: int) -> Estimate | None:
        """What is known for this size, or scaled by pixels from the nearest size that is known."""
        known = {
            size: estimate
            for key, estimate in self._read().items()
            for kind, _, size in [key.rpartition("|")]
            if kind == f"{model}|{variant}"
        }
        exact = known.get(f"{width}x{height}")
        if exact is not None or not known:
            return exact
        pixels = width * height
        size, estimate = min(known.items(), key=lambda item: abs(math.log(_pixels(item[0]) / pixels)))
        ratio = pixels / _pixels(size)
        return Estimate(estimate.loading, estimate.step * ratio, estimate.decoding * ratio)

    def learn(self, model: str, variant: str, width: int, height: int, seen: Estimate) -> None:
        """Take a finished run in."""
        known = self._read()
        key = f"{model}|{variant}|{width}x{height}"
        old = known.pop(key, None)
        known[key] = _blend(old, seen) if old else seen
        newest = list(known.items())[-_ENTRIES_MAX:]
        try:
            write_json(
                self._path,
                {k: [round(e.loading, 4), round(e.step, 5), round(e.decoding, 4)] for k, e in newest},
                durable=False,
            )
        except StorageError:
            return

    def _read(self) -> dict[str, Estimate]:
        raw = read_json(self._path)
        if not isinstance(raw, dict):
            return {}
        return {
            key: Estimate(*(float(value) for value in values))
            for key, values in raw.items()
            if _pixels(key.rpartition("|")[2])
            and isinstance(values, list)
            and len(values) == 3
            and all(isinstance(v, int | float) and 0 <= v <= _SECONDS_MAX for v in values)
        }


def _pixels(size: str) -> int:
    match = _SIZE.fullmatch(size)
    return int(match[1]) * int(match[2]) if match else 0


def _blend(old: Estimate, new: Estimate) -> Estimate:
    def mix(a: float, b: float) -> float:
        return (1 - _NEWEST_WEIGHT) * a + _NEWEST_WEIGHT * b

    return Estimate(mix(old.loading, new.loading), mix(old.step, new.step), mix(old.decoding, new.decoding))
