"""What a lease is asked for and what it gives: values, and the policy around the planner. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ._room import Room
from .demand import demand_of
from .planning import plan_memory, stricter_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdmanager.generation import MemoryChoices, MemoryPlan

    from ._room import Kind
    from .footprint import Footprint
    from .offloadable import Holding
    from .supply import Supply


class NoStricterPlanError(Exception):
    """Every plan that could do with less memory has failed already."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Room for one run, for as long as the block lasts.

    Attributes:
        plan: The memory flags to run with, and who is aside for it.
        supply: What was free when it was made.
        seconds: Spent making room; 0 where nothing had to move.
    """

    plan: MemoryPlan
    supply: Supply
    seconds: float


@dataclass(frozen=True, slots=True)
class SavedState:
    """A program that is aside, or on its way there or back.

    Attributes:
        name: Of the program.
        what: It held: ``llama3.2:3b``.
        since: When it was put aside, in seconds since the epoch.
        attempts: To bring it back that were begun.
        retry_at: When it is tried next, in seconds since the epoch; None: right now, or not while pictures are drawn,
            or not by this process.
        error: Why it is not back; None: nothing went wrong.
        is_ours: Whether this orchestrator brings it back.
    """

    name: str
    what: str
    since: float
    attempts: int
    retry_at: float | None
    error: str | None
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What a lease is wanted for; see ``ResourceOrchestrator.lease``."""

    footprint: Footprint
    choices: MemoryChoices | MemoryPlan
    supports: Callable[[str], bool]
    threshold: float
    failed: tuple[MemoryPlan, ...] = ()
    short: Kind | None = None
    helps: Callable[[MemoryPlan], bool] | None = None

    def plan(self, supply: Supply, held: Mapping[str, Holding]) -> MemoryPlan | None:
        """The plan for so much memory; None: there is no stricter one than those that failed."""
        if self.failed:
            return stricter_plan(
                self.footprint,
                supply,
                self.choices,
                self.supports,
                held,
                self.failed,
                short=self.short,
                helps=self.helps,
                threshold=self.threshold,
            )
        return plan_memory(
            self.footprint, supply, self.choices, self.supports, held, threshold=self.threshold
        )

    def is_enough(self, plan: MemoryPlan, supply: Supply) -> bool:
        """Whether a run with this plan may be begun with nobody else put aside, as far as all of that is known."""
        on_gpu = self.footprint.on_gpu
        if on_gpu is None:
            on_gpu = bool(supply.has_gpu) and not supply.unified
        own, pooled = on_gpu and not supply.unified, on_gpu and supply.unified
        demand = demand_of(replace(self.footprint, on_gpu=on_gpu), plan, pooled=pooled)
        if (demand.ram and supply.ram_free is None) or (own and demand.vram and supply.vram_free is None):
            return False
        return Room(supply, {}, self.threshold, own, pooled).fits(demand)


def told(
    plan: MemoryPlan, first: MemoryPlan, moved: Sequence[str], notes: Sequence[str], aside: Sequence[str]
) -> MemoryPlan:
    """The plan with all of its reasons, and with everybody who is aside for it.

    Args:
        plan: That is run with.
        first: That had others put aside.
        moved: Who was.
        notes: What did not go as planned.
        aside: Who is aside, by now or still.
    """
    if plan.key == first.key and not notes:
        reasons = first.reasons
    else:
        why = [reason for reason in first.reasons if any(name in reason for name in moved)]
        reasons = (*why, *notes, *plan.reasons)
    return replace(plan, evictions=tuple(aside), reasons=tuple(dict.fromkeys(reasons)))


def shortfall(missing: tuple[int, int]) -> str | None:
    """What to say where less memory came back than was promised; None: nothing worth a word.

    Args:
        missing: Bytes of RAM and of VRAM.
    """
    kinds = [
        f"{size / 1e9:.1f} GB of {kind}"
        for size, kind in zip(missing, ("RAM", "VRAM"), strict=True)
        if round(size / 1e9, 1)
    ]
    if not kinds:
        return None
    return f"Putting aside freed less than was expected: {' and '.join(kinds)} did not come back."
