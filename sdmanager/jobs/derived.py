"""What follows from a request or a generation, without knowing anything else. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sdmanager.generation import Cancelled, Completed, Failed, Progress, Stage

if TYPE_CHECKING:
    from sdmanager.generation import ImageRequest

    from .snapshots import Generation


def last_event(generation: Generation) -> Completed | Failed | Cancelled:
    """What the last event of a generation was that has ended, from what the registry keeps of it."""
    stamp: dict[str, Any] = {"generation_id": generation.id, "sequence": 0, "elapsed": 0.0}
    if generation.result is not None:
        return Completed(result=generation.result, **stamp)
    if generation.error is not None:
        return Failed(error=generation.error.to_error(), **stamp)
    return Cancelled(**stamp)


def nothing_yet(generation_id: str, count: int) -> Progress:
    """What can be said before the engine has said anything."""
    return Progress(
        generation_id=generation_id, sequence=0, elapsed=0.0, stage=Stage.LOADING, step=0, total_steps=0,
        percentage=0.0, image=1, total_images=count, seconds_per_step=None, eta_seconds=None,
    )  # fmt: skip


def fingerprint(request: ImageRequest) -> str:
    """Equal for equal requests: the digest of all that the caller set."""
    fields = request.model_dump(mode="python", exclude_unset=True)
    images = [fields.pop(name, None) for name in ("init_image", "mask_image")]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for image in images:
        digest.update(hashlib.sha256(image if isinstance(image, bytes) else str(image).encode()).digest())
    return digest.hexdigest()
