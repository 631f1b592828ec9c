from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from .families import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

# The endings that stable-diffusion.cpp knows (name_conversion.cpp), and those of OFT and DoRA.
_ENDING: Final = re.compile(
    r"[._](?:lora[._](?:up|down|mid|A|B|linear|magnitude_vector)|hada_[wt]\d|lokr_[wt]\d|diff_b|diff|dora_scale"
    r"|oft_blocks|oft_diag)(?:$|[._])"
)
_ALPHA: Final = re.compile(r"\.(?:alpha|scale)$")

# Layers that only one family has. Words are joined by dots or, in trainers' files, by underscores.
_LAYERS: Final[tuple[tuple[str, Family], ...]] = (
    (r"joint_blocks[._]\d", Family.SD3),
    (r"transformer_blocks[._]\d+[._]img_mod", Family.QWEN_IMAGE),
    (r"llm_adapter[._]", Family.ANIMA),
    (r"double_stream_modulation", Family.FLUX2),
    (r"distilled_guidance_layer", Family.CHROMA),
    (r"double_blocks[._]\d+[._]img_mlp[._]gate_proj", Family.OVIS_IMAGE),
    (r"cap_embedder|noise_refiner|context_refiner|layers[._]\d+[._]feed_forward[._]w\d", Family.Z_IMAGE),
    (r"layers[._]\d+[._](?:self_attention|adaLN_sa_ln)", Family.ERNIE_IMAGE),
    (r"[._]blocks[._]\d+[._](?:self|cross)_attn[._][qkvo][._]", Family.WAN),
    (r"(?:lora_te2|text_encoder_2)[._]text_model|add_embedding|label_emb", Family.SDXL),
    (r"(?:double|single)_blocks[._]\d|single_transformer_blocks[._]\d", Family.FLUX),
)
_TEXT_KEYS: Final = re.compile(r"attn2[._]to_[kv][._](?:lora[._]down|lora[._]A)")

# Width of the text that a UNet attends to: one CLIP-L, SD 2's OpenCLIP, or CLIP-L and CLIP-G together.
UNET_WIDTHS: Final[Mapping[int, Family]] = MappingProxyType(
    {768: Family.SD1, 1024: Family.SD2, 2048: Family.SDXL}
)


def is_lora(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these tensors change another model: most of them are factors of a change."""
    factors = sum(1 for name in shapes if _ENDING.search(name))
    return factors > 0 and 2 * (factors + sum(1 for name in shapes if _ALPHA.search(name))) >= len(shapes)


def lora_family(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """Whose layers a LoRA changes, where they show it."""
    names = "\n".join(shapes)
    for pattern, family in _LAYERS:
        if re.search(pattern, names):
            return family
    for name, shape in shapes.items():
        if len(shape) >= 2 and _TEXT_KEYS.search(name):
            return UNET_WIDTHS.get(shape[1])
    return None
