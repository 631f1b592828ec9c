"""LoRAs for the demo model: small, random, and taken by the real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RANK = 4

# Two layers of the diffusion model, with their outputs and inputs.
LAYERS = {"double_blocks.0.img_attn.proj": (128, 128), "single_blocks.0.linear2": (128, 640)}


def write_lora(path: Path, seed: int = 1) -> Path:
    """A LoRA whose effect on the picture depends on the seed."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.3)

    tensors = {}
    for layer, (outputs, inputs) in LAYERS.items():
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = weights(RANK, inputs)
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = weights(outputs, RANK)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path
