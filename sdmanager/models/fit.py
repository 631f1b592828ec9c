"""Whether a model fits this machine: what it needs at the least, against what there is. Pure.

Only what surely cannot work is refused: every figure that is needed is a lower bound, and what is unknown passes.
Swap space is not counted, with which a model may run, but for hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from sdmanager.errors import InsufficientResourcesError

from .families import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdmanager.generation import MemoryPlan
    from sdmanager.hardware import Gpu, HardwareSnapshot

_GB: Final = 1e9
_GIB: Final = 1 << 30

_ENCODERS: Final = frozenset({Role.CLIP_L, Role.CLIP_G, Role.T5XXL, Role.LLM, Role.LLM_VISION})
_DECODERS: Final = frozenset({Role.VAE, Role.TAE})

# Below all that was measured: see `need_of`.
_WORKING_BASE: Final = 64_000_000
_WORKING_PER_PIXEL: Final = 256
_WORKING_PER_PIXEL_TILED: Final = 64

# Convolutions are kept in half precision whatever the file has: an F32 file of these takes half to two thirds of its
# size. Files of unknown precision are taken for F32 where such are common.
_WITH_CONVOLUTIONS: Final = frozenset({Role.MODEL, Role.DIFFUSION_MODEL, Role.VAE})
_OFTEN_F32: Final = frozenset({Role.MODEL, Role.VAE})

# The largest part of a whole model: at least half of it; three quarters in SDXL, four fifths in SD 1.5.
_LEAST_SHARE: Final = 0.5
_USUAL_SHARE: Final = 0.75

# Of the VRAM; drivers keep some of it to themselves.
_BUDGET_SHARE: Final = 0.9

_Flags: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs at the least.

    Attributes:
        weights: Bytes of each part once it is loaded.
        working: Bytes beside the weights.
        working_tiled: The same when the picture is decoded in tiles.
    """

    weights: Mapping[Role, int]
    working: int
    working_tiled: int

    def __post_init__(self) -> None:
        """Keep the mapping from changing."""
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    @property
    def total(self) -> int:
        """Bytes of everything together."""
        return sum(self.weights.values()) + self.working


@dataclass(frozen=True, slots=True)
class Have:
    """What a machine has; None is unknown, and passes.

    Attributes:
        ram: Bytes.
        vram: Bytes of the largest graphics card with memory of its own.
        unified: Whether the only graphics cards are those that use the RAM.
        has_gpu: Whether there is any.
    """

    ram: int | None
    vram: int | None
    unified: bool = False
    has_gpu: bool | None = None


