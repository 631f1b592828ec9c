"""What memory there is. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmanager.models import have_at_most

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.hardware import Gpu, HardwareSnapshot


@dataclass(frozen=True, slots=True)
class Supply:
    """Memory at one moment, in bytes; None is unknown, and never taken for none.

    Attributes:
        ram_free: What can be had without swapping.
        ram_total: All.
        vram_free: Of the graphics card that the engine takes.
        vram_total: Likewise.
        unified: Whether the only graphics cards use the RAM.
        has_gpu: Whether there is any graphics card.
    """

    ram_free: int | None = None
    ram_total: int | None = None
    vram_free: int | None = None
    vram_total: int | None = None
    unified: bool = False
    has_gpu: bool | None = None


def supply_of(snapshot: HardwareSnapshot) -> Supply:
    """What a look at the machine says of its memory.

    Of several cards with memory of their own, the one with the most of it is taken, the first of equals: as CUDA orders
    them, the fastest first. Of the slices of a partitioned card a process gets the first. A card of unknown size is
    taken only where no other is known.
    """
    most = have_at_most(snapshot)
    card = _card([gpu for gpu in snapshot.gpus if not gpu.unified_memory])
    return Supply(
        ram_free=snapshot.ram_available,
        ram_total=snapshot.ram_total,
        vram_free=card.free_vram if card else None,
        vram_total=card.total_vram if card else None,
        unified=most.unified,
        has_gpu=most.has_gpu,
    )


def _card(cards: Sequence[Gpu]) -> Gpu | None:
    known = [card for card in cards if card.total_vram is not None]
    slices = [card for card in known if card.mig]
    if slices:
        return slices[0]
    return max(known or cards, key=lambda card: card.total_vram or 0, default=None)
