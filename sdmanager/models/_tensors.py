from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ._loras import UNET_WIDTHS, is_lora, lora_family
from .families import Family, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._header import Header


class FileKind(StrEnum):
    """What a weights file is, to people."""

    MODEL = "model"
    DIFFUSION_MODEL = "diffusion model"
    CLIP_L = "CLIP-L text encoder"
    CLIP_G = "CLIP-G text encoder"
    T5XXL = "T5-XXL text encoder"
    LLM = "language model"
    LLM_VISION = "vision part of a language model"
    VAE = "VAE"
    TAE = "tiny autoencoder"
    CLIP_VISION = "CLIP image encoder"
    LORA = "LoRA"
    CONTROLNET = "ControlNet"
    IP_ADAPTER = "IP-Adapter"
    MOTION_MODULE = "motion module of AnimateDiff"
    TAE_HALF = "half of a tiny autoencoder"
    UPSCALER = "upscaler"
    EMBEDDING = "embedding"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tensors of a file make it."""

    kind: FileKind
    role: Role | None = None
    family: Family | None = None
    parts: frozenset[Role] = frozenset()
    takes_guidance: bool = False


_KINDS: Final[Mapping[Role, FileKind]] = MappingProxyType({role: FileKind[role.name] for role in Role})

# What the engine and the trainers put before the names of a part; without one, the file is one part.
_PREFIX: Final = re.compile(
    r"(?:model\.diffusion_model|diffusion_model|unet|transformer|first_stage_model|vae|tae"
    r"|conditioner\.embedders\.\d|cond_stage_model(?:\.1)?|text_encoders\.[^.]+|text_encoder(?:[._][23])?"
    r"|te[123]?(?:\.1)?)\."
)
_DIFFUSION: Final = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")

# Where a text encoder keeps its words, after its prefix: as CLIP and as OpenCLIP have it.
_CLIP_WORDS: Final = (
    "text_model.embeddings.token_embedding.weight",
    "transformer.text_model.embeddings.token_embedding.weight",
    "model.token_embedding.weight",
    "token_embedding.weight",
)
# SD 2's encoder (OpenCLIP ViT-H, 1024) takes the place of CLIP-L.
_CLIP_WIDTHS: Final[Mapping[int, Role]] = MappingProxyType(
    {768: Role.CLIP_L, 1024: Role.CLIP_L, 1280: Role.CLIP_G}
)
_T5XXL_WIDTH: Final = 4096

# Embeddings: words for each text encoder of a model, and no more than a prompt can hold.
_MAX_ENCODERS: Final = 3
_MAX_WORDS: Final = 256
_WORD_WIDTHS: Final = frozenset({*_CLIP_WIDTHS, _T5XXL_WIDTH})

# By the first that is there: stable-diffusion.cpp, get_sd_version(); and the names of diffusers that it converts.
_SIGNATURES: Final[tuple[tuple[str, Family], ...]] = (
    ("nerf_final_layer_conv.", Family.CHROMA_RADIANCE),
    ("distilled_guidance_layer.", Family.CHROMA),
    ("joint_blocks.0.", Family.SD3),
    ("transformer_blocks.0.img_mod.1.", Family.QWEN_IMAGE),
    ("llm_adapter.blocks.0.cross_attn.", Family.ANIMA),
    ("net.llm_adapter.blocks.0.cross_attn.", Family.ANIMA),
    ("double_stream_modulation_img.", Family.FLUX2),
    ("double_blocks.0.img_mlp.gate_proj.", Family.OVIS_IMAGE),
    # HunyuanVideo has double blocks, too, but calls this one img_attn_qkv.
    ("double_blocks.0.img_attn.qkv.", Family.FLUX),
    ("cap_embedder.0.", Family.Z_IMAGE),
    ("layers.0.adaLN_sa_ln.", Family.ERNIE_IMAGE),
    ("blocks.0.cross_attn.norm_k.", Family.WAN),
    ("single_transformer_blocks.0.", Family.FLUX),
    ("transformer_blocks.0.norm1_context.", Family.SD3),
    ("input_blocks.8.0.time_mixer.", Family.SVD),
)


class Part:
    """The tensors of a file that have one prefix, by what comes after it."""

    def __init__(self, prefix: str, names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.prefix = prefix
        self._names = sorted(names)
        self._shapes = shapes

    def has(self, *beginnings: str) -> bool:
        """Whether any tensor's name begins with any of these."""
        for beginning in beginnings:
            at = bisect_left(self._names, beginning)
            if at < len(self._names) and self._names[at].startswith(beginning):
                return True
        return False

    def width(self, *names: str) -> int | None:
        """The last dimension of the first of these that is there."""
        for name in names:
            shape = self._shapes.get(self.prefix + name)
            if shape:
                return shape[-1]
        return None

    def first_with(self, text: str) -> str:
        """The first name with this in it; empty where there is none."""
        return next((name for name in self._names if text in name), "")

    def first_that_ends(self, ending: str) -> str:
        """The first name with this ending; empty where there is none."""
        return next((name for name in self._names if name.endswith(ending)), "")


