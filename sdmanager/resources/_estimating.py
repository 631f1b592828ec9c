"""How much memory a run should need by the sizes of its parts: usual figures, no bounds. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.models import Family, Role

from ._activations import buffers_of

if TYPE_CHECKING:
    from sdmanager.generation import MemoryPlan

    from ._activations import Buffers
    from .footprint import Footprint

GIB: Final = 1 << 30

CONTEXT: Final = 300_000_000
"""Bytes of VRAM that a driver takes for a process besides what it asks for; a round figure."""

_PROCESS: Final = 120_000_000
_GPU_PROCESS: Final = 400_000_000
"""Bytes of RAM of the engine without weights and buffers: measured on the CPU at 64x64; with a graphics driver, a round
figure."""

_ENCODERS: Final = frozenset({Role.CLIP_L, Role.CLIP_G, Role.T5XXL, Role.LLM, Role.LLM_VISION})
_DECODERS: Final = frozenset({Role.VAE, Role.TAE})

_ENCODER_SHARE: Final = 0.24
_SD1_ENCODER_SHARE: Final = 0.13
_DECODER_SHARE: Final = 0.025
"""Of a whole model file. The engine's own figures of SDXL in half precision are 1596, 4947 and 160 MB of 6703, those of
SD 1.5 235 and 1640 beside the VAE."""

_SMALLEST_CUT: Final = 1 / 16
"""Of a model's weights: what is on the card at the least when the engine brings them there block by block. FLUX.1 has
57 blocks, of which the double ones hold three times as much as the others; with streaming the next is fetched ahead."""


@dataclass(frozen=True, slots=True)
class _Weights:
    text: int
    diffusion: int
    decoding: int

    @property
    def total(self) -> int:
        return self.text + self.diffusion + self.decoding


class Estimates:
    """What runs of one model at one size need of RAM and of VRAM, by their memory flags.

    Args:
        footprint: What is to be run; where ``on_gpu`` is None it is taken to draw on a card.
        pooled: Whether the card uses the RAM; all of it is RAM then.
    """

    def __init__(self, footprint: Footprint, *, pooled: bool) -> None:
        self._footprint = footprint
        self._on_cpu = footprint.on_gpu is False
        self._pooled = pooled
        self._weights = _weights(footprint)
        self._buffers: dict[tuple[bool, bool | None], Buffers] = {}

    def of(self, plan: MemoryPlan) -> tuple[int, int]:
        """Bytes of RAM and VRAM at the highest with these flags."""
        weights, flags = self._weights, (plan.vae_tiling, plan.diffusion_flash_attention)
        buffers = self._buffers.get(flags)
        if buffers is None:
            buffers = self._buffers[flags] = buffers_of(self._footprint, plan)
        if self._on_cpu or self._pooled:
            fixed = weights.total + (_PROCESS if self._on_cpu else _GPU_PROCESS + CONTEXT)
            return fixed + max(buffers.text, buffers.diffusion, buffers.decoding), 0
        return _beside_card(weights, buffers, plan), _on_card(weights, buffers, plan)


def _beside_card(weights: _Weights, buffers: Buffers, plan: MemoryPlan) -> int:
    text = (weights.text, buffers.text) if plan.clip_on_cpu else (0, 0)
    decoding = (weights.decoding, buffers.decoding) if plan.vae_on_cpu else (0, 0)
    fixed = _GPU_PROCESS + (weights.total if _offloaded(plan) else text[0] + decoding[0])
    return fixed + max(text[1], decoding[1])


def _on_card(weights: _Weights, buffers: Buffers, plan: MemoryPlan) -> int:
    stages = [(weights.diffusion, buffers.diffusion)]
    stages += [] if plan.clip_on_cpu else [(weights.text, buffers.text)]
    decoding = [] if plan.vae_on_cpu else [(weights.decoding, buffers.decoding)]
    if not _offloaded(plan):
        fixed = CONTEXT + sum(weight for weight, _ in stages + decoding)
        return fixed + max(buffer for _, buffer in stages + decoding)
    budget = plan.max_vram_gib * GIB if plan.max_vram_gib else None
    # The VAE is not cut.
    needs = [_cut(weight, buffer, budget) for weight, buffer in stages]
    needs += [weight + buffer for weight, buffer in decoding]
    return CONTEXT + max(needs)


def _offloaded(plan: MemoryPlan) -> bool:
    """Whether the weights wait in RAM, which layers that are streamed do in any case."""
    return plan.offload_to_cpu or plan.stream_layers


def _cut(weight: int, buffer: int, budget: float | None) -> int:
    """What one stage takes of the card where the engine cuts its work to a budget."""
    if budget is None:
        return weight + buffer
    return min(weight + buffer, max(round(budget), round(weight * _SMALLEST_CUT) + buffer))


def _weights(footprint: Footprint) -> _Weights:
    sizes = footprint.weights
    whole = sizes.get(Role.MODEL, 0)
    share = _SD1_ENCODER_SHARE if footprint.family is Family.SD1 else _ENCODER_SHARE
    text, decoding = round(whole * share), round(whole * _DECODER_SHARE)
    diffusion = whole - text - decoding + sizes.get(Role.DIFFUSION_MODEL, 0)
    text += sum(size for role, size in sizes.items() if role in _ENCODERS)
    decoding += sum(size for role, size in sizes.items() if role in _DECODERS)
    said, total = footprint.learned.weights, text + diffusion + decoding
    if said is None or not total:
        return _Weights(text, diffusion, decoding)
    return _Weights(text * said // total, diffusion * said // total, decoding * said // total)
