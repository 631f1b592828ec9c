"""Memory plans from the fastest to the one that needs the least. Pure.

The order of the costly flags is that of what they cost: weights that wait in RAM are copied to the card once for each
stage, a text encoder on the CPU reads one prompt, a VRAM budget has weights copied at every step, and a VAE on the CPU
takes as long as all of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sdmanager.generation import MemoryPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sdmanager.generation import MemoryChoices

# Which flags of the engine each needs; one of them is enough.
_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "offload_to_cpu": ("--offload-to-cpu",),
    "clip_on_cpu": ("--backend", "--clip-on-cpu"),
    "vae_on_cpu": ("--backend", "--vae-on-cpu"),
    "vae_tiling": ("--vae-tiling",),
    "diffusion_flash_attention": ("--diffusion-fa",),
    "max_vram_gib": ("--max-vram",),
    "stream_layers": ("--stream-layers",),
}

# They cost little: on most cards flash attention is even faster.
_CHEAP: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("diffusion_flash_attention",),
    ("vae_tiling",),
    ("diffusion_flash_attention", "vae_tiling"),
)

_COSTLY: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("offload_to_cpu",),
    ("clip_on_cpu",),
    ("offload_to_cpu", "clip_on_cpu"),
    ("offload_to_cpu", "max_vram_gib"),
    ("offload_to_cpu", "clip_on_cpu", "max_vram_gib"),
    ("offload_to_cpu", "clip_on_cpu", "max_vram_gib", "stream_layers"),
    ("vae_on_cpu",),
    ("offload_to_cpu", "vae_on_cpu"),
    ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu"),
    ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "max_vram_gib"),
    ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "max_vram_gib", "stream_layers"),
)

# On a card, flash attention is not slower; on a CPU it is, by a twentieth, and tiles come first.
_CHEAP_ON_CPU: Final = (_CHEAP[0], _CHEAP[2], _CHEAP[1], _CHEAP[3])


@dataclass(frozen=True, slots=True)
class Rung:
    """Plans that cost about the same.

    Attributes:
        plans: With few cheap flags before many.
        budgeted: Whether their VRAM budget is still to be set, to what there is.
    """

    plans: tuple[MemoryPlan, ...]
    budgeted: bool = False


def decided(choices: MemoryChoices, supports: Callable[[str], bool]) -> MemoryPlan:
    """The fastest plan, with what the user decided and nothing else.

    All of that is in it, whether or not the engine knows it, but for a budget: an engine without one is planned to stay
    below it. Layers that are streamed wait in RAM, so that this is decided, too, unless it was refused.
    """
    plan = choices.plan
    if plan.stream_layers and choices.offload_to_cpu is None and _is_able("offload_to_cpu", supports):
        plan = replace(plan, offload_to_cpu=True)
    if plan.max_vram_gib is None or _is_able("max_vram_gib", supports):
        return plan
    return replace(plan, max_vram_gib=None)


def rungs(choices: MemoryChoices, supports: Callable[[str], bool], *, own_vram: bool) -> Iterator[Rung]:
    """All plans that these choices and this engine allow, the fastest first.

    Args:
        choices: Of the user.
        supports: Whether the engine has a flag, written with its dashes.
        own_vram: Whether the engine draws on a card with memory of its own, without which nothing can be moved.
    """
    start = decided(choices, supports)
    is_open = {
        # A budget that was decided can still be undercut.
        name: (name == "max_vram_gib" or getattr(choices, name) is None) and _is_able(name, supports)
        for name in _FLAGS
    }
    cheap = [names for names in (_CHEAP if own_vram else _CHEAP_ON_CPU) if all(map(is_open.get, names))]
    seen: set[frozenset[str]] = set()
    for costly in _COSTLY if own_vram else _COSTLY[:1]:
        # What is on in any case needs no rung of its own.
        more = frozenset(name for name in costly if getattr(start, name) is not True)
        if more not in seen and all(map(is_open.get, more)):
            seen.add(more)
            yield Rung(tuple(_with(start, *more, *names) for names in cheap), budgeted="max_vram_gib" in more)


def supported(plan: MemoryPlan, supports: Callable[[str], bool]) -> bool:
    """Whether an engine knows all flags of a plan."""
    plain = MemoryPlan()
    return all(
        _is_able(name, supports)
        for name in _FLAGS
        if getattr(plan, name) not in {getattr(plain, name), False}
    )


def _is_able(name: str, supports: Callable[[str], bool]) -> bool:
    return any(supports(flag) for flag in _FLAGS[name])


@lru_cache(maxsize=256)
def _with(plan: MemoryPlan, *names: str) -> MemoryPlan:
    changes: dict[str, Any] = {name: True for name in names if name != "max_vram_gib"}
    return replace(plan, **changes) if changes else plan
