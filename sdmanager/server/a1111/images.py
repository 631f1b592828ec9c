"""``txt2img``, ``img2img``, ``interrupt`` and ``skip``: pictures for a client that waits, and an end to waiting."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import GenerationCancelledError, InputImageError
from sdmanager.generation import (
    EMPTY_PROMPT,
    ImageRequest,
    Preview,
    PreviewFormat,
    PreviewMethod,
    PreviewOptions,
)
from sdmanager.server.body import read_json
from sdmanager.server.drawing import cancel, outcome, waiting
from sdmanager.server.face import FACE
from sdmanager.server.requests import accept, refuse_large_if_full
from sdmanager.server.responses import json_response, replay_headers
from sdmanager.threads import in_thread

from . import answers
from .asked import read_asked
from .checkpoints import resolve
from .errors import a1111_error
from .options import OPTIONS
from .pictures import fitted_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmanager.server.schemas import ServerInfo

    from .asked import Asked

_NOT_FOUND: Final = 404
_IMAGE_FIELDS: Final = ("image", "mask")
# The last two are ignored, and hold the pictures of extensions all the same.
_IMAGE_TREES: Final = ("init_images", "imageList", "alwayson_scripts", "script_args")


@dataclass(slots=True)
class Stop:
    """What becomes of a picture that a client of this API waits for.

    Attributes:
        skipped: Whether it was to be left out.
        interrupted: Whether all was to stop.
        preview: How it stood then.
        waiting: How many clients wait for it: with an ``Idempotency-Key`` they may be several.
    """

    skipped: bool = False
    interrupted: bool = False
    preview: Preview | None = None
    waiting: int = 0


# By the ids of generations that clients of this API wait for.
STOPS: Final = web.AppKey("a1111_stops", dict[str, Stop])


async def txt2img(request: web.Request) -> web.StreamResponse:
    """Draw, and answer with the pictures."""
    return await _draw(request, img2img=False)


async def img2img(request: web.Request) -> web.StreamResponse:
    """Draw from a picture, and answer with the pictures."""
    return await _draw(request, img2img=True)


async def interrupt(request: web.Request) -> web.StreamResponse:
    """Stop what is being drawn, whoever asked for it: this API has no ids. Its engine is dead when this answers."""
    await _stop(request, Stop(interrupted=True))
    return json_response({})


async def skip(request: web.Request) -> web.StreamResponse:
    """The same, because the engine cannot leave out one picture of several."""
    await _stop(request, Stop(skipped=True))
    return json_response(None)


async def read_body(request: web.Request) -> dict[str, object]:
    """The body of a request that may hold pictures.

    Raises:
        SDManagerError: As ``server.requests.read_fields``.
    """
    return await read_json(request, image_fields=_IMAGE_FIELDS, image_trees=_IMAGE_TREES)


async def _draw(request: web.Request, *, img2img: bool) -> web.StreamResponse:
    face = request.app[FACE]
    refuse_large_if_full(request)
    body, info = await read_body(request), face.info()
    asked = read_asked(
        body, img2img=img2img, samplers=info.samplers, schedulers=info.schedulers,
        clip_skip=request.app[OPTIONS].clip_skip,
    )  # fmt: skip
    if img2img and asked.inputs is None:
        missing = InputImageError("Init image not found.", hint="Send one in init_images.")
        face.metrics.refuse(missing)  # as the door does with what is raised
        return a1111_error(missing, status=_NOT_FOUND)
    model = await resolve(asked.checkpoint, face.models) if asked.checkpoint is not None else None
    built: list[ImageRequest] = []

    def build() -> ImageRequest:
        built.append(image_request(asked, model, info))
        return built[0]

    generation, replayed = await accept(request, build, with_pictures=asked.inputs is not None)
    drawing = answers.Drawing(
        asked, built[0], model or face.models.current, generation.created_at / 1000, info.version
    )
    async with waiting(request, generation.id, joined=replayed):
        with _stopping(request, generation.id) as stop:
            if asked.for_good and model is not None and not replayed:
                await face.models.use(model)
            data = await _answer(request, generation.id, drawing, stop, joined=replayed)
    return json_response(data, headers=replay_headers(replayed=replayed))


def image_request(asked: Asked, model: str | None, info: ServerInfo) -> ImageRequest:
    """What is drawn; takes time where pictures are to be fitted.

    Args:
        asked: By the client.
        model: Name of the model to draw with; None: the current one.
        info: Of the server.

    Raises:
        InvalidRequestError: It cannot be.
        InputImageError: A picture cannot be read.
    """
    fields = dict(asked.fields)
    if model is not None:
        fields["model_id"] = model
    if PreviewMethod.PROJ in info.preview_methods:  # the cheapest one
        fields["previews"] = PreviewOptions(method=PreviewMethod.PROJ, format=PreviewFormat.PNG)
    if asked.inputs is not None:
        size = (fields["width"], fields["height"]) if {"width", "height"} <= fields.keys() else None
        fields["init_image"], fields["mask_image"] = fitted_inputs(asked.inputs, size)
    # An empty prompt is a request here, and the engine draws it; everywhere else it is taken for a mistake.
    return ImageRequest.model_validate(fields, context=EMPTY_PROMPT)


@contextlib.contextmanager
def _stopping(request: web.Request, generation_id: str) -> Iterator[Stop]:
    """How the generation is stopped, known for as long as a client waits for it."""
    stops = request.app[STOPS]
    stop = stops.setdefault(generation_id, Stop())
    stop.waiting += 1
    try:
        yield stop
    finally:
        stop.waiting -= 1
        if not stop.waiting:
            del stops[generation_id]


async def _answer(
    request: web.Request, generation_id: str, drawing: answers.Drawing, stop: Stop, *, joined: bool
) -> bytes:
    try:
        result = await outcome(request, generation_id, joined=joined)
    except GenerationCancelledError:
        if not (stop.interrupted or stop.skipped):
            raise
        return await in_thread(answers.interrupted, drawing, stop.preview)
    return await in_thread(answers.whole, drawing, result)


async def _stop(request: web.Request, how: Stop) -> None:
    service = request.app[FACE].service
    drawn = service.current
    if drawn is None:
        return
    told, feed = request.app[STOPS].get(drawn), service.feed(drawn)
    if told is not None:
        told.interrupted, told.skipped = how.interrupted, how.skipped
        # Now: with its end the generation lets go of its last preview.
        shown = feed.preview.event if feed is not None and feed.preview is not None else None
        told.preview = shown if isinstance(shown, Preview) else None
    await cancel(request, drawn)
