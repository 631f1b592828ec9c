"""Which part and family tensors make: their names are those that stable-diffusion.cpp looks for."""

from __future__ import annotations

import pytest
from weights import flux_dev, qwen3, qwen_image

from sdmanager.models import Family, Role
from sdmanager.models._header import Header
from sdmanager.models._tensors import FileKind, classify

CLIP_L = {
    "text_model.embeddings.token_embedding.weight": (49408, 768),
    "text_model.final_layer_norm.weight": (768,),
}
OPEN_CLIP = {
    "model.token_embedding.weight": (49408, 1280),
    "model.transformer.resblocks.0.ln_1.weight": (1280,),
}
T5 = {
    "shared.weight": (32128, 4096),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.final_layer_norm.weight": (4096,),
}
T5_LLAMA = {
    "token_embd.weight": (32128, 4096),
    "enc.blk.0.attn_q.weight": (4096, 4096),
    "enc.output_norm.weight": (4096,),
}
VAE = {
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "post_quant_conv.bias": (4,),
}
VAE_WAN = {
    "conv1.weight": (32, 32, 1, 1, 1),
    "decoder.conv1.weight": (384, 16, 3, 3, 3),
    "decoder.middle.0.residual.0.gamma": (384, 1, 1, 1),
}
VAE_DIFFUSERS = {
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "decoder.up_blocks.0.resnets.0.conv1.weight": (512, 512, 3, 3),
    "decoder.mid_block.attentions.0.to_q.weight": (512, 512),
}
LLM_HF = {
    "model.embed_tokens.weight": (151936, 2560),
    "model.layers.0.self_attn.q_proj.weight": (4096, 2560),
    "model.norm.weight": (2560,),
}


def under(prefix: str, tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in tensors.items()}


def unet(width: int) -> dict[str, tuple[int, ...]]:
    """As Stability and its trainers name it."""
    return {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
        "middle_block.1.norm.weight": (1280,),
        "time_embed.0.weight": (1280, 320),
        "output_blocks.3.1.proj_in.weight": (1280, 1280),
        "out.2.weight": (4, 320, 3, 3),
    }