@dataclass(frozen=True, slots=True)
class _Shortage:
    resource: Literal["RAM", "VRAM"]
    needed: int
    there: int


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to run a model, with the flags that were added for it."""

    plan: MemoryPlan
    on_gpu: bool
    flags: _Flags = field(default=())


def need_of(
    sizes: Mapping[Role, int],
    width: int,
    height: int,
    *,
    tiling: bool = False,
    quantisations: Mapping[Role, str | None] | None = None,
) -> Need:
    """What a model with these files needs at the least.

    The memory beside the weights is a deliberately low estimate: 64 MB, and 256 bytes per pixel, or 64 when the picture
    is decoded in tiles. Measured with the engine of `stable-diffusion-cpp-python` 0.4.7 and the demo model, whose parts
    are smaller than any real one's (peak RSS less the files' size): 120 MB at 64x64, 247 at 256x256, 624 at 512x512,
    2,138 at 1024x1024; in tiles 246 at 512x512 and 250 at 1024x1024. A tiny autoencoder's decoding is most of it.
    Engines that free each part after its use decode beside the VAE alone; hence a quarter of that, which diffusion
    takes, too.

    Args:
        sizes: Bytes of each file.
        width: Of the picture, in pixels.
        height: Likewise.
        tiling: Whether it is decoded in tiles.
        quantisations: What most of each file is in, such as ``F32``, where known.
    """
    known = quantisations or {}
    decodes_by_itself = Role.VAE in sizes or Role.MODEL in sizes
    weights = {
        role: size // 2 if _is_halved(role, known.get(role)) else size
        for role, size in sizes.items()
        # Beside a VAE it is loaded for previews only.
        if not (role is Role.TAE and decodes_by_itself)
    }
    pixels = width * height
    tiled = _WORKING_BASE + pixels * _WORKING_PER_PIXEL_TILED
    return Need(weights, tiled if tiling else _WORKING_BASE + pixels * _WORKING_PER_PIXEL, tiled)


def have_now(snapshot: HardwareSnapshot) -> Have:
    """What can be had at this moment: for a start."""
    ram = snapshot.ram_total if snapshot.ram_available is None else snapshot.ram_available
    return _have(
        snapshot,
        ram,
        [gpu.total_vram if gpu.free_vram is None else gpu.free_vram for gpu in _own_memory(snapshot)],
    )


def have_at_most(snapshot: HardwareSnapshot) -> Have:
    """What there is when nothing else runs: for a download."""
    return _have(snapshot, snapshot.ram_total, [gpu.total_vram for gpu in _own_memory(snapshot)])


def check_fit(
    name: str,
    need: Need,
    have: Have,
    plan: MemoryPlan | None,
    *,
    on_gpu: bool | None,
    smaller: Sequence[tuple[str, int]] = (),
    usual: Need | None = None,
) -> None:
    """Refuse a model that surely cannot run.

    On a CPU, weights and working memory must fit the RAM. On a graphics card everything must fit the VRAM; with
    ``offload_to_cpu`` its largest part must, and all weights the RAM; what is put on the CPU must fit the RAM. With a
    VRAM budget the engine cuts the work to measure, and only the RAM counts.

    Args:
        name: Of the model, for the message.
        need: What it needs.
        have: What there is.
        plan: Memory flags; None: whichever make it fit, as before a download.
        on_gpu: Whether a graphics card draws; None: whichever makes it fit.
        smaller: Other options and models to suggest, each with its bytes, the best first.
        usual: What it needs for pictures of its usual size, by which the hint is chosen.

    Raises:
        InsufficientResourcesError: It does not fit; the hint names flags that would make it fit, or the first of
            ``smaller`` that does.
    """
    ways = list(_ways(have, plan, on_gpu))
    shortages = [_shortage(need, have, way, _LEAST_SHARE) for way in ways]
    if None in shortages:
        return
    # The first way is what was asked for; where all are open, the last needs the least.
    worst = shortages[0] if plan is not None else shortages[-1]
    assert worst is not None  # noqa: S101 - none of them is
    needs = (usual or need, need)
    helpful = (_flags_that_help(each, have, ways[0]) for each in needs if plan is not None)
    flags = next((each for each in helpful if each), None)
    other = None if flags else _first_that_fits(needs[0], have, ways, smaller)
    hint = None
    if flags:
        hint = f"Try {' '.join(flags)}, with which it should fit."
    elif other:
        hint = f"Use {other[0]!r} ({other[1] / _GB:.1f} GB), which should fit."
    raise InsufficientResourcesError(
        f"The model {name!r} needs at least {_ceiling(worst.needed)} GB of {worst.resource} "
        f"and {_floor(worst.there)} GB is there.",
        hint=hint,
        details={
            "model": name,
            "resource": worst.resource.lower(),
            "needed_bytes": worst.needed,
            "available_bytes": worst.there,
            "weights_bytes": sum(need.weights.values()),
            "working_bytes": need.working,
            "flags": list(flags or ()),
            "smaller": other[0] if other else None,
        },
    )


def check_disk(name: str, needed: int, free: int | None) -> None:
    """Refuse to fetch or copy what the disk has no room for.

    Args:
        name: Of the model, for the message.
        needed: Bytes to be written, with what should stay free.
        free: Bytes; None: unknown.

    Raises:
        InsufficientResourcesError: There is too little.
    """
    if free is None or needed <= free:
        return
    raise InsufficientResourcesError(
        f"The model {name!r} needs {_ceiling(needed)} GB of free disk space and {_floor(free)} GB is there.",
        hint="Free some space; 'sdmanager models remove NAME' deletes a model.",
        details={"model": name, "resource": "disk", "needed_bytes": needed, "available_bytes": free},
    )


def _is_halved(role: Role, quantisation: str | None) -> bool:
    if quantisation is None:
        return role in _OFTEN_F32
    return quantisation.upper() == "F32" and role in _WITH_CONVOLUTIONS


def _own_memory(snapshot: HardwareSnapshot) -> list[Gpu]:
    return [gpu for gpu in snapshot.gpus if not gpu.unified_memory]


def _have(snapshot: HardwareSnapshot, ram: int | None, vrams: Sequence[int | None]) -> Have:
    known = [vram for vram in vrams if vram is not None]
    # One that is unknown may be the largest.
    vram = max(known) if known and len(known) == len(vrams) else None
    # Where something could not be found out, it may have been a card.
    has_gpu = True if snapshot.gpus else (None if snapshot.problems else False)
    return Have(ram, vram, unified=bool(snapshot.gpus) and not vrams, has_gpu=has_gpu)


def _ways(have: Have, plan: MemoryPlan | None, on_gpu: bool | None) -> Iterator[_Way]:
    """All ways that are open, the fastest first."""
    from sdmanager.generation import MemoryPlan

    if on_gpu or (on_gpu is None and have.has_gpu is not False):
        first = _Way(plan or MemoryPlan(), on_gpu=True)
        yield first
        if plan is None:
            yield from _stricter(first, have)
    if not on_gpu:
        first = _Way(plan or MemoryPlan(), on_gpu=False)
        yield first
        if plan is None:
            yield from _stricter(first, have)


def _stricter(way: _Way, have: Have) -> Iterator[_Way]:
    """The same with memory flags added: few before many, and of as many the fastest first.

    Copying weights to the card before each stage costs least, then a text encoder on the CPU, which reads one prompt,
    then a VAE on it. A VRAM budget, by which the weights are copied again and again, comes last.
    """
    tiling, offload, encoder, vae = (
        {"vae_tiling": True},
        {"offload_to_cpu": True},
        {"clip_on_cpu": True},
        {"vae_on_cpu": True},
    )
    combinations: list[dict[str, Any]] = [dict(tiling)]
    if way.on_gpu and not have.unified:
        combinations += [
            {**offload},
            {**encoder},
            {**vae},
            {**offload, **tiling},
            {**encoder, **tiling},
            {**offload, **encoder},
            {**encoder, **vae},
            {**offload, **encoder, **vae},
        ]
        budget = math.floor((have.vram or 0) * _BUDGET_SHARE / _GIB * 10) / 10
        if budget > 0:
            combinations.append({**offload, "max_vram_gib": budget})
    for combination in combinations:
        added = {
            name: value for name, value in combination.items() if getattr(way.plan, name) in (False, None)
        }
        yield replace(
            way, plan=replace(way.plan, **added), flags=tuple(_flag(*item) for item in added.items())
        )


def _flag(name: str, value: bool | float) -> str:
    return f"--max-vram {value:g}" if name == "max_vram_gib" else f"--{name.replace('_', '-')}"


def _shortage(need: Need, have: Have, way: _Way, share: float) -> _Shortage | None:
    ram, vram = _placed(need, way, share, unified=have.unified)
    if have.vram is not None and vram > have.vram:
        return _Shortage("VRAM", vram, have.vram)
    if have.ram is not None and ram > have.ram:
        return _Shortage("RAM", ram, have.ram)
    return None


def _placed(need: Need, way: _Way, share: float, *, unified: bool) -> tuple[int, int]:
    """Bytes of RAM and of VRAM.

    Args:
        need: What is to be placed.
        way: How.
        share: Of a whole model's file: what stays on the card when a part of it goes elsewhere.
        unified: Whether the card uses the RAM.
    """
    plan, total = way.plan, sum(need.weights.values())
    working = need.working_tiled if plan.vae_tiling else need.working
    if not way.on_gpu or unified:
        return total + working, 0
    to_ram = (_ENCODERS if plan.clip_on_cpu else frozenset()) | (
        _DECODERS if plan.vae_on_cpu else frozenset()
    )
    on_card = {role: size for role, size in need.weights.items() if role not in to_ram}
    if Role.MODEL in on_card and (plan.clip_on_cpu or plan.offload_to_cpu):
        on_card[Role.MODEL] = round(on_card[Role.MODEL] * share)
    ram = total if plan.offload_to_cpu else sum(size for role, size in need.weights.items() if role in to_ram)
    if plan.vae_on_cpu:
        ram, working = ram + working, need.working_tiled
    if plan.max_vram_gib is not None:
        return ram, 0
    parts = on_card.values()
    return ram, (max(parts, default=0) if plan.offload_to_cpu else sum(parts)) + working


def _flags_that_help(need: Need, have: Have, way: _Way) -> _Flags | None:
    for stricter in _stricter(way, have):
        if _shortage(need, have, stricter, _USUAL_SHARE) is None:
            return stricter.flags
    return None


def _first_that_fits(
    need: Need, have: Have, ways: Sequence[_Way], smaller: Sequence[tuple[str, int]]
) -> tuple[str, int] | None:
    """The first of the suggestions that does, taken to be made up of parts as the model is that does not fit."""
    total = max(sum(need.weights.values()), 1)
    for name, size in smaller:
        weights = {role: part * size // total for role, part in need.weights.items()}
        scaled = replace(need, weights=weights)
        if any(_shortage(scaled, have, way, _USUAL_SHARE) is None for way in ways):
            return name, size
    return None


def _ceiling(size: int) -> str:
    return f"{math.ceil(size / _GB * 10) / 10:.1f}"


def _floor(size: int) -> str:
    return f"{math.floor(size / _GB * 10) / 10:.1f}"
