"""What goes over the wire, as plain dictionaries: the one place for the names of fields. ``schemas`` says them again
as types, for ``/openapi.json``; tests hold the one against the other."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from pydantic.alias_generators import to_camel

from sdmanager.generation import settings_of
from sdmanager.jobs import Status

if TYPE_CHECKING:
    from sdmanager.errors import SDManagerError
    from sdmanager.generation import GenerationResult, MemoryPlan, MemoryUse, Preview, Progress
    from sdmanager.jobs import Failure, Generation

    from .face import ModelEntry

MODELS: Final = "/v1/models"
GENERATIONS: Final = "/v1/images/generations"


def progress_body(progress: Progress) -> dict[str, object]:
    """How far a generation is; the time left is missing while it is unknown."""
    body: dict[str, object] = {
        "currentStep": progress.step,
        "totalSteps": progress.total_steps,
        "stage": progress.stage.value,
        "percentage": _percentage(progress.percentage),
        "currentImage": progress.image,
        "totalImages": progress.total_images,
    }
    if progress.eta_seconds is not None:
        body["etaSeconds"] = round(progress.eta_seconds, 2)
    return body


def failure_body(failure: Failure | SDManagerError) -> dict[str, object]:
    """An error as every route and every stream shows it."""
    body: dict[str, object] = {"message": failure.message, "code": failure.code}
    if failure.hint is not None:
        body["suggestion"] = failure.hint
    return body


def generation_summary(generation: Generation) -> dict[str, object]:
    """A generation in a list; its place in the queue only while it waits."""
    body: dict[str, object] = {
        "id": generation.id,
        "status": generation.status.value,
        "createdAt": generation.created_at,
        "updatedAt": generation.updated_at,
    }
    if generation.status is Status.PENDING and generation.position is not None:
        body["queuePosition"] = generation.position
    return body


def generation_body(generation: Generation) -> dict[str, object]:
    """A generation by itself, without its result: see ``result_body``."""
    body = generation_summary(generation)
    if generation.status is Status.IN_PROGRESS and generation.progress is not None:
        body["progress"] = progress_body(generation.progress)
    elif generation.status is Status.ERROR and generation.error is not None:
        body["error"] = failure_body(generation.error)
    return body


def result_body(result: GenerationResult) -> dict[str, object]:
    """The pictures and how they came about. Blocking: reads the files of the pictures.

    Raises:
        StorageError: They are not there any more.
    """
    timings, previews = result.timings, result.previews
    body: dict[str, object] = {
        "images": [
            {
                "image": base64_text(image.png),
                "seed": image.seed,
                "width": image.width,
                "height": image.height,
            }
            for image in result.images
        ],
        "format": "png",
        "timeTaken": milliseconds(result.time_taken),
        "timings": {
            "loading": milliseconds(timings.loading),
            "diffusion": milliseconds(timings.diffusion),
            "decoding": milliseconds(timings.decoding),
            "offloading": milliseconds(timings.offloading),
        },
        "model": result.model,
        "variant": result.variant,
        "plan": plan_body(result.plan),
    }
    if result.memory is not None:
        body["memory"] = memory_body(result.memory)
    if result.out_of_memory:
        body["outOfMemory"] = [plan_body(plan) for plan in result.out_of_memory]
    if previews is not None:
        shown: dict[str, object] = {
            "count": previews.count,
            "reading": milliseconds(previews.reading),
            "encoding": milliseconds(previews.encoding),
        }
        if previews.first_after is not None:
            shown["firstAfter"] = milliseconds(previews.first_after)
        body["previews"] = shown
    return {**body, **request_body(result)}


def request_body(result: GenerationResult) -> dict[str, object]:
    """What was drawn, as part of a result; nothing where it is not known, as after a restart of the server."""
    return {} if result.request is None else {"request": settings_of(result.request)}


def model_body(model: ModelEntry, *, current: bool) -> dict[str, object]:
    """A model as OpenAI's clients read it, and what else there is to know of it."""
    body: dict[str, object] = {
        "id": model.name,
        "object": "model",
        "created": model.installed_at,
        "owned_by": "local",
        "name": model.name,
        "current": current,
        "defaults": {to_camel(name): value for name, value in model.defaults.items()},
    }
    if model.family is not None:
        body["family"] = model.family
    return body


def plan_body(plan: MemoryPlan) -> dict[str, object]:
    """Memory flags as the command line has them, who was put aside for them, and why."""
    return {"flags": list(plan.flags), "evictions": list(plan.evictions), "reasons": list(plan.reasons)}


def memory_body(use: MemoryUse) -> dict[str, object]:
    """What was seen to be used; what is unknown is missing."""
    known = {"ramBytes": use.ram, "vramBytes": use.vram}
    return {name: size for name, size in known.items() if size is not None}


def preview_body(preview: Preview, *, inline: bool) -> dict[str, object]:
    """A preview; with its bytes in base64 when ``inline``."""
    image = preview.image
    body: dict[str, object] = {
        "step": preview.step,
        "totalSteps": preview.total_steps,
        "currentImage": preview.image_index,
        "width": image.width,
        "height": image.height,
        "format": image.format,
    }
    if inline:
        body["image"] = base64_text(image.data)
    return body


def _percentage(value: float) -> float:
    return (
        min(round(value, 2), 99.99) if value < 100 else 100.0
    )  # rounding must not make an end of what is none


def milliseconds(seconds: float) -> int:
    """Seconds as they go over the wire."""
    return round(seconds * 1000)


def base64_text(data: bytes) -> str:
    """Bytes as they go into JSON: base64, with nothing before it."""
    return base64.b64encode(data).decode("ascii")
