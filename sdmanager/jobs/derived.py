"""What follows from a request or a generation, without knowing anything else. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sdmanager.generation import Cancelled, Completed, Failed, Progress, Stage

if TYPE_CHECKING:
    from types import EllipsisType

    from sdmanager.generation import ImageRequest

    from .snapshots import Generation

_RETRY_SECONDS: Final = 5  # where nothing is known about the generation in hand
_RETRY_SECONDS_MAX: Final = 120


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


def entered(generation: Generation | None, stage: Stage) -> Progress | EllipsisType:
    """How far a generation is once a stage has begun; ``...``: as it was.

    An engine may be silent for long before its first progress, and who asks meanwhile is to see the stage.
    """
    known = generation.progress if generation is not None else None
    if known is None or known.stage is stage:
        return ...
    return replace(known, stage=stage, step=0, total_steps=0, seconds_per_step=None)


def retry_after(drawn: Generation | None) -> int:
    """Seconds after which a place may be free: a guess from what is being drawn, 1 to 120."""
    eta = drawn.progress.eta_seconds if drawn is not None and drawn.progress is not None else None
    return min(max(math.ceil(eta if eta is not None else _RETRY_SECONDS), 1), _RETRY_SECONDS_MAX)


def fingerprint(request: ImageRequest) -> str:
    """Equal for equal requests: the digest of all that the caller set."""
    fields = request.model_dump(mode="python", exclude_unset=True)
    images = [fields.pop(name, None) for name in ("init_image", "mask_image")]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    for image in images:
        digest.update(hashlib.sha256(image if isinstance(image, bytes) else str(image).encode()).digest())
    return digest.hexdigest()
