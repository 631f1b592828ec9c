"""Why a plan is as it is, for people. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sdmanager.generation import MemoryPlan

    from ._room import Kind, Room
    from .demand import Demand

_GB: Final = 1e9

_NAMES: Final[Mapping[str, str]] = {"ram": "RAM", "vram": "VRAM"}

_WHAT: Final[Mapping[str, str]] = {
    "vae_tiling": "The VAE decodes in tiles",
    "diffusion_flash_attention": "Flash attention is used",
    "offload_to_cpu": "The weights wait in RAM",
    "clip_on_cpu": "The text encoder runs on the CPU",
    "vae_on_cpu": "The VAE runs on the CPU",
    "stream_layers": "The weights are streamed layer by layer",
}


def reasons_of(
    plan: MemoryPlan,
    decided: MemoryPlan,
    evicted: Sequence[str],
    room: Room,
    demand: Callable[[MemoryPlan], Demand],
) -> Iterator[str]:
    """One sentence for each flag and each program.

    Args:
        plan: The flags.
        decided: Flags that the user decided on, which need none.
        evicted: Who is put aside.
        room: What may be used.
        demand: What a run with a plan needs.
    """
    for name in evicted:
        yield f"{_shown(name, room)} is put aside{_because(*_short(plan, decided, (), room, demand), room, ())}."
    for name, change in _chosen(plan, decided):
        without = replace(plan, **{name: change})
        what = _WHAT.get(name) or f"The engine is held to {plan.max_vram_gib:g} GiB of VRAM"
        yield f"{what}{_because(*_short(without, decided, evicted, room, demand), room, evicted)}."


def too_much(evicted: Sequence[str], room: Room, demand: Demand) -> Iterator[str]:
    """Where there is less than a plan needs: of what, and by how much."""
    short = next(room.short(demand, evicted, strictly=False), None)
    if short is not None:
        needed, free = getattr(demand, short), room.limit(short, evicted, strictly=False) or 0
        yield (
            f"{_ceiling(needed)} GB of {_NAMES[short]} are needed and {_floor(free)} GB are free: nothing that is "
            "allowed here needs less."
        )
        return
    short = next(room.short(demand, evicted), None)
    if short is not None:
        total = room.supply.ram_total if short == "ram" else room.supply.vram_total
        yield (
            f"More than {room.threshold:.0%} of the {_NAMES[short]} will be in use: "
            f"{_ceiling(getattr(demand, short))} GB are needed, {_floor(room.free(short, evicted) or 0)} of "
            f"{_floor(total or 0)} GB are free."
        )


def _chosen(plan: MemoryPlan, decided: MemoryPlan) -> Iterator[tuple[str, Any]]:
    """Flags that were chosen, each with what was decided instead."""
    for name in (*_WHAT, "max_vram_gib"):
        before = getattr(decided, name)
        if getattr(plan, name) not in {before, None, False}:
            yield name, before


def _short(
    plan: MemoryPlan,
    decided: MemoryPlan,
    evicted: Sequence[str],
    room: Room,
    demand: Callable[[MemoryPlan], Demand],
) -> tuple[Demand, Kind | None]:
    """Of what this plan has too little, else the one that was decided."""
    needed = demand(plan)
    short = next(room.short(needed, evicted), None)
    if short is None:
        needed = demand(decided)
        short = next(room.short(needed, evicted), None)
    return needed, short


def _shown(name: str, room: Room) -> str:
    holding = room.held[name]
    sizes = ", ".join(
        f"{_floor(size)} GB of {_NAMES[kind]}"
        for kind, size in (("vram", holding.vram), ("ram", holding.ram))
        if size
    )
    return f"{holding.what} of {name} ({sizes})" if sizes else f"{holding.what} of {name}"


def _because(needed: Demand, short: Kind | None, room: Room, evicted: Sequence[str]) -> str:
    if short is None:
        return ""
    limit = max(room.limit(short, evicted) or 0, 0)
    kind = _NAMES[short]
    return f", because {_ceiling(getattr(needed, short))} GB of {kind} are needed and {_floor(limit)} GB may be used"


def _ceiling(size: int) -> str:
    return f"{math.ceil(size / _GB * 10) / 10:.1f}"


def _floor(size: int) -> str:
    return f"{math.floor(size / _GB * 10) / 10:.1f}"
