"""How much may be used, and what putting others aside adds to it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ._estimating import CONTEXT, GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from .demand import Demand
    from .offloadable import Holding
    from .supply import Supply

Kind: TypeAlias = Literal["vram", "ram"]

KINDS: Final[tuple[Kind, Kind]] = ("vram", "ram")

_USABLE: Final = 0.95
"""Of what is free: drivers round up, and other programs do not stand still."""

_LITTLE: Final = 1 / 16
"""Of the total: who needs no more is not held to the threshold, which the other programs of a desktop often pass."""

_MOST_SUBSETS: Final = 6
"""Of so many programs every choice is looked at; of more the largest are taken until it is enough."""

_BUDGET_STEP: Final = 0.5
"""GiB: budgets recur, so that what is learned about one is found again."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that a run may use.

    Attributes:
        supply: What there is.
        held: Who could be put aside.
        threshold: Share of the total that may be in use while the run lasts.
        own_vram: Whether the engine draws on a card with memory of its own.
        pooled: Whether it draws on one that uses the RAM.
        cap: Bytes of VRAM that may be used at the most.
    """

    supply: Supply
    held: Mapping[str, Holding]
    threshold: float
    own_vram: bool
    pooled: bool
    cap: int | None = None
    _limits: dict[tuple[Kind, frozenset[str], bool], int | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _helpers: dict[tuple[Kind, ...], tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _given: Mapping[tuple[str, Kind], int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note what each gives."""
        given = {
            (name, kind): self._freed(holding, kind) for name, holding in self.held.items() for kind in KINDS
        }
        object.__setattr__(self, "_given", given)

    def free(self, kind: Kind, evicted: Collection[str] = ()) -> int | None:
        """Bytes that are free once these are put aside; None: unknown.

        What is unknown of the free is taken for all that there is; who frees an unknown amount, for all of it.
        """
        free, total = self._known(kind)
        there = total if free is None else free
        if there is None:
            return None
        for name in evicted:
            given = self._given[name, kind]
            if given is None:
                return total
            there += given
        return there if total is None else min(there, total)

    def limit(self, kind: Kind, evicted: Collection[str] = (), *, strictly: bool = True) -> int | None:
        """Bytes that the run may use; None: no limit is known.

        Args:
            kind: Of memory.
            evicted: Who is put aside.
            strictly: Whether the threshold counts, or only what is free.
        """
        key = (kind, frozenset(evicted), strictly)
        if key not in self._limits:
            self._limits[key] = self._limit(kind, evicted, strictly=strictly)
        return self._limits[key]

    def could_fit(self, demand: Demand) -> bool:
        """Whether it fits what is free once everybody is put aside."""
        return self.fits(demand, self.held, strictly=False)

    def free_for(self, kind: Kind, size: int, *, strictly: bool) -> float:
        """Bytes that have to be free so that so many may be used; infinite: they never may."""
        if self.cap is not None and kind == "vram" and size > self.cap:
            return math.inf
        total, free = self._known(kind)[1], size / _USABLE
        if not strictly or total is None or size <= round(_LITTLE * total):
            return free
        return max(free, size + (1 - self.threshold) * total)

    def fits(self, demand: Demand, evicted: Collection[str] = (), *, strictly: bool = True) -> bool:
        """Whether this may be used."""
        for kind in KINDS:
            limit = self.limit(kind, evicted, strictly=strictly)
            if limit is not None and getattr(demand, kind) > limit:
                return False
        return True

    def short(
        self, demand: Demand, evicted: Collection[str] = (), *, strictly: bool = True
    ) -> Iterator[Kind]:
        """What there is too little of."""
        for kind in KINDS:
            limit = self.limit(kind, evicted, strictly=strictly)
            if limit is not None and getattr(demand, kind) > limit:
                yield kind

    def gives(self, name: str, kind: Kind) -> bool:
        """Whether putting it aside frees any of it, as far as is known."""
        return self._given[name, kind] != 0

    def helpful(self, demand: Demand) -> tuple[str, ...]:
        """Who holds something of what there is too little of."""
        short = tuple(self.short(demand))
        if short not in self._helpers:
            givers = {name for kind in short for name in self._givers(kind)}
            self._helpers[short] = tuple(name for name in self.held if name in givers)
        return self._helpers[short]

    def fewest(self, demand: Demand) -> tuple[str, ...] | None:
        """As few as make room under the threshold, of as many those that free the least; None: all are not enough."""
        helpful = self.helpful(demand)
        if not helpful or not self.fits(demand, helpful):
            return None
        size = self._freeing(tuple(self.short(demand)))
        if len(helpful) > _MOST_SUBSETS:
            largest = sorted(helpful, key=lambda name: size((name,)), reverse=True)
            return next(
                tuple(sorted(largest[:count], key=helpful.index))
                for count in range(1, len(largest) + 1)
                if self.fits(demand, largest[:count])
            )
        for count in range(1, len(helpful) + 1):
            enough = [names for names in combinations(helpful, count) if self.fits(demand, names)]
            if enough:
                return min(enough, key=size)
        return None

    def budget(self, evicted: Collection[str]) -> float | None:
        """VRAM budget for the engine of all that is free, in GiB, in steps; None: no limit is known."""
        limit = self.limit("vram", evicted, strictly=False)
        return None if limit is None else budget_step((limit - CONTEXT) / GIB)

    def _limit(self, kind: Kind, evicted: Collection[str], *, strictly: bool) -> int | None:
        free, total = self.free(kind, evicted), self._known(kind)[1]
        limits = [] if self.cap is None or kind == "ram" else [self.cap]
        if free is not None:
            limits.append(round(free * _USABLE))
            if strictly and total is not None:
                limits.append(round(max(free - (1 - self.threshold) * total, _LITTLE * total)))
        return min(limits, default=None)

    def _known(self, kind: Kind) -> tuple[int | None, int | None]:
        supply = self.supply
        if kind == "ram":
            return supply.ram_free, supply.ram_total
        return (supply.vram_free, supply.vram_total) if self.own_vram else (None, None)

    def _givers(self, kind: Kind) -> list[str]:
        """Who makes more of it usable: none does where it is only the cap that is too low."""
        givers = [name for name in self.held if self._given[name, kind] != 0]
        before, after = self.limit(kind, strictly=False), self.limit(kind, givers, strictly=False)
        return givers if before is not None and (after is None or after > before) else []

    def _freed(self, holding: Holding, kind: Kind) -> int | None:
        if kind == "vram":
            return holding.vram
        if not self.pooled:
            return holding.ram
        known = [size for size in (holding.ram, holding.vram) if size is not None]
        return sum(known) if known else None

    def _freeing(self, kinds: tuple[Kind, ...]) -> Callable[[tuple[str, ...]], tuple[int, int]]:
        """How much these free: the unknown first, then bytes."""

        def size(names: tuple[str, ...]) -> tuple[int, int]:
            given = [self._given[name, kind] for name in names for kind in kinds]
            return given.count(None), sum(each or 0 for each in given)

        return size


def budget_step(gib: float) -> float:
    """The next lower budget that is a whole step, and no less than one."""
    return max(math.floor(gib / _BUDGET_STEP) * _BUDGET_STEP, _BUDGET_STEP)
