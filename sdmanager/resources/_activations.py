"""What the engine computes in beside the weights, stage by stage: usual figures, no bounds. Pure.

The engine writes the size of each buffer that it computes in into its verbose log (``unet compute buffer size: 830.86
MB(VRAM)``), in MiB. From such lines, with what is beside it:

diffusion (gpustack's gguf-parser collected them by family and size, with and without ``--diffusion-fa``):
    SD 1.5 560 at 512x512, 8361 at 1024x1024; SDXL 831, with flash attention 441, at 1024x1024, 3608 and 1110 at
    1536x1536; SD 3.5 large 2865 at 1024x1024; FLUX.1 398 at 512x512, 2576 at 1024x1024, and with flash attention
    (stable-diffusion.cpp, pull request 386) 248 at 512x512 and 505 at 768x768. SD 1.5 gains nothing by it (736).
decoding (stable-diffusion.cpp, issues 564, 890 and 1044; koboldcpp, 1774):
    the VAE of SD 1.5 and FLUX 1664 at 512x512, 6656 at 1024x1024, that of SDXL 7680 at 1024x1024 with its scaled
    convolutions; 416 in tiles at any size. The VAE of Qwen-Image 3099 at 512x512 in 2025, 482 at 256x256 and 7494 at
    1024x1024 in the logs of 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.models import Family, Role, traits_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import MemoryPlan

    from .footprint import Footprint

_MIB: Final = 1 << 20

_UNIT: Final = 512 * 512
"""Pixels in which the figures of diffusion are given."""

_TILE: Final = 256 * 256
"""Pixels that are decoded at once with ``--vae-tiling``: 32x32 of the latent image."""

_CLIP_BUFFER: Final = 8 * _MIB
_LARGE_ENCODER_BUFFER: Final = 300 * _MIB
"""T5 and language models read the prompt in 297 MiB (umt5 with 512 tokens); the CLIP encoders in less than 2."""

_LARGE_ENCODERS: Final = frozenset({Role.T5XXL, Role.LLM, Role.LLM_VISION})

_KL_PER_PIXEL: Final = 6656
_SDXL_PER_PIXEL: Final = 7680
_QWEN_PER_PIXEL: Final = 7700
_TINY_PER_PIXEL: Final = 1950
"""Bytes that decoding takes per pixel. Of a tiny autoencoder measured with the demo model on the CPU, engine 0.4.7:
247 MB at 256x256, 624 at 512x512 and 2138 at 1024x1024, of which 120 are no buffer."""

_ALWAYS_FAST: Final = frozenset({"cuda", "rocm"})
"""Backends on which the engine is given flash attention unasked, for families that a language model conditions."""


@dataclass(frozen=True, slots=True)
class _Diffusion:
    """MiB at 512x512 (``linear``, which grows with the pixels), and of the scores of attention (with their square).

    Attributes:
        linear: Without flash attention.
        scores: One matrix of the largest attention, in single precision: heads x tokens² x 4 bytes, to which the
            collected figures agree within 3 %.
        fast: All of it with flash attention; None where the engine cannot use it.
    """

    linear: float
    scores: float
    fast: float | None


_FLUX: Final = _Diffusion(270, 96, 250)

# Of families without figures, those with the same number of heads are taken for the same.
_DIFFUSION: Final[Mapping[Family, _Diffusion]] = {
    Family.SD1: _Diffusion(50, 512, None),
    Family.SD2: _Diffusion(49, 320, 130),
    Family.SDXL: _Diffusion(53, 40, 125),
    Family.SD3: _Diffusion(111, 152, 150),
    Family.FLUX: _FLUX,
    # FLUX.2 klein 4B: 491 at 512x512, 2763 at 1024x1024, with flash attention 329 and 1120.
    Family.FLUX2: _Diffusion(424, 70, 300),
    # 30 heads; 1554 at 2048x1152 with flash attention.
    Family.Z_IMAGE: _Diffusion(270, 120, 175),
}


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes that each stage computes in; each is freed before the next stage begins."""

    text: int
    diffusion: int
    decoding: int


def buffers_of(footprint: Footprint, plan: MemoryPlan) -> Buffers:
    """What a run with these flags computes in."""
    pixels = max(footprint.width * footprint.height, 0)
    large = any(role in _LARGE_ENCODERS for role in footprint.weights)
    return Buffers(
        _LARGE_ENCODER_BUFFER if large else _CLIP_BUFFER,
        _diffusion(footprint, plan, pixels),
        _per_pixel(footprint) * (min(pixels, _TILE) if plan.vae_tiling else pixels),
    )


def _diffusion(footprint: Footprint, plan: MemoryPlan, pixels: int) -> int:
    size = pixels / _UNIT
    figures = _DIFFUSION.get(footprint.family, _FLUX) if footprint.family else _FLUX
    slow = figures.linear * size + figures.scores * size * size
    if figures.fast is None or not _is_fast(footprint, plan):
        return round(slow * _MIB)
    return round(min(figures.fast * size, slow) * _MIB)


def _is_fast(footprint: Footprint, plan: MemoryPlan) -> bool:
    if plan.diffusion_flash_attention is not None:
        return plan.diffusion_flash_attention
    if footprint.family is None or footprint.backend not in _ALWAYS_FAST:
        return False
    return traits_of(footprint.family).conditioned_by_llm


def _per_pixel(footprint: Footprint) -> int:
    family, roles = footprint.family, footprint.weights
    if family is not None and Role.VAE not in traits_of(family).parts:
        return 0
    if Role.TAE in roles and Role.VAE not in roles and Role.MODEL not in roles:
        return _TINY_PER_PIXEL
    if family is Family.SDXL:
        return _SDXL_PER_PIXEL
    return _QWEN_PER_PIXEL if family in {Family.QWEN_IMAGE, Family.WAN, Family.ANIMA} else _KL_PER_PIXEL
