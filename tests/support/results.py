"""Results of generations that nobody drew, and a clock that goes when told to."""

from __future__ import annotations

import base64

from sdmanager.generation import (
    GeneratedImage,
    GenerationResult,
    MemoryPlan,
    PreviewTimings,
    Progress,
    Stage,
    StageTimings,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Clock:
    """Seconds, for a monotonic clock or a wall clock."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def a_result(*pngs, **fields):
    """A result with these pictures, or with one small one."""
    images = tuple(GeneratedImage(png, 7 + n, 64, 32) for n, png in enumerate(pngs or (PNG,)))
    usual = {
        "time_taken": 1.5,
        "timings": StageTimings(0.1, 1.2, 0.2),
        "model": "demo",
        "variant": "cpu",
        "plan": MemoryPlan(vae_tiling=True, max_vram_gib=3.5),
        "previews": PreviewTimings(3, 0.25, 0.01, 0.02),
    }
    return GenerationResult(images=images, **{**usual, **fields})


def some_progress(percentage=10.0):
    """An engine in the middle of its work."""
    return Progress(
        generation_id="x", sequence=0, elapsed=0.1, stage=Stage.DIFFUSION, step=1, total_steps=20,
        percentage=percentage, image=1, total_images=1, seconds_per_step=None, eta_seconds=None,
    )  # fmt: skip
