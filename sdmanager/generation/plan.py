"""Where the weights and the work go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory flags of one run; the default is the fastest and needs the most.

    Attributes:
        offload_to_cpu: Keep the weights in RAM and bring them to the GPU when needed.
        clip_on_cpu: Run the text encoder on the CPU.
        vae_on_cpu: Run the VAE on the CPU.
        vae_tiling: Decode in tiles: less memory, somewhat slower.
        diffusion_flash_attention: Flash attention in the diffusion model: less memory, and on CUDA and ROCm faster;
            None: there, for the families that a language model conditions.
        max_vram_gib: VRAM budget in GiB, or None for no limit.
    """

    offload_to_cpu: bool = False
    clip_on_cpu: bool = False
    vae_on_cpu: bool = False
    vae_tiling: bool = False
    diffusion_flash_attention: bool | None = None
    max_vram_gib: float | None = None