def diffusers_unet(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "conv_in.weight": (320, 4, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, width),
        "mid_block.resnets.0.conv1.weight": (1280, 1280, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
    }


def verdict(tensors: dict[str, tuple[int, ...]], architecture: str | None = None):
    header = Header(architecture=architecture)
    for name, shape in tensors.items():
        header.add(name, shape, "F16")
    return classify(header)


DIFFUSION = {
    "sd1": (unet(768), Family.SD1),
    "sd2": (unet(1024), Family.SD2),
    "sdxl": (unet(2048), Family.SDXL),
    "sd1 of diffusers": (diffusers_unet(768), Family.SD1),
    "sdxl of diffusers": (diffusers_unet(2048), Family.SDXL),
    "sdxl inpaint": (unet(2048) | {"input_blocks.0.0.weight": (320, 9, 3, 3)}, Family.SDXL),
    "sdxl refiner": (unet(1280), None),
    "svd": (unet(1024) | {"input_blocks.8.0.time_mixer.mix_factor": (1,)}, Family.SVD),
    "sd3": (
        {"joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536), "pos_embed": (1, 36864, 1536)},
        Family.SD3,
    ),
    "sd3 of diffusers": (
        {
            "transformer_blocks.0.norm1_context.linear.weight": (9216, 1536),
            "pos_embed.proj.weight": (1536, 16, 2, 2),
        },
        Family.SD3,
    ),
    "flux dev": (flux_dev(), Family.FLUX),
    "flux of diffusers": (
        {
            "x_embedder.weight": (3072, 64),
            "transformer_blocks.0.norm1_context.linear.weight": (18432, 3072),
            "single_transformer_blocks.0.proj_mlp.weight": (12288, 3072),
        },
        Family.FLUX,
    ),
    "flux2": (
        {
            "double_stream_modulation_img.lin.weight": (36864, 6144),
            "double_blocks.0.img_attn.qkv.weight": (18432, 6144),
            "single_blocks.47.linear1.weight": (55296, 6144),
        },
        Family.FLUX2,
    ),
    "chroma": (
        {
            "distilled_guidance_layer.in_proj.weight": (5120, 64),
            "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        },
        Family.CHROMA,
    ),
    "chroma radiance": (
        {
            "nerf_final_layer_conv.conv.weight": (3, 64, 3, 3),
            "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        },
        Family.CHROMA_RADIANCE,
    ),
    "qwen-image": (qwen_image(), Family.QWEN_IMAGE),
    "z-image": (
        {
            "cap_embedder.0.weight": (2560,),
            "layers.0.attention.qkv.weight": (11520, 3840),
            "noise_refiner.0.ffn_norm1.weight": (3840,),
        },
        Family.Z_IMAGE,
    ),
    "z-image of diffusers": (
        {
            "all_x_embedder.2-1.weight": (3840, 64),
            "cap_embedder.0.weight": (2560,),
            "layers.0.attention.to_q.weight": (3840, 3840),
        },
        Family.Z_IMAGE,
    ),
    "ovis-image": (
        {
            "double_blocks.0.img_mlp.gate_proj.weight": (12288, 3072),
            "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
        },
        Family.OVIS_IMAGE,
    ),
    "anima": (
        {
            "net.llm_adapter.blocks.0.cross_attn.q_proj.weight": (1024, 1024),
            "net.blocks.0.self_attn.q_proj.weight": (2048, 2048),
        },
        Family.ANIMA,
    ),
    "anima without its prefix": (
        {
            "llm_adapter.blocks.0.cross_attn.q_proj.weight": (1024, 1024),
            "blocks.0.self_attn.q_proj.weight": (2048, 2048),
        },
        Family.ANIMA,
    ),
    "ernie-image": (
        {"layers.0.adaLN_sa_ln.weight": (4096,), "layers.0.self_attention.to_q.weight": (4096, 4096)},
        Family.ERNIE_IMAGE,
    ),
    "wan": (
        {"blocks.0.cross_attn.norm_k.weight": (5120,), "patch_embedding.weight": (5120, 16, 1, 2, 2)},
        Family.WAN,
    ),
}


@pytest.mark.parametrize(
    "prefix", ["", "model.diffusion_model.", "diffusion_model.", "unet.", "transformer."]
)
@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model_is_known_by_its_tensors(name, prefix):
    tensors, family = DIFFUSION[name]
    seen = verdict(under(prefix, tensors))
    assert (seen.kind, seen.role, seen.family) == (FileKind.DIFFUSION_MODEL, Role.DIFFUSION_MODEL, family)
    assert seen.parts == {Role.DIFFUSION_MODEL}


@pytest.mark.parametrize(
    "name",
    [
        "guidance_in.in_layer.weight",
        "time_text_embed.guidance_embedder.linear_1.weight",
        "time_guidance_embed.guidance_embedder.linear_1.weight",
    ],
)
def test_guidance_is_an_input_of_some_models_alone(name):
    schnell = {key: shape for key, shape in flux_dev().items() if not key.startswith("guidance_in")}
    assert not verdict(schnell).takes_guidance
    assert verdict(schnell | {name: (3072, 256)}).takes_guidance
    assert not verdict(DIFFUSION["chroma"][0]).takes_guidance


ROLES = {
    "clip l": (CLIP_L, Role.CLIP_L),
    "clip l with what comes before it in the engine": (under("transformer.", CLIP_L), Role.CLIP_L),
    "clip l with its image encoder": (CLIP_L | {"vision_model.post_layernorm.weight": (1024,)}, Role.CLIP_L),
    "clip g": ({name: (*shape[:-1], 1280) for name, shape in CLIP_L.items()}, Role.CLIP_G),
    "openclip g": (OPEN_CLIP, Role.CLIP_G),
    "openclip of sd2": (
        {"model.token_embedding.weight": (49408, 1024), "model.ln_final.weight": (1024,)},
        Role.CLIP_L,
    ),
    "t5": (T5, Role.T5XXL),
    "t5 of llama.cpp": (T5_LLAMA, Role.T5XXL),
    "t5 without its words": ({k: v for k, v in T5.items() if k != "shared.weight"}, Role.T5XXL),
    "llm": (LLM_HF, Role.LLM),
    "llm of llama.cpp": (qwen3(2), Role.LLM),
    "llm inside a vision model": (
        {"model.language_model.layers.0.self_attn.q_proj.weight": (4096, 2560)} | under("model.x", CLIP_L),
        Role.LLM,
    ),
    "vision of llama.cpp": (
        {"v.blk.0.attn_q.weight": (1280, 1280), "mm.0.weight": (5120, 5120)},
        Role.LLM_VISION,
    ),
    "vision": (
        {"visual.blocks.0.attn.qkv.weight": (3840, 1280), "visual.merger.mlp.0.weight": (5120, 5120)},
        Role.LLM_VISION,
    ),
    "vae": (VAE, Role.VAE),
    "vae under its prefix": (under("first_stage_model.", VAE), Role.VAE),
    "vae of diffusers": (VAE_DIFFUSERS, Role.VAE),
    "vae of wan": (VAE_WAN, Role.VAE),
    "taesd": (
        {"decoder.layers.0.weight": (64, 4, 3, 3), "decoder.layers.2.conv.0.weight": (64, 64, 3, 3)},
        Role.TAE,
    ),
    "taehv": (
        {
            "decoder.1.weight": (256, 16, 3, 3),
            "encoder.0.weight": (64, 3, 3, 3),
            "decoder.3.conv.0.bias": (256,),
        },
        Role.TAE,
    ),
}


@pytest.mark.parametrize("name", ROLES)
def test_a_part_is_known_by_its_tensors(name):
    tensors, role = ROLES[name]
    seen = verdict(tensors)
    assert (seen.role, seen.kind.name, seen.parts, seen.family) == (role, role.name, {role}, None)


def test_a_language_model_may_bring_its_vision_part():
    seen = verdict(
        LLM_HF | {"visual.blocks.0.attn.qkv.weight": (3840, 1280), "visual.merger.ln_q.weight": (1280,)}
    )
    assert (seen.role, seen.parts) == (Role.LLM, {Role.LLM, Role.LLM_VISION})


def test_the_vision_part_is_known_by_its_architecture_too():
    assert verdict({"v.position_embd.weight": (2304, 1152)}, "clip").role is Role.LLM_VISION


WHOLE = {
    "sd1": (
        under("model.diffusion_model.", unet(768))
        | under("cond_stage_model.transformer.", CLIP_L)
        | under("first_stage_model.", VAE),
        Family.SD1,
        {Role.CLIP_L, Role.VAE},
    ),
    "sd2": (
        under("model.diffusion_model.", unet(1024))
        | {"cond_stage_model.model.token_embedding.weight": (49408, 1024)}
        | under("first_stage_model.", VAE),
        Family.SD2,
        {Role.CLIP_L, Role.VAE},
    ),
    "sdxl": (
        under("model.diffusion_model.", unet(2048))
        | under("conditioner.embedders.0.transformer.", CLIP_L)
        | under("conditioner.embedders.1.", OPEN_CLIP)
        | under("first_stage_model.", VAE),
        Family.SDXL,
        {Role.CLIP_L, Role.CLIP_G, Role.VAE},
    ),
    "sdxl as the engine writes it": (
        under("model.diffusion_model.", unet(2048))
        | under("cond_stage_model.transformer.", CLIP_L)
        | under(
            "cond_stage_model.1.transformer.", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}
        )
        | under("first_stage_model.", VAE),
        Family.SDXL,
        {Role.CLIP_L, Role.CLIP_G, Role.VAE},
    ),
    "sdxl of diffusers": (
        under("unet.", diffusers_unet(2048))
        | under("te.", CLIP_L)
        | under("te.1.", {"text_model.embeddings.token_embedding.weight": (49408, 1280)})
        | under("vae.", VAE_DIFFUSERS),
        Family.SDXL,
        {Role.CLIP_L, Role.CLIP_G, Role.VAE},
    ),
    "sd3 without encoders": (
        under("model.diffusion_model.", DIFFUSION["sd3"][0]) | under("first_stage_model.", VAE),
        Family.SD3,
        {Role.VAE},
    ),
    "sd3 with all": (
        under("model.diffusion_model.", DIFFUSION["sd3"][0])
        | under("first_stage_model.", VAE)
        | under("text_encoders.clip_l.transformer.", CLIP_L)
        | under(
            "text_encoders.clip_g.transformer.",
            {"text_model.embeddings.token_embedding.weight": (49408, 1280)},
        )
        | under("text_encoders.t5xxl.transformer.", T5),
        Family.SD3,
        {Role.VAE, Role.CLIP_L, Role.CLIP_G, Role.T5XXL},
    ),
    "z-image in one file": (
        under("model.diffusion_model.", DIFFUSION["z-image"][0])
        | under("vae.", VAE)
        | under("text_encoders.qwen3_4b.transformer.", LLM_HF),
        Family.Z_IMAGE,
        {Role.VAE, Role.LLM},
    ),
    "svd": (
        under("model.diffusion_model.", DIFFUSION["svd"][0])
        | {"conditioner.embedders.0.open_clip.model.visual.conv1.weight": (1280, 3, 14, 14)}
        | {"conditioner.embedders.3.encoder.encoder.conv_in.weight": (128, 3, 3, 3)}
        | under("first_stage_model.", VAE),
        Family.SVD,
        {Role.VAE},
    ),
    "one of an unknown family": (
        {"model.diffusion_model.caption_projection.0.weight": (4, 4)} | under("first_stage_model.", VAE),
        None,
        {Role.VAE},
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_is_known_with_its_parts(name):
    tensors, family, parts = WHOLE[name]
    seen = verdict(tensors)
    assert (seen.kind, seen.role, seen.family) == (FileKind.MODEL, Role.MODEL, family)
    assert seen.parts == {Role.DIFFUSION_MODEL, *parts}


def lora(*layers: str, width: int = 64, style: str = "kohya") -> dict[str, tuple[int, ...]]:
    down, up = {
        "kohya": ("lora_down", "lora_up"),
        "peft": ("lora_A", "lora_B"),
        "old": ("lora.down", "lora.up"),
    }[style]
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.{down}.weight"] = (8, width)
        tensors[f"{layer}.{up}.weight"] = (64, 8)
        if style == "kohya":
            tensors[f"{layer}.alpha"] = ()
    return tensors


ATTENTION = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
LORAS = {
    "sd1": (
        lora(f"lora_unet_{ATTENTION}", "lora_te_text_model_encoder_layers_0_mlp_fc1", width=768),
        Family.SD1,
    ),
    "sd2": (lora(f"lora_unet_{ATTENTION}", width=1024), Family.SD2),
    "sdxl": (lora(f"lora_unet_{ATTENTION}", width=2048), Family.SDXL),
    "sdxl by its encoders": (lora("lora_te1_text_model_x", "lora_te2_text_model_x"), Family.SDXL),
    "sd1 of diffusers": (
        lora("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", width=768, style="peft"),
        Family.SD1,
    ),
    "unet without text": (lora("lora_unet_input_blocks_1_1_proj_in"), None),
    "flux": (lora("lora_unet_double_blocks_0_img_attn_proj"), Family.FLUX),
    "flux of diffusers": (
        lora("transformer.single_transformer_blocks.0.attn.to_q", style="peft"),
        Family.FLUX,
    ),
    "sd3": (lora("lora_unet_joint_blocks_0_x_block_attn_proj"), Family.SD3),
    "qwen-image": (lora("transformer_blocks.0.img_mod.1", style="peft"), Family.QWEN_IMAGE),
    "z-image": (lora("diffusion_model.layers.0.feed_forward.w1", style="peft"), Family.Z_IMAGE),
    "wan": (lora("diffusion_model.blocks.0.self_attn.q", style="peft"), Family.WAN),
    "old": (lora("some.layer", style="old"), None),
    "loha": (
        {f"lora_unet_double_blocks_0_img_mlp_0.hada_w{n}": (4, 4) for n in ("1_a", "1_b", "2_a", "2_b")},
        Family.FLUX,
    ),
    "lokr": (
        {"lycoris_double_blocks_0_img_mlp_0.lokr_w1": (4, 4), "lycoris_x.lokr_w2_a": (4, 4)},
        Family.FLUX,
    ),
    "differences": ({"diffusion_model.img_in.diff": (4, 4), "diffusion_model.img_in.diff_b": (4,)}, None),
}


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_is_no_model(name):
    tensors, family = LORAS[name]
    seen = verdict(tensors)
    assert (seen.kind, seen.role, seen.family, seen.parts) == (FileKind.LORA, None, family, frozenset())


def test_a_model_with_few_factors_in_it_stays_a_model():
    seen = verdict(flux_dev() | lora("double_blocks.0.img_attn.proj"))
    assert seen.role is Role.DIFFUSION_MODEL


OTHERS = {
    "controlnet": (under("control_model.", unet(768)), FileKind.CONTROLNET),
    "controlnet of diffusers": (
        diffusers_unet(768) | {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
        FileKind.CONTROLNET,
    ),
    "esrgan": (
        {"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
        FileKind.UPSCALER,
    ),
    "old esrgan": (
        {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)},
        FileKind.UPSCALER,
    ),
    "embedding": ({"emb_params": (8, 768)}, FileKind.EMBEDDING),
    "embedding of sdxl": ({"clip_l": (8, 768), "clip_g": (8, 1280)}, FileKind.EMBEDDING),
    "image encoder": (
        {
            "vision_model.embeddings.patch_embedding.weight": (1280, 3, 14, 14),
            "visual_projection.weight": (1024, 1280),
        },
        FileKind.CLIP_VISION,
    ),
    "small t5": (
        {"shared.weight": (32128, 768), "encoder.block.0.layer.0.SelfAttention.q.weight": (768, 768)},
        FileKind.UNKNOWN,
    ),
    "clip of another width": (
        {"text_model.embeddings.token_embedding.weight": (49408, 512), "x": (1,)},
        FileKind.UNKNOWN,
    ),
    "hunyuan video": ({"double_blocks.0.img_attn_qkv.weight": (9216, 3072)}, FileKind.UNKNOWN),
    "two encoders": (under("te1.", CLIP_L) | under("te3.", T5), FileKind.UNKNOWN),
    "a table that is too long for an embedding": ({"weight": (49408, 768)}, FileKind.UNKNOWN),
    "anything": ({"a.weight": (3, 3)}, FileKind.UNKNOWN),
    "nothing": ({}, FileKind.UNKNOWN),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_part_of_a_model_has_no_role(name):
    tensors, kind = OTHERS[name]
    seen = verdict(tensors)
    assert (seen.kind, seen.role, seen.family) == (kind, None, None)


def test_a_whole_model_with_a_controlnet_in_it_stays_a_model():
    both = under("control_model.", unet(768)) | under("model.diffusion_model.", unet(768))
    assert verdict(both).role is Role.DIFFUSION_MODEL


def test_a_family_is_not_forgotten_over_what_else_is_there():
    more = under("model.diffusion_model.", flux_dev()) | {"diffusion_model.more.weight": (2, 2)}
    assert verdict(more).family is Family.FLUX


def test_two_encoders_in_one_file_are_still_named():
    assert verdict(under("te1.", CLIP_L) | under("te3.", T5)).parts == {Role.CLIP_L, Role.T5XXL}


def test_every_role_has_a_kind_of_its_name():
    assert {role.name for role in Role} <= {kind.name for kind in FileKind}
