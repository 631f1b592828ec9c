"""The part of the engine's argument list that the model decides on: pure functions.

The rules are those of the engine's own documents per family (docs/*.md) and of its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.generation import PreviewMethod
from sdmanager.models import Family, Role, traits_of

if TYPE_CHECKING:
    from sdmanager.binaries import Capabilities
    from sdmanager.generation import ImageRequest, MemoryPlan
    from sdmanager.models import ModelFiles

# "For most backends, it slows things down, but for cuda it generally speeds it up too" (docs/performance.md); the
# engine's code for ROCm is that for CUDA. Elsewhere it saves memory, which is for the user to weigh.
FLASH_VARIANTS: Final = frozenset({"cuda", "rocm"})

PREVIEW_ONLY: Final = "--taesd-preview-only"
_FLASH_ATTENTION: Final = "--diffusion-fa"
_FLOW_SHIFT: Final = "--flow-shift"
_GUIDANCE: Final = "--guidance"
_CONV_SCALE: Final = "--force-sdxl-vae-conv-scale"

_FLAG_OF_ROLE: Final = {
    Role.MODEL: "--model",
    Role.DIFFUSION_MODEL: "--diffusion-model",
    Role.CLIP_L: "--clip_l",
    Role.CLIP_G: "--clip_g",
    Role.T5XXL: "--t5xxl",
    Role.LLM: "--llm",
    Role.LLM_VISION: "--llm_vision",
    Role.VAE: "--vae",
    Role.TAE: "--tae",
}


def file_arguments(model: ModelFiles, preview: PreviewMethod | None) -> list[str]:
    """Each file by the flag of its role.

    A VAE beside a whole model takes the place of the one inside. A tiny autoencoder decodes the picture only where
    there is no VAE; beside one it serves previews alone, and is loaded only for them.

    Args:
        model: Files by role.
        preview: How previews are made, or None.
    """
    arguments: list[str] = []
    for role, path in model.files.items():
        if role is Role.TAE and model.has_own_decoder:
            if preview is PreviewMethod.TAE:
                arguments += ["--tae", str(path), PREVIEW_ONLY]
            continue
        arguments += [_FLAG_OF_ROLE[role], str(path)]
    return arguments


def family_arguments(
    request: ImageRequest,
    model: ModelFiles,
    plan: MemoryPlan,
    capabilities: Capabilities,
    *,
    fast_attention: bool,
) -> list[str]:
    """What the model's family asks for. A flag that nobody asked for by name is left out where the engine lacks it.

    Distilled guidance is another thing than the cfg scale: the model was trained with it and takes it as an input,
    at no cost. A cfg scale other than 1 is passed to such a model as it is, and means a second pass of every step
    (twice the time), in which the negative prompt counts; at 1 the engine ignores the negative prompt.

    Args:
        request: With its model's defaults filled in.
        model: Files by role.
        plan: Memory flags.
        capabilities: What the binary's own help lists.
        fast_attention: Whether the backend is one of ``FLASH_VARIANTS``.
    """
    return [
        *_flash_attention(model, plan, capabilities, fast_attention=fast_attention),
        *_guidance(request, model, capabilities),
        *_flow_shift(model, capabilities),
        *_vae_scale(model, capabilities),
    ]


def _flash_attention(
    model: ModelFiles, plan: MemoryPlan, capabilities: Capabilities, *, fast_attention: bool
) -> list[str]:
    wanted = plan.diffusion_flash_attention
    if wanted is None:
        # ggml_ext_attention_ext falls back by itself where a backend lacks the operation.
        by_llm = model.family is not None and traits_of(model.family).conditioned_by_llm
        wanted = fast_attention and by_llm and capabilities.supports(_FLASH_ATTENTION)
    return [_FLASH_ATTENTION] if wanted else []


def _guidance(request: ImageRequest, model: ModelFiles, capabilities: Capabilities) -> list[str]:
    if request.guidance is None or (model.family is not None and not traits_of(model.family).takes_guidance):
        return []
    own = "guidance" in request.model_fields_set
    if not own and not capabilities.supports(_GUIDANCE):
        return []
    return [_GUIDANCE, f"{request.guidance:g}"]


def _flow_shift(model: ModelFiles, capabilities: Capabilities) -> list[str]:
    shift = traits_of(model.family).flow_shift if model.family is not None else None
    if shift is None or not capabilities.supports(_FLOW_SHIFT):
        return []
    return [_FLOW_SHIFT, f"{shift:g}"]


def _vae_scale(model: ModelFiles, capabilities: Capabilities) -> list[str]:
    # The VAE of SDXL overflows in half precision, and the picture is black. The engine scales its convolutions by
    # itself unless a VAE is given apart (create_vae in stable-diffusion.cpp), which it takes for one that was mended:
    # but its header does not tell, and for a mended one the scale only costs two multiplications per convolution.
    apart = model.family is Family.SDXL and Role.VAE in model.files
    return [_CONV_SCALE] if apart and capabilities.supports(_CONV_SCALE) else []
