"""Looks at the memory: often at the RAM, which costs nothing, and at graphics cards only where they matter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sdmanager.hardware import ram_now, take_snapshot

from .supply import Supply, supply_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

_YOUNG: Final = 1.0
"""Seconds; what was seen of a card this long ago is good enough where nothing has to move."""


class Looker:
    """Says what memory is free.

    Args:
        settings: The guard of child processes.
        look: Looks in the place of this.
    """

    def __init__(self, settings: Settings, look: Callable[[], Awaitable[HardwareSnapshot]] | None) -> None:
        self._settings, self._look = settings, look

    async def see(self, on_gpu: bool | None, *, anew: bool) -> Supply:
        """What is free.

        Args:
            on_gpu: Whether the engine draws on a graphics card, None: unknown; no card is asked for one that does
                not.
            anew: Whether what was seen of a card a moment ago will not do.
        """
        if self._look is not None:
            return supply_of(await self._look())
        if on_gpu is False:
            total, free = ram_now()
            return Supply(ram_free=free, ram_total=total)
        # Which cards there are changes seldom; without one that has memory of its own there is nothing to ask.
        snapshot = await take_snapshot(self._settings)
        if any(not gpu.unified_memory for gpu in snapshot.gpus):
            snapshot = await take_snapshot(self._settings, max_age=0.0 if anew else _YOUNG)
        total, free = ram_now()
        return supply_of(replace(snapshot, ram_total=total, ram_available=free))
