"""Jobs, for clients that know ``/v1/jobs``: an operation with its fields, and a stream of what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.errors import GenerationCancelledError, InvalidRequestError, StorageError
from sdmanager.generation import Cancelled, Failed, Preview, Progress, StageChanged
from sdmanager.threads import in_thread

from .face import FACE
from .requests import read_fields, submit
from .responses import created_response
from .streams import encode, event_stream
from .wire import base64_text, failure_body, preview_body, progress_body
from .words import first_progress

if TYPE_CHECKING:
    from aiohttp import web

    from sdmanager.errors import SDManagerError
    from sdmanager.generation import Event, GenerationResult
    from sdmanager.jobs import Feed, GenerationService

    from .streams import End, Worded

JOBS: Final = "/v1/jobs"
_OPERATION: Final = "ImageGeneration"


def add_job_routes(app: web.Application) -> None:
    """Add the routes; ``add_stream_routes`` does it."""
    app.router.add_post(JOBS, _create)
    app.router.add_get(f"{JOBS}/{{id}}/stream", _stream, allow_head=False)


async def _create(request: web.Request) -> web.StreamResponse:
    fields = dict(await read_fields(request))
    if fields.pop("operation", None) != _OPERATION:
        raise InvalidRequestError(
            "The operation is missing or unknown.", hint=f"The one there is: {_OPERATION!r}."
        )
    fields.setdefault("previews", {})  # null turns them off
    generation, replayed = await submit(request, fields)
    url = f"{JOBS}/{generation.id}/stream"
    return created_response(url, {"job_id": generation.id, "sse_url": url}, replayed=replayed)


async def _stream(request: web.Request) -> web.StreamResponse:
    return await event_stream(request, JobWords(request.app[FACE].service))


class JobWords:
    """The dialect of ``/v1/jobs/{id}/stream``.

    Args:
        service: Knows how far a generation is.
    """

    name = "jobs"

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    def word(self, event: Event, number: int, feed: Feed) -> Worded | None:
        """An event that is not the end; a place in the queue is not told here."""
        match event:
            case Progress():
                return "progress", _progress(event)
            case StageChanged():
                progress = first_progress(self._service, event)
                return ("progress", _progress(progress)) if progress is not None else None
            case Preview():
                return "preview", _preview(event, _percent_before(number, feed))
            case _:
                return None

    async def end(self, event: End) -> bytes:
        """The end of a job, with its pictures, which are read anew for each reader."""
        if isinstance(event, Cancelled):
            return encode(*_error(GenerationCancelledError("The generation was cancelled.")))
        if isinstance(event, Failed):
            return encode(*_error(event.error))
        try:
            return await in_thread(_complete, event.result)
        except StorageError as exc:
            return encode(*_error(exc))


def _progress(progress: Progress) -> dict[str, object]:
    body = progress_body(progress)
    words: dict[str, object] = {
        "type": "progress",
        "step": body["currentStep"],
        "total": body["totalSteps"],
        "percent": body["percentage"],
        "stage": body["stage"],
    }
    if "etaSeconds" in body:
        words["eta_seconds"] = body["etaSeconds"]
    return words


def _preview(preview: Preview, percent: object) -> dict[str, object]:
    body = preview_body(preview, inline=True)
    return {
        "type": "preview",
        "image": body["image"],
        "format": body["format"],
        "step": body["step"],
        "total": body["totalSteps"],
        "percent": percent,
    }


def _percent_before(number: int, feed: Feed) -> object:
    """What the last progress before an event said, so that a reader who lags behind sees none that falls."""
    before = [
        item.event for item in feed.since(0) if item.number < number and isinstance(item.event, Progress)
    ]
    last = before[-1] if before else None
    return progress_body(last)["percentage"] if isinstance(last, Progress) else 0.0


def _complete(result: GenerationResult) -> bytes:
    words: dict[str, object] = {
        "type": "complete",
        "images": [base64_text(image.png) for image in result.images],
        "format": "png",
        "seeds": [image.seed for image in result.images],
        "time_taken": round(result.time_taken * 1000),
    }
    return encode("complete", words)


def _error(error: SDManagerError) -> Worded:
    return "error", {"type": "error", **failure_body(error)}
