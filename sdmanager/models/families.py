"""Families of diffusion models: which parts each needs, and what suits it. Pure data.

Facts are those of stable-diffusion.cpp: its documents per family (docs/*.md) and its own choice of sampler and
scheduler (``sd_get_default_sample_method``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """The part that a file plays. The values are the names used in Python and on the command line."""

    MODEL = "model"
    DIFFUSION_MODEL = "diffusion_model"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    T5XXL = "t5xxl"
    LLM = "llm"
    LLM_VISION = "llm_vision"
    VAE = "vae"
    TAE = "tae"


class Family(StrEnum):
    """Models of one architecture, which take the same parts and flags."""

    SD1 = "sd1"
    SD2 = "sd2"
    SDXL = "sdxl"
    SD3 = "sd3"
    FLUX = "flux"
    FLUX2 = "flux2"
    CHROMA = "chroma"
    CHROMA_RADIANCE = "chroma-radiance"
    QWEN_IMAGE = "qwen-image"
    Z_IMAGE = "z-image"
    OVIS_IMAGE = "ovis-image"
    ANIMA = "anima"
    ERNIE_IMAGE = "ernie-image"
    WAN = "wan"
    SVD = "svd"


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What suits a model where the caller says nothing; None: the request's own default, or the engine's.

    Attributes:
        steps: Sampling steps.
        cfg_scale: Classifier-free guidance scale; 1 for models that were distilled to do without.
        width: Pixels.
        height: Pixels.
        guidance: Distilled guidance scale, of models that were trained with it.
        sampler: The engine's name of it.
        scheduler: Likewise.
    """

    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    scheduler: str | None = None

    def as_fields(self) -> dict[str, int | float | str]:
        """The fields of a request that this model has an opinion on."""
        named = {
            "steps": self.steps,
            "cfg_scale": self.cfg_scale,
            "width": self.width,
            "height": self.height,
            "guidance": self.guidance,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
        }
        return {name: value for name, value in named.items() if value is not None}


DISTILLED_STEPS: Final = 4
"""Of models that were distilled to draw in a few steps, where nothing else is known."""


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """What all models of a family have in common.

    Attributes:
        title: As people call it.
        parts: Besides the diffusion model, what is needed to draw; a whole model file has some or all of it in it.
        defaults: What suits its base model; a distilled one (turbo, schnell) wants other steps and cfg scale, which a
            header does not tell.
        conditioned_by_llm: Whether a language model reads the prompt: long contexts, where flash attention pays.
        takes_guidance: Whether its models may have an input for a distilled guidance scale.
        flow_shift: The shift of its schedule, where the engine's own choice does not suit.
        tae: Name of the tiny autoencoder of its latent space; None where none is known, or it has none.
        distilled_steps: What models of it that were distilled want, with cfg scale 1, where nothing else is known.
        draws_pictures: False for families that make videos.
    """

    title: str
    parts: frozenset[Role]
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    conditioned_by_llm: bool = False
    takes_guidance: bool = False
    flow_shift: float | None = None
    tae: str | None = None
    distilled_steps: int = DISTILLED_STEPS
    draws_pictures: bool = True


def _square(steps: int, cfg_scale: float, size: int, guidance: float | None = None) -> ModelDefaults:
    return ModelDefaults(steps=steps, cfg_scale=cfg_scale, width=size, height=size, guidance=guidance)


_LLM: Final = frozenset({Role.LLM, Role.VAE})

_TRAITS: Final[Mapping[Family, FamilyTraits]] = MappingProxyType(
    {
        Family.SD1: FamilyTraits(
            "Stable Diffusion 1.x", frozenset({Role.CLIP_L, Role.VAE}), _square(20, 7.5, 512), tae="taesd"
        ),
        # Its text encoder (OpenCLIP ViT-H) comes in the whole model only.
        Family.SD2: FamilyTraits(
            "Stable Diffusion 2.x", frozenset({Role.CLIP_L, Role.VAE}), _square(20, 7.5, 768), tae="taesd"
        ),
        Family.SDXL: FamilyTraits(
            "Stable Diffusion XL",
            frozenset({Role.CLIP_L, Role.CLIP_G, Role.VAE}),
            _square(20, 7.5, 1024),
            tae="taesdxl",
        ),
        Family.SD3: FamilyTraits(
            "Stable Diffusion 3.x",
            frozenset({Role.CLIP_L, Role.CLIP_G, Role.T5XXL, Role.VAE}),
            _square(28, 4.5, 1024),
            tae="taesd3",
        ),
        Family.FLUX: FamilyTraits(
            "FLUX.1",
            frozenset({Role.CLIP_L, Role.T5XXL, Role.VAE}),
            _square(20, 1.0, 1024),
            takes_guidance=True,
            tae="taef1",
        ),
        Family.FLUX2: FamilyTraits(
            "FLUX.2", _LLM, _square(20, 1.0, 1024), conditioned_by_llm=True, takes_guidance=True
        ),
        Family.CHROMA: FamilyTraits(
            "Chroma", frozenset({Role.T5XXL, Role.VAE}), _square(26, 4.0, 1024), tae="taef1"
        ),
        # It draws in pixels, and nothing decodes them.
        Family.CHROMA_RADIANCE: FamilyTraits(
            "Chroma Radiance", frozenset({Role.T5XXL}), _square(26, 4.0, 1024)
        ),
        Family.QWEN_IMAGE: FamilyTraits(
            "Qwen-Image", _LLM, _square(20, 2.5, 1024), conditioned_by_llm=True, flow_shift=3.0, tae="taew2_1"
        ),
        Family.Z_IMAGE: FamilyTraits(
            "Z-Image",
            _LLM,
            _square(20, 5.0, 1024),
            conditioned_by_llm=True,
            tae="taef1",
            distilled_steps=8,
        ),
        Family.OVIS_IMAGE: FamilyTraits(
            "Ovis-Image", _LLM, _square(20, 5.0, 1024), conditioned_by_llm=True, tae="taef1"
        ),
        Family.ANIMA: FamilyTraits("Anima", _LLM, _square(30, 6.0, 1024), conditioned_by_llm=True),
        Family.ERNIE_IMAGE: FamilyTraits(
            "ERNIE-Image", _LLM, _square(20, 5.0, 1024), conditioned_by_llm=True, distilled_steps=8
        ),
        Family.WAN: FamilyTraits("Wan", frozenset({Role.T5XXL, Role.VAE}), draws_pictures=False),
        Family.SVD: FamilyTraits("Stable Video Diffusion", frozenset({Role.VAE}), draws_pictures=False),
    }
)


def traits_of(family: Family) -> FamilyTraits:
    """What all models of this family have in common."""
    return _TRAITS[family]
