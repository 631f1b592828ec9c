"""Waits until memory that was to be freed is seen to be free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .limits import Limits
    from .offloadable import Holding
    from .supply import Supply

_SLACK: Final = 0.1
"""Of what was promised: programs round, and others go on working meanwhile."""

_GROWTH: Final = 16 << 20
"""Bytes; what free memory changes by when nothing happens is less."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What should be free.

    Attributes:
        ram: Bytes; None: unknown, or there is nothing to see.
        vram: Likewise.
    """

    ram: int | None
    vram: int | None

    @classmethod
    def of(cls, before: Supply, given: Sequence[Holding]) -> Promise:
        """What is free once those have let go who hold something now.

        Args:
            before: What was free while they held it.
            given: What they held.
        """
        return cls(
            _promised(before.ram_free, before.ram_total, [each.ram for each in given]),
            _promised(before.vram_free, before.vram_total, [each.vram for each in given]),
        )

    def missing(self, supply: Supply) -> tuple[int, int]:
        """Bytes of RAM and of VRAM that are still to come."""
        return _missing(self.ram, supply.ram_free), _missing(self.vram, supply.vram_free)

    def is_kept(self, supply: Supply) -> bool:
        """Whether everything of which that is known has come."""
        return self != Promise(None, None) and self.missing(supply) == (0, 0)


async def settle(
    look: Callable[[], Awaitable[Supply]],
    promise: Promise,
    limits: Limits,
    enough: Callable[[Supply], bool] = lambda _: False,
) -> Supply:
    """Look until what was promised is free, or is enough, or no more comes.

    Args:
        look: At the memory as it is now.
        promise: What should come.
        limits: How long, how often.
        enough: Whether nothing more is needed.

    Returns:
        What was seen last.
    """
    begun = grown = limits.clock()
    best = supply = await look()
    while not (promise.is_kept(supply) or enough(supply)):
        now = limits.clock()
        if now - begun >= limits.settle or now - grown >= limits.patience:
            break
        await limits.sleep(limits.poll)
        supply = await look()
        if _grew(best.ram_free, supply.ram_free) or _grew(best.vram_free, supply.vram_free):
            best, grown = supply, limits.clock()
    return supply


def _promised(free: int | None, total: int | None, given: Sequence[int | None]) -> int | None:
    known = [each for each in given if each]
    if free is None or not known:
        return None
    promised = free + int(sum(known) * (1 - _SLACK))
    return promised if total is None else min(promised, total)


def _missing(promised: int | None, free: int | None) -> int:
    return 0 if promised is None or free is None else max(promised - free, 0)


def _grew(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now - before >= _GROWTH
