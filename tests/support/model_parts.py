"""Small files that have the header of each part of a model: a few tensors, as the real ones call them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from weights import gguf_header, safetensors_header, typed, write

UNET = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (8, 768),
    "out.2.weight": (4, 8, 3, 3),
}
CLIP_L = {
    "text_model.embeddings.token_embedding.weight": (9, 768),
    "text_model.final_layer_norm.weight": (768,),
}
CLIP_G = {
    "text_model.embeddings.token_embedding.weight": (9, 1280),
    "text_model.embeddings.position_embedding.weight": (7, 1280),
    "text_model.encoder.layers.0.mlp.fc1.weight": (8, 1280),
    "text_model.final_layer_norm.weight": (1280,),
}
VAE = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}
FLUX = {
    "double_blocks.0.img_attn.qkv.weight": (24, 8),
    "double_blocks.0.img_mlp.0.weight": (32, 8),
    "single_blocks.0.linear1.weight": (56, 8),
    "final_layer.linear.weight": (64, 8),
}
T5 = {
    "shared.weight": (9, 4096),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (8, 4096),
    "encoder.final_layer_norm.weight": (4096,),
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": (4096, 8),
}
LLM = {
    "model.embed_tokens.weight": (9, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.mlp.up_proj.weight": (64, 64),
    "model.norm.weight": (64,),
}
Z_IMAGE = {
    "cap_embedder.0.weight": (64,),
    "cap_embedder.1.weight": (64, 64),
    "layers.0.attention.qkv.weight": (192, 64),
    "final_layer.linear.weight": (64, 64),
}


def prefixed(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in shapes.items()}


def unet(width: int) -> dict[str, tuple[int, ...]]:
    """A UNet that attends to text of this width."""
    return {**UNET, "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (8, width)}


OPEN_CLIP = {"token_embedding.weight": (9, 1280), "ln_final.weight": (1280,)}

KINDS: dict[str, dict[str, tuple[int, ...]]] = {
    "sd1": {
        **prefixed("model.diffusion_model.", UNET),
        **prefixed("first_stage_model.", VAE),
        **prefixed("cond_stage_model.transformer.", CLIP_L),
    },
    "sdxl": {
        **prefixed("model.diffusion_model.", unet(2048)),
        **prefixed("first_stage_model.", VAE),
        **prefixed("conditioner.embedders.0.transformer.", CLIP_L),
        **prefixed("conditioner.embedders.1.model.", OPEN_CLIP),
    },
    "sd1-without-encoder": {
        **prefixed("model.diffusion_model.", UNET),
        **prefixed("first_stage_model.", VAE),
    },
    "unet": UNET,
    "flux-dev": {**FLUX, "guidance_in.in_layer.weight": (8, 256)},
    "flux-schnell": FLUX,
    "z-image": Z_IMAGE,
    "clip_l": CLIP_L,
    "clip_g": CLIP_G,
    "t5xxl": T5,
    "llm": LLM,
    "vae": VAE,
    "tae": {f"decoder.layers.{n}.weight": (8, 8, 3, 3) for n in range(4)},
    "lora": {f"lora_unet_{n}.lora_{way}.weight": (4, 8) for n in range(3) for way in ("up", "down")},
    "controlnet": {
        "control_model.input_hint_block.0.weight": (8, 3, 3, 3),
        "control_model.out.weight": (8, 8),
    },
    "upscaler": {"conv_first.weight": (8, 3, 3, 3), "body.0.rdb1.conv1.weight": (8, 8, 3, 3)},
    "wan": {
        "blocks.0.cross_attn.norm_k.weight": (8,),
        "blocks.0.self_attn.q.weight": (8, 8),
        "patch_embedding.weight": (8, 16, 1, 2, 2),
    },
    "flux2": {
        "double_stream_modulation_img.lin.weight": (8, 8),
        "double_blocks.0.img_attn.qkv.weight": (24, 8),
    },
    "ernie": {"layers.0.adaLN_sa_ln.weight": (8,), "layers.0.self_attention.to_q.weight": (8, 8)},
    "radiance": {
        "distilled_guidance_layer.in_proj.weight": (8, 8),
        "double_blocks.0.img_attn.qkv.weight": (24, 8),
        "nerf_final_layer_conv.conv.weight": (3, 8, 3, 3),
    },
    "ip-adapter": {"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, 768)},
    "motion": {
        f"down_blocks.{n}.motion_modules.0.temporal_transformer.proj_in.weight": (8, 8) for n in range(3)
    },
    "z-control": {
        "control_layers.0.after_proj.weight": (8, 8),
        "control_all_x_embedder.2-1.weight": (8, 8),
        "control_noise_refiner.0.attention.to_q.weight": (8, 8),
    },
    "taesd_decoder": {
        "1.weight": (64, 4, 3, 3),
        "3.conv.0.weight": (64, 64, 3, 3),
        "18.weight": (3, 64, 3, 3),
    },
    "taesd_encoder": {
        "0.weight": (64, 3, 3, 3),
        "1.conv.0.weight": (64, 64, 3, 3),
        "14.weight": (4, 64, 3, 3),
    },
    "unheard-of": {f"something.{n}.weight": (8, 8) for n in range(5)},
}


def make(path: Path, kind: str, *, salt: int = 0) -> Path:
    """A file of this kind; those with another salt have other content of the same size.

    Args:
        path: Where; it is GGUF if it ends so.
        kind: A key of ``KINDS``.
        salt: A number of two digits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gguf":
        header = gguf_header(typed("F16", KINDS[kind]), {"salt": f"{salt:02}"})
    else:
        header = safetensors_header(typed("F16", KINDS[kind]), {"salt": f"{salt:02}"})
    return write(path, header)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
