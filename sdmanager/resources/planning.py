"""Which memory flags a run gets, and who is put aside for it. Pure.

Memory in use should stay below a share of all that there is while the run lasts. For that, cheap flags are set and
programs are put aside, as few as possible. Costly flags are set only for what does not fit the free memory by these
means: whether a slow run that leaves more free is wanted is for the user to say, by ``max_vram_gib``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sdmanager.generation import MemoryPlan

from ._estimating import CONTEXT, GIB
from ._explaining import reasons_of, too_much
from ._room import Room, budget_step
from .demand import Demands
from .ladder import Rung, decided, rungs, supported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sdmanager.generation import MemoryChoices

    from ._room import Kind
    from .demand import Demand
    from .footprint import Footprint
    from .offloadable import Holding
    from .supply import Supply

_NOBODY: Final[Mapping[str, Holding]] = MappingProxyType({})

_LESS: Final = 0.95
"""Of what a plan needed that failed: the next one should need at the most so much."""

_LOWER_BUDGET: Final = 0.75


def plan_memory(
    footprint: Footprint,
    supply: Supply,
    choices: MemoryChoices | MemoryPlan,
    supports: Callable[[str], bool],
    held: Mapping[str, Holding] = _NOBODY,
    *,
    threshold: float = 0.75,
) -> MemoryPlan:
    """Choose memory flags and who is put aside.

    What a calibration recommended for this size comes first, then the plans of `ladder.rungs`. Of each rung the first
    that stays below the threshold is taken: as it is, with cheap flags, with as few programs put aside as cheap flags
    allow. Where the threshold is out of reach, everybody who helps is put aside, and the fastest plan is taken that
    then leaves the same share of what is free, else the one that needs the least if it fits: cheap flags are not set
    for nothing. On a CPU, where they are slow, they are set only for what does not fit the free memory even so. Else
    the next rung is tried. What fits nowhere gets the plan that needs the least of what is short.

    So more free memory never leads to a higher rung, nor on the same rung to more programs that are put aside, nor with
    the same programs to more cheap flags; on a CPU never to more cheap flags, nor with the same flags to more programs.

    Args:
        footprint: What is to be run.
        supply: Memory at this moment.
        choices: What the user decided; a whole ``MemoryPlan`` fixes all flags.
        supports: Whether the engine has a flag, written with its dashes.
        held: Who could be put aside, by name.
        threshold: Share of the total that may be in use; more than 0, at most 1.

    Returns:
        The flags, with evictions in the order of ``held``, and a reason for each that was chosen.
    """
    return _Search.of(footprint, supply, choices, supports, held, threshold).plan()


def stricter_plan(
    footprint: Footprint,
    supply: Supply,
    choices: MemoryChoices | MemoryPlan,
    supports: Callable[[str], bool],
    held: Mapping[str, Holding],
    failed: Sequence[MemoryPlan],
    *,
    short: Kind | None = None,
    helps: Callable[[MemoryPlan], bool] | None = None,
    threshold: float = 0.75,
) -> MemoryPlan | None:
    """After runs that ran out of memory: the next stricter plan.

    First, everybody who still holds memory of the kind that is short is put aside; then the flags become stricter.

    Args:
        footprint: As in ``plan_memory``.
        supply: Likewise.
        choices: Likewise.
        supports: Likewise.
        held: Who holds something now: not those who were put aside already.
        failed: The plans that failed, the last one last.
        short: Of what there was too little; None: as far as estimates tell.
        helps: Whether flags can make a difference to what failed; those that cannot are passed over. None: all can.
        threshold: As in ``plan_memory``.

    Returns:
        None where nothing is left to be tried.
    """
    search = _Search.of(footprint, supply, choices, supports, held, threshold)
    return search.stricter(failed, short, helps or _any) if failed else search.plan()


def _any(plan: MemoryPlan) -> bool:
    del plan
    return True


@dataclass(slots=True)
class _Search:
    footprint: Footprint
    room: Room
    decided: MemoryPlan
    rungs: Callable[[], Iterable[Rung]]
    budget_max: float | None
    recommended: MemoryPlan | None
    demands: Demands

    @classmethod
    def of(
        cls,
        footprint: Footprint,
        supply: Supply,
        choices: MemoryChoices | MemoryPlan,
        supports: Callable[[str], bool],
        held: Mapping[str, Holding],
        threshold: float,
    ) -> _Search:
        on_gpu = footprint.on_gpu
        if on_gpu is None:
            on_gpu = bool(supply.has_gpu) and not supply.unified
            footprint = replace(footprint, on_gpu=on_gpu)
        own, pooled = on_gpu and not supply.unified, on_gpu and supply.unified
        demands = Demands(footprint, pooled=pooled)
        if isinstance(choices, MemoryPlan):
            fixed = replace(choices, evictions=(), reasons=())
            room = Room(supply, held, threshold, own, pooled)
            return cls(footprint, room, fixed, lambda: (Rung((fixed,)),), None, None, demands)
        budget = choices.max_vram_gib or None
        cap = None if budget is None or not own else round(budget * GIB) + CONTEXT
        room = Room(supply, held, threshold, own, pooled, cap)
        best = footprint.learned.recommended.get((footprint.width, footprint.height))
        if best is not None and not (choices.allow(best) and supported(best, supports)):
            best = None
        return cls(
            footprint,
            room,
            decided(choices, supports),
            lambda: rungs(choices, supports, own_vram=own),
            budget,
            best,
            demands,
        )

    def plan(self) -> MemoryPlan:
        if self.recommended is not None:
            best = replace(self.recommended, evictions=(), reasons=())
            found = replace(self, decided=best, recommended=None)._on(Rung((best,)))
            if found is not None:
                reason = f"A calibration found these flags the best for {self._size}."
                return replace(found, reasons=(*((reason,) if best.flags else ()), *found.reasons))
        tried = []
        for rung in self.rungs():
            found = self._on(rung)
            if found is not None:
                return found
            tried.append(rung)
        return self._smallest(tried)

    def stricter(
        self, failed: Sequence[MemoryPlan], short: Kind | None, helps: Callable[[MemoryPlan], bool]
    ) -> MemoryPlan | None:
        last = failed[-1]
        flags = replace(last, evictions=(), reasons=())
        used = {name for plan in failed for name in plan.evictions}
        # A driver may speak of its own memory where that is RAM.
        kind = (short if self.room.own_vram else None) or self._failing(self._demand(flags))
        holders = tuple(name for name in self.room.held if self.room.gives(name, kind))
        said = f"The last run ran out of memory with {' '.join(flags.flags) or 'no memory flags'}."
        if any(name not in used for name in holders):
            return self._explained(flags, holders, said)
        flags_of = [replace(plan, evictions=(), reasons=()) for plan in failed]
        needed = min(getattr(self._demand(plan), kind) for plan in flags_of)
        # What was learned of one is not compared with what is estimated of another.
        estimated = min(self._estimated(plan, kind) for plan in flags_of)
        # Well below what failed, else at least below it; first without what is known to fail.
        for known, most in product((False, True), (round(estimated * _LESS), estimated - 1)):
            for rung in self.rungs():
                plans = [
                    plan
                    for plan in self._lowered(rung, holders, failed, needed)
                    if self._estimated(plan, kind) <= most
                    and self._has(kind, self._demand(plan), holders)
                    and (known or not self._known_to_fail(plan, holders))
                    and helps(plan)
                ]
                if plans and not self.room.own_vram:
                    # Nothing but these flags is left: a second run that fails would take as long as the first.
                    plans = [min(plans, key=lambda plan: self._estimated(plan, kind))]
                if plans:
                    return self._explained(plans[0], holders, said)
        return None

    def _estimated(self, plan: MemoryPlan, kind: Kind) -> int:
        ram, vram = self.demands.estimate(plan)
        return vram if kind == "vram" else ram

    def _known_to_fail(self, plan: MemoryPlan, names: Sequence[str]) -> bool:
        demand = self._demand(plan)
        return demand.source == "learned" and not self.room.fits(demand, names, strictly=False)

    @property
    def _size(self) -> str:
        return f"{self.footprint.width}x{self.footprint.height}"

    def _on(self, rung: Rung) -> MemoryPlan | None:
        if rung.budgeted:
            return self._within_budget(rung)
        # What was learned of some flags says nothing of others, which must not look better for that.
        plans = self._worthwhile(rung.plans) if self.footprint.learned.peaks else rung.plans
        found: list[tuple[tuple[str, ...], MemoryPlan]] = []
        for plan in plans:
            names = self._room_for(plan, plans)
            if names is None:
                continue
            found.append((names, plan))
            # On a CPU cheap flags are slow: they never stand in for programs that could be put aside.
            if not names or self.footprint.on_gpu is False:
                break
        if not found:
            return None
        names, plan = min(found, key=lambda each: len(each[0]))
        return self._explained(plan, names)

    def _room_for(self, plan: MemoryPlan, plans: Sequence[MemoryPlan]) -> tuple[str, ...] | None:
        """Who is put aside for it; None: it is none of the plans to be taken."""
        room, demand = self.room, self._demand(plan)
        if room.fits(demand):
            return ()
        if not room.could_fit(demand):
            return None
        names = room.fewest(demand)
        if names is not None:
            return names
        names = room.helpful(demand)
        if not room.fits(demand, names, strictly=False):
            return None
        passed = room.short(demand, names)
        return names if all(self._may_pass(kind, plan, plans, names) for kind in passed) else None

    def _may_pass(
        self, kind: Kind, plan: MemoryPlan, plans: Sequence[MemoryPlan], names: Sequence[str]
    ) -> bool:
        """Whether a plan may be taken over the threshold though others save more.

        It may where it leaves that share of what is free, and with just so much free none of the others would keep to
        the threshold. How much is free now has no part in that: else more of it could lead to more flags.
        """
        room, needed = self.room, self._need(plan, kind)
        less = [other for other in plans if self._need(other, kind) < needed]
        if self.footprint.on_gpu is False or not less:
            return True
        # Flash attention costs a card nothing.
        if any(other.vae_tiling == plan.vae_tiling for other in less):
            return False
        enough = max(needed / room.threshold, room.free_for(kind, needed, strictly=False))
        if any(room.free_for(kind, self._need(other, kind), strictly=True) <= enough for other in less):
            return False
        free = room.free(kind, names)
        return free is None or free >= enough

    def _worthwhile(self, plans: Sequence[MemoryPlan]) -> list[MemoryPlan]:
        """Without those whose cheap flags save nothing."""
        worth: list[MemoryPlan] = []
        least: tuple[int, ...] = ()
        for plan in plans:
            needed = self.demands.estimate(plan)
            if not worth or any(size < smallest for size, smallest in zip(needed, least, strict=True)):
                least = tuple(min(pair) for pair in zip(needed, least or needed, strict=True))
                worth.append(plan)
        return worth

    def _within_budget(self, rung: Rung) -> MemoryPlan | None:
        """With all that is free for a budget, which is faster than a lower one, and everybody put aside who helps."""
        # The threshold is passed by that, and cheap flags make it as little as they can.
        for names, plan in reversed(self._budgeted(rung)):
            if self.room.fits(self._demand(plan), names, strictly=False):
                return self._explained(plan, names)
        return None

    def _smallest(self, ladder: Sequence[Rung]) -> MemoryPlan:
        """What needs the least of what is short, and no more of the other kind than there is where that can be."""
        names = self.room.helpful(self._demand(self.decided))
        plans: list[MemoryPlan] = []
        for rung in ladder:
            plans += [plan for _, plan in self._budgeted(rung)] if rung.budgeted else rung.plans
        short = tuple(self.room.short(self._demand(self.decided), names, strictly=False))
        kinds: tuple[Kind, Kind] = ("vram", "ram") if "vram" in short else ("ram", "vram")
        plans = [plan for plan in plans if self._has(kinds[0], self._demand(plan), names)] or plans
        best = min(plans, key=lambda plan: self._needs(plan, kinds))
        return self._explained(best, self.room.helpful(self._demand(best)))

    def _budgeted(self, rung: Rung) -> list[tuple[tuple[str, ...], MemoryPlan]]:
        """The plans with a budget of all that there is, and who is put aside; none where that is unknown."""
        names = self.room.helpful(self._demand(self.decided))
        budget = self.room.budget(names)
        if budget is None:
            return []
        found = []
        for plan in self._worthwhile([self._held_to(plan, budget) for plan in rung.plans]):
            also = self.room.helpful(self._demand(plan))
            found.append((tuple(name for name in self.room.held if name in names or name in also), plan))
        return found

    def _held_to(self, plan: MemoryPlan, budget: float | None) -> MemoryPlan:
        known = [each for each in (budget, self.budget_max) if each is not None]
        return replace(plan, max_vram_gib=min(known, default=None))

    def _lowered(
        self, rung: Rung, names: Sequence[str], failed: Sequence[MemoryPlan], needed: int
    ) -> Sequence[MemoryPlan]:
        """The plans with a budget well below what failed."""
        if not rung.budgeted:
            return rung.plans
        used = [plan.max_vram_gib for plan in failed if plan.max_vram_gib] + [(needed - CONTEXT) / GIB]
        lower = budget_step(min(used) * _LOWER_BUDGET)
        budget = self.room.budget(names)
        return [self._held_to(plan, lower if budget is None else min(lower, budget)) for plan in rung.plans]

    def _failing(self, demand: Demand) -> Kind:
        """Of what there was too little, as far as can be told."""
        if not self.room.own_vram:
            return "ram"
        return "ram" if tuple(self.room.short(demand, strictly=False)) == ("ram",) else "vram"

    def _has(self, failing: Kind, demand: Demand, names: Sequence[str]) -> bool:
        """Whether what did not fail is enough."""
        return all(kind == failing for kind in self.room.short(demand, names, strictly=False))

    def _demand(self, plan: MemoryPlan) -> Demand:
        return self.demands.of(plan)

    def _need(self, plan: MemoryPlan, kind: Kind) -> int:
        demand = self._demand(plan)
        return demand.vram if kind == "vram" else demand.ram

    def _needs(self, plan: MemoryPlan, kinds: Sequence[Kind]) -> tuple[int, ...]:
        demand = self._demand(plan)
        return tuple(getattr(demand, kind) for kind in kinds)

    def _explained(self, plan: MemoryPlan, names: tuple[str, ...], *reasons: str) -> MemoryPlan:
        why = reasons_of(plan, self.decided, names, self.room, self._demand)
        excess = too_much(names, self.room, self._demand(plan))
        return replace(plan, evictions=names, reasons=(*reasons, *why, *excess))
