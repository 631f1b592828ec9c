"""An engine that ran out of memory: whether it really did, of which, and what is left to do."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.generation import MemoryPlan, PreviewMethod, Stage
from sdmanager.models import is_large, smaller_models
from sdmanager.resources import Supply

from .arguments import choose_preview_method
from .kills import Killed
from .loras import wanted_loras
from .run import NO_CARD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.generation import ImageRequest, MemoryChoices
    from sdmanager.resources import Footprint
    from sdmanager.settings import Settings

    from .run import Run

_Kind: TypeAlias = 'Literal["ram", "vram"]'

# Of the RAM that was free: an engine that had less of it when it was killed was killed for another reason, or in the
# place of another program where something on the machine ran out of RAM.
_NEARLY_ALL: Final = 0.8
_PLAUSIBLE: Final = 0.3

# Models and pictures up to here fit wherever an engine does.
_LIGHT_PIXELS: Final = 512 * 512

_GB: Final = 1e9

_WEIGHTS: Final = ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "max_vram_gib", "stream_layers")
_HELPFUL: Final = {
    Stage.LOADING.value: _WEIGHTS,
    Stage.DIFFUSION.value: (*_WEIGHTS, "diffusion_flash_attention"),
    Stage.DECODING.value: (*_WEIGHTS, "vae_tiling"),
}

_IN_RAM: Final = re.compile(
    r"bad_alloc|ggml_aligned_malloc|Cannot allocate memory|paging file|cpu_buffer|\bCPU\d* buffer|OutOfHostMemory"
    r"|OUT_OF_HOST_MEMORY",
    re.IGNORECASE,
)
_IN_VRAM: Final = re.compile(
    r"cuda|cublas|\bROCm|\bhip|vulkan|OutOfDeviceMemory|OUT_OF_DEVICE_MEMORY|kIOGPU|\bMetal|\bMTL",
    re.IGNORECASE,
)


def needs_no_look(footprint: Footprint, plan: MemoryPlan) -> bool:
    """Whether a run is so small that looking at the machine for it would cost more than it tells.

    Args:
        footprint: What is to be run.
        plan: The fastest that is allowed.
    """
    if is_large(footprint.weights) or footprint.width * footprint.height > _LIGHT_PIXELS:
        return False
    size = (footprint.width, footprint.height)
    return not was_short(footprint, plan) and size not in footprint.learned.recommended


def was_short(footprint: Footprint, plan: MemoryPlan) -> bool:
    """Whether such a run is known to have run out of memory."""
    peak = footprint.learned.peaks.get((footprint.width, footprint.height, plan.key))
    return peak is not None and bool(peak.too_small_ram or peak.too_small_vram)


def ran_out(error: EngineOutOfMemoryError) -> bool:
    """Whether memory surely ran out, so that another try with less makes sense.

    An engine that says so is believed. One that was killed may have been killed by anybody: then the kernel has to
    have ended something of ours for want of RAM meanwhile; or something on the machine, and the engine had a good part
    of what was free; or it had nearly all of that.

    Args:
        error: What the run ended with.
    """
    if "oom_killer" not in error.details:
        return True
    killed, used, free = (error.details.get(name) for name in ("oom_killer", "ram_bytes", "ram_free"))
    if killed == Killed.GROUP:
        return True
    share = _PLAUSIBLE if killed == Killed.MACHINE else _NEARLY_ALL
    return isinstance(used, int) and isinstance(free, int) and used >= share * free


def too_little(error: EngineOutOfMemoryError, supply: Supply) -> Supply:
    """What surely was not enough for a run.

    Of an engine that was killed, that is only what it had itself: what else was free another program may have taken.

    Args:
        error: What it ended with.
        supply: What was free when it began.
    """
    if "oom_killer" not in error.details:
        return supply
    had = error.details.get("ram_bytes")
    return replace(supply, ram_free=had) if isinstance(had, int) else Supply()


def has_extras(run: Run, request: ImageRequest) -> bool:
    """Whether a request needs more memory than others of its size: what it lacks says nothing about those.

    Args:
        run: The engine and the model.
        request: Complete, and such as the engine can do.
    """
    if request.init_image is not None or wanted_loras(request)[1]:
        return True
    if request.previews is None:
        return False
    capabilities, on_gpu = run.binary.capabilities, run.binary.variant not in NO_CARD
    method = choose_preview_method(request.previews.method, run.model, capabilities, on_gpu=on_gpu)
    return method is not PreviewMethod.PROJ


def short_of(error: EngineOutOfMemoryError) -> _Kind | None:
    """Of which memory, where the engine's own words or its end tell."""
    if "oom_killer" in error.details or _IN_RAM.search(error.message):
        return "ram"
    return "vram" if _IN_VRAM.search(error.message) else None


