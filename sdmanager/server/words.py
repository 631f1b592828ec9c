"""What the native streams say of each event: its name, and the data that goes with it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sdmanager.generation import Cancelled, Failed, Preview, Progress, Queued, Replanned, Stage, StageChanged

from .streams import encode
from .wire import GENERATIONS, failure_body, plan_body, preview_body, progress_body, request_body

if TYPE_CHECKING:
    from sdmanager.generation import Event
    from sdmanager.jobs import Feed, GenerationService

    from .streams import End, Worded


class NativeWords:
    """The dialect of ``/v1/images/generations/{id}/events``.

    Args:
        service: Knows how far a generation is.
        inline: Whether previews carry their bytes in base64, or their address only.
    """

    def __init__(self, service: GenerationService, *, inline: bool) -> None:
        self._service = service
        self._inline = inline
        self.name = "events" if inline else "events-url"

    def word(self, event: Event, number: int, feed: Feed) -> Worded | None:
        """An event that is not the end."""
        match event:
            case Queued():
                return "queued", {"id": event.generation_id, "position": event.position}
            case Progress():
                return "progress", {"id": event.generation_id, **progress_body(event)}
            case StageChanged():
                progress = first_progress(self._service, event)
                return self.word(progress, number, feed) if progress is not None else None
            case Preview():
                return "preview", preview_words(event, number, inline=self._inline)
            case Replanned():
                words = {"plan": plan_body(event.plan), "reason": event.reason}
                return "replanned", {"id": event.generation_id, **words}
            case _:
                return None

    async def end(self, event: End) -> bytes:
        """The end of a generation."""
        return encode(*end_words(event))


def first_progress(service: GenerationService, event: StageChanged) -> Progress | None:
    """A stage in which nothing is done yet; every other change of stage is followed by a progress of its own."""
    if event.stage is Stage.OFFLOADING:
        return None
    generation = service.registry.get(event.generation_id)
    progress = generation.progress if generation is not None else None
    if progress is None or progress.percentage > 0:
        return None
    return dataclasses.replace(progress, stage=event.stage)


def preview_words(preview: Preview, number: int, *, inline: bool) -> dict[str, object]:
    """A preview, with the address of the newest one; the number in it makes a browser load it again."""
    url = f"{GENERATIONS}/{preview.generation_id}/preview?n={number}"
    return {"id": preview.generation_id, **preview_body(preview, inline=inline), "url": url}


def end_words(event: End) -> Worded:
    """The end of a generation; pictures by their addresses."""
    name = event.generation_id
    if isinstance(event, Cancelled):
        return "cancelled", {"id": name}
    if isinstance(event, Failed):
        return "error", {"id": name, **failure_body(event.error)}
    result = event.result
    images = [
        {
            "url": f"{GENERATIONS}/{name}/images/{number}",
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
        }
        for number, image in enumerate(result.images)
    ]
    return "complete", {
        "id": name,
        "images": images,
        "format": "png",
        "timeTaken": round(result.time_taken * 1000),
        "model": result.model,
        "variant": result.variant,
        **request_body(result),
    }
