"""Which memory flags are worth trying with an engine and a model. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sdmanager.generation import MemoryPlan
from sdmanager.models import Role, traits_of

from .model_arguments import FLASH_VARIANTS
from .run import draws_on_gpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.binaries import EngineBinary
    from sdmanager.models import Family

COMBINATIONS_MAX: Final = 8
"""More are never tried by themselves: each is a whole picture."""

# What the engine must have for a field of a plan: one of these. Newer engines place parts by --backend.
_NEEDS: Final = {
    "offload_to_cpu": ("--offload-to-cpu",),
    "clip_on_cpu": ("--backend", "--clip-on-cpu"),
    "vae_tiling": ("--vae-tiling",),
    "diffusion_flash_attention": ("--diffusion-fa",),
    "stream_layers": ("--stream-layers",),
}


def combinations(
    supports: Callable[[str], bool],
    on_gpu: bool | None,
    family: Family | None,
    *,
    fast_attention: bool = False,
    unified: bool = False,
) -> list[MemoryPlan]:
    """The sets of memory flags that are worth a try, from none to those that need the least memory.

    On the CPU, and where the graphics card uses the RAM, no flag is tried that only moves work or weights between
    the two.

    Args:
        supports: Whether the engine has a flag, written with its dashes.
        on_gpu: Whether it draws on a graphics card; None, where nobody knows, counts as yes.
        family: Of the model, where known.
        fast_attention: Whether flash attention is faster on this backend, and so on by itself for some families.
        unified: Whether the graphics card uses the RAM.

    Returns:
        At most ``COMBINATIONS_MAX``, no two alike; the first is the plain one.
    """
    traits = traits_of(family) if family is not None else None
    has_vae = traits is None or Role.VAE in traits.parts
    # Where it is on by itself, the other way is to switch it off, and the plans with more flags have it anyway.
    is_on = fast_attention and traits is not None and traits.conditioned_by_llm
    flash = None if is_on else True
    plans = [
        MemoryPlan(),
        MemoryPlan(diffusion_flash_attention=not is_on),
        MemoryPlan(vae_tiling=has_vae),
        MemoryPlan(vae_tiling=has_vae, diffusion_flash_attention=flash),
    ]
    if on_gpu is not False and not unified:
        plans += [
            MemoryPlan(clip_on_cpu=True),
            MemoryPlan(offload_to_cpu=True),
            MemoryPlan(offload_to_cpu=True, vae_tiling=has_vae),
            MemoryPlan(
                offload_to_cpu=True,
                vae_tiling=has_vae,
                diffusion_flash_attention=flash,
                stream_layers=True,
            ),
        ]
    return list(dict.fromkeys(_without_missing(plan, supports) for plan in plans))


def combinations_for(engine: EngineBinary, family: Family | None) -> list[MemoryPlan]:
    """The same for an engine that is there.

    Args:
        engine: By whose variant and help it is decided.
        family: Of the model, where known.
    """
    return combinations(
        engine.capabilities.supports,
        draws_on_gpu(engine.variant),
        family,
        fast_attention=engine.variant in FLASH_VARIANTS,
        unified=engine.variant == "metal",
    )


def _without_missing(plan: MemoryPlan, supports: Callable[[str], bool]) -> MemoryPlan:
    """The plan without what the engine lacks, which may be another one of the list."""
    default = MemoryPlan()
    for name, flags in _NEEDS.items():
        if not any(map(supports, flags)):
            plan = replace(plan, **{name: getattr(default, name)})
    return plan if plan.offload_to_cpu else replace(plan, stream_layers=False)