def helps(stage: object, failed: MemoryPlan, plan: MemoryPlan) -> bool:
    """Whether a plan takes something from the stage in which memory ran out.

    Args:
        stage: Value of that ``Stage``; anything else: it is not known.
        failed: The plan that failed.
        plan: One that is stricter.
    """
    if set(plan.evictions) - set(failed.evictions) or stage not in _HELPFUL:
        return True
    return any(getattr(plan, name) != getattr(failed, name) for name in _HELPFUL[str(stage)])


def explain_retry(failed: MemoryPlan, plan: MemoryPlan) -> str:
    """Why the engine starts once more, in one sentence."""
    added = [name for name in plan.evictions if name not in failed.evictions]
    aside = f" after {' and '.join(added)} {'was' if len(added) == 1 else 'were'} put aside" if added else ""
    return f"The engine ran out of memory {_with(failed)} and starts once more {_with(plan)}{aside}."


def explain_given_up(
    error: EngineOutOfMemoryError,
    tried: Sequence[MemoryPlan],
    choices: MemoryChoices | MemoryPlan,
    footprint: Footprint,
    smaller: tuple[str, int] | None,
) -> EngineOutOfMemoryError:
    """The same error, with what was tried and what is left to do.

    Args:
        error: Of the last try.
        tried: The plans, in order.
        choices: What the user had decided.
        footprint: What was run.
        smaller: A smaller model, and its bytes; None: there is none to name.
    """
    ways = [f"ask for a smaller picture than {footprint.width}x{footprint.height}"]
    if smaller is not None:
        ways.append(f"use the model {smaller[0]!r} ({smaller[1] / _GB:.1f} GB)")
    if isinstance(choices, MemoryPlan) or False in _decided(choices):
        ways.append("leave the choice of memory flags to sdmanager")
    listed = f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]
    lasts = (None, *tried[:-1])
    what = ", then ".join(_tried(plan, last) for plan, last in zip(tried, lasts, strict=True))
    return EngineOutOfMemoryError(
        error.message,
        hint=f"{listed[0].upper()}{listed[1:]}; it was tried {what}.",
        details={**error.details, "tried": [list(plan.flags) for plan in tried]},
    )


def smaller_model(name: str, weights: int, settings: Settings) -> tuple[str, int] | None:
    """A smaller option of a model, else a smaller model, and its bytes. Blocking: reads the catalogue."""
    return next(iter(smaller_models(name, weights, settings)), None)


def _decided(choices: MemoryChoices) -> list[object]:
    return [
        choices.offload_to_cpu, choices.clip_on_cpu, choices.vae_on_cpu, choices.vae_tiling,
        choices.diffusion_flash_attention, choices.stream_layers,
    ]  # fmt: skip


def _tried(plan: MemoryPlan, last: MemoryPlan | None) -> str:
    """The flags, and who was put aside since the last try; no flags where that is all that differs."""
    added = [name for name in plan.evictions if last is None or name not in last.evictions]
    if not added:
        return _with(plan)
    aside = f"with {' and '.join(added)} put aside"
    return aside if plan == last else f"{_with(plan)} and {aside}"


def _with(plan: MemoryPlan) -> str:
    return f"with {' '.join(plan.flags)}" if plan.flags else "without memory flags"
