"""How much memory a run usually needs. Pure.

These are usual needs, by which flags are chosen. Whether a model can run at all is judged by lower bounds, in
``sdmanager.models.check_fit``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ._estimating import Estimates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.generation import MemoryPlan

    from .footprint import Footprint, Peak

Source: TypeAlias = Literal["learned", "weights", "sizes"]
_Kind: TypeAlias = Literal["ram", "vram"]
_Alike: TypeAlias = "Sequence[tuple[int, int, Peak]]"

_COMPARABLE: Final = 4
"""By how much sizes may differ in pixels of which one says something of the other."""

_MUCH_SMALLER: Final = 2
"""By how much a picture has to be larger in pixels, so that what it needs is not taken to be less than estimated."""

_SHORTAGE_MOST: Final = 2
"""Times what comparable runs used: others may have taken what was free when a run failed."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run needs.

    Attributes:
        ram: Bytes.
        vram: Likewise; 0 for an engine that computes on the CPU.
        source: Where the figures are from: earlier runs, the engine's own word on its weights, or the files' sizes.
    """

    ram: int
    vram: int
    source: Source


def demand_of(footprint: Footprint, plan: MemoryPlan, *, pooled: bool = False) -> Demand:
    """What a run with these flags usually needs.

    Figures of earlier runs come first: of the same size and flags, else of the same flags at the nearest size of a
    quarter of the pixels to four times as many, by how much more or less than estimated was used there. Else the
    weights, by the engine's own figure where it is known, and what each stage computes in. The weights stay where
    they are from their first use to the end, as newer engines have it; with ``offload_to_cpu`` only those of one
    stage at a time are on the card.

    Args:
        footprint: What is to be run; where ``on_gpu`` is None it is taken to draw on a card.
        plan: The memory flags.
        pooled: Whether RAM and VRAM are the same memory; all of it is RAM then.
    """
    return Demands(footprint, pooled=pooled).of(plan)


class Demands:
    """What runs of one model at one size need, by their memory flags; see `demand_of`."""

    def __init__(self, footprint: Footprint, *, pooled: bool = False) -> None:
        self._footprint = footprint
        self._pooled = pooled and footprint.on_gpu is not False
        self._estimates = Estimates(footprint, pooled=self._pooled)
        self._known: dict[MemoryPlan, Demand] = {}
        self._alike: dict[str, list[tuple[int, int, Peak]]] = {}
        for (width, height, key), peak in footprint.learned.peaks.items():
            self._alike.setdefault(key, []).append((width, height, peak))

    def of(self, plan: MemoryPlan) -> Demand:
        """With these flags."""
        known = self._known.get(plan)
        if known is None:
            known = self._known[plan] = self._judge(plan)
        return known

    def estimate(self, plan: MemoryPlan) -> tuple[int, int]:
        """Bytes of RAM and VRAM, whatever earlier runs used."""
        return self._estimates.of(plan)

    def _judge(self, plan: MemoryPlan) -> Demand:
        ram, vram = self._estimates.of(plan)
        alike = self._alike.get(plan.key) if self._alike else None
        if alike:
            of_ram = self._learned("ram", plan, alike, ram)
            of_vram = self._learned("vram", plan, alike, vram) if vram else None
            if of_ram is not None or of_vram is not None:
                needs = [
                    estimate if size is None else size for size, estimate in ((of_ram, ram), (of_vram, vram))
                ]
                return Demand(needs[0], needs[1], "learned")
        said = self._footprint.learned.weights
        return Demand(ram, vram, "sizes" if said is None else "weights")

    def _learned(self, kind: _Kind, plan: MemoryPlan, alike: _Alike, estimate: int) -> int | None:
        """What earlier runs with the same flags say; None: nothing."""
        seen = self._seen(kind, plan, alike, estimate)
        least = self._at_least(kind, alike)
        if seen is None:
            return least if least > estimate else None
        return max(seen, least)

    def _seen(self, kind: _Kind, plan: MemoryPlan, alike: _Alike, estimate: int) -> int | None:
        """What runs used at this size, else at the nearest one, as far above or below the estimate as there."""
        here = (self._footprint.width, self._footprint.height)
        pixels = max(here[0] * here[1], 1)
        nearest: tuple[float, int, int, int] | None = None
        comparable = range(-(-pixels // _COMPARABLE), pixels * _COMPARABLE + 1)
        for width, height, peak in alike:
            used = self._used(kind, peak)
            if used is None:
                continue
            if (width, height) == here:
                return used
            if width * height not in comparable:
                continue
            away = max(width * height / pixels, pixels / (width * height))
            if nearest is None or (away, width, height) < nearest[:3]:
                nearest = (away, width, height, used)
        if nearest is None:
            return None
        _, width, height, used = nearest
        other = Estimates(replace(self._footprint, width=width, height=height), pooled=self._pooled)
        there = other.of(plan)[kind == "vram"]
        shifted = estimate + used - there
        if width * height >= pixels:
            # A smaller picture needs less, but never less than in proportion.
            return max(shifted, used * estimate // max(there, 1))
        return max(shifted, estimate) if pixels > width * height * _MUCH_SMALLER else shifted

    def _used(self, kind: _Kind, peak: Peak) -> int | None:
        if kind == "vram":
            return peak.vram
        if not self._pooled:
            return peak.ram
        return None if peak.ram is None or peak.vram is None else peak.ram + peak.vram

    def _at_least(self, kind: _Kind, alike: _Alike) -> int:
        """What runs at this size or a smaller one were short of, or used of one memory for both."""
        pixels = self._footprint.width * self._footprint.height
        least, own, used = 0, 0, 0
        for width, height, peak in alike:
            if width * height * _COMPARABLE >= pixels:
                used = max(used, self._used(kind, peak) or 0)
            # What failed at one size fails at a larger one, too.
            if width * height <= pixels:
                too_small = peak.too_small_vram if kind == "vram" else peak.too_small_ram
                least = max(least, too_small or 0)
                # How much of what a card uses of the RAM counts for its process differs between drivers.
                own = max(own, (peak.ram or 0) if self._pooled else 0)
        return max(min(least, used * _SHORTAGE_MOST) if used else least, own)