def classify(header: Header) -> Verdict:
    """What a file with this header is."""
    shapes = header.shapes
    whole = Part("", shapes, shapes)
    if is_lora(shapes):
        return Verdict(FileKind.LORA, family=lora_family(shapes))
    special = _special(whole)
    if special is not None:
        return Verdict(special)
    parts: set[Role] = set()
    family: Family | None = None
    takes_guidance = False
    for part in _split(shapes):
        roles = _roles(part, header.architecture)
        if Role.DIFFUSION_MODEL in roles:
            family = _family(part) or family
            takes_guidance |= _takes_guidance(part)
        parts |= roles
    role = _one_role(parts)
    if role is not None:
        return Verdict(_KINDS[role], role, family, frozenset(parts), takes_guidance)
    kind = FileKind.UNKNOWN
    if not parts:
        if whole.has("vision_model.", "conditioner.embedders.0.open_clip.model.visual."):
            kind = FileKind.CLIP_VISION
        elif _are_words(shapes):
            kind = FileKind.EMBEDDING
    return Verdict(kind, parts=frozenset(parts))


def _one_role(parts: set[Role]) -> Role | None:
    if Role.DIFFUSION_MODEL in parts:
        return Role.DIFFUSION_MODEL if len(parts) == 1 else Role.MODEL
    if parts == {Role.LLM, Role.LLM_VISION}:
        return Role.LLM
    return next(iter(parts)) if len(parts) == 1 else None


def _split(shapes: Mapping[str, tuple[int, ...]]) -> list[Part]:
    names: dict[str, list[str]] = {}
    for name in shapes:
        found = _PREFIX.match(name)
        prefix = found[0] if found else ""
        names.setdefault(prefix, []).append(name[len(prefix) :])
    return [Part(prefix, own, shapes) for prefix, own in names.items()]


def _special(whole: Part) -> FileKind | None:
    """What is no part of a model."""
    if whole.has(
        "control_model.", "controlnet_", "input_hint_block.", "zero_convs.", "lllite_", "control_layers."
    ):
        return None if whole.has("model.diffusion_model.") else FileKind.CONTROLNET
    if whole.has("conv_first.") and whole.has("body.", "RRDB_trunk."):
        return FileKind.UPSCALER
    if whole.has("model.0.weight") and whole.has("model.1.sub."):
        return FileKind.UPSCALER
    if whole.has("image_proj.", "image_proj_model.", "ip_adapter."):
        return FileKind.IP_ADAPTER
    if whole.first_with("motion_modules.") and not whole.has("input_blocks.", "model.diffusion_model."):
        return FileKind.MOTION_MODULE
    # A decoder, and an encoder, as layers of torch.nn.Sequential.
    if whole.has("1.weight") and whole.has("3.conv.0.weight"):
        return FileKind.TAE_HALF
    if whole.has("0.weight") and whole.has("1.conv.0.weight"):
        return FileKind.TAE_HALF
    return None


def _are_words(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether this is textual inversion: a few words of the width of a text encoder, by whatever name."""
    return 0 < len(shapes) <= _MAX_ENCODERS and all(
        "." not in name and len(shape) == 2 and shape[0] <= _MAX_WORDS and shape[1] in _WORD_WIDTHS
        for name, shape in shapes.items()
    )


def _roles(part: Part, architecture: str | None) -> set[Role]:
    """What the tensors with one prefix are; a language model may have its vision part with it."""
    words = part.width(*_CLIP_WORDS)
    if words is not None:
        return {_CLIP_WIDTHS[words]} if words in _CLIP_WIDTHS else set()
    if _is_diffusion(part):
        return {Role.DIFFUSION_MODEL}
    if part.has("decoder.conv_in.", "decoder.conv1.", "decoder.middle.0."):
        return {Role.VAE}
    if part.width("decoder.layers.0.weight", "decoder.layers.1.weight", "decoder.1.weight") is not None:
        return {Role.TAE}
    if part.has(*_each("encoder.block.0.layer.0.SelfAttention."), "enc.blk.0."):
        names = (*_each("shared.weight"), "token_embd.weight", *_each("encoder.embed_tokens.weight"))
        return {Role.T5XXL} if part.width(*names) in {None, _T5XXL_WIDTH} else set()
    if architecture == "clip" or part.has("v.blk.0.", "v.patch_embd."):
        return {Role.LLM_VISION}
    roles = set()
    if part.has(*_LLM_LAYERS):
        roles.add(Role.LLM)
    if part.has("visual.blocks.0.", "model.visual.blocks.0.") or (
        part.has("blocks.0.attn.") and part.has("merger.")
    ):
        roles.add(Role.LLM_VISION)
    return roles


def _each(name: str) -> tuple[str, str]:
    return name, f"transformer.{name}"


_LLM_LAYERS: Final = (
    "blk.0.attn_",
    *_each("model.layers.0.self_attn."),
    *_each("layers.0.self_attn."),
    *_each("model.language_model.layers.0.self_attn."),
    *_each("language_model.model.layers.0.self_attn."),
)


def _is_diffusion(part: Part) -> bool:
    if _family(part) is not None or part.prefix in _DIFFUSION[:2]:
        return True
    return part.has("input_blocks.0.0.") or (part.has("conv_in.") and part.has("down_blocks.0.resnets.0."))


def _family(part: Part) -> Family | None:
    for beginning, family in _SIGNATURES:
        if part.has(beginning):
            return family
    if not part.has("input_blocks.0.0.", "down_blocks.0.resnets.0."):
        return None
    width = part.width(part.first_that_ends(".attn2.to_k.weight"))
    return UNET_WIDTHS.get(width) if width is not None else None


def _takes_guidance(part: Part) -> bool:
    embedder = "guidance_embedder.linear_1."
    return part.has("guidance_in.", f"time_text_embed.{embedder}", f"time_guidance_embed.{embedder}")
