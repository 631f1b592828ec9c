"""The routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import InvalidRequestError
from sdmanager.server.drawing import outcome
from sdmanager.server.face import FACE
from sdmanager.server.models_api import list_models, show_model
from sdmanager.server.requests import accept, is_repeated, read_fields
from sdmanager.server.responses import json_response, replay_headers
from sdmanager.threads import in_thread

from .answers import whole_answer
from .draft import draft_of
from .errors import REQUEST_ID, ending
from .forms import read_fields_and_pictures
from .order import Operation, from_texts, order_of
from .stream import stream_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .order import Order

OPENAI: Final = "/openai"
_BASE: Final = f"{OPENAI}/v1"


def add_openai_routes(app: web.Application) -> None:
    """Add the routes; the application holds a ``Face`` under ``FACE``."""
    app.add_routes(
        [
            web.post(f"{_BASE}/images/generations", generate),
            web.post(f"{_BASE}/images/edits", _edit),
            web.post("/v1/images/edits", _edit),
            web.post(f"{_BASE}/images/variations", _vary),
            web.post("/v1/images/variations", _vary),
            web.get(f"{_BASE}/models", list_models),
            web.get(f"{_BASE}/models/{{name:[^/]+}}", show_model),
        ]
    )


async def generate(request: web.Request, fields: Mapping[str, object] | None = None) -> web.StreamResponse:
    """Answer a request for pictures; with its fields where the body has been read.

    Raises:
        SDManagerError: There are none.
    """
    if fields is None:
        fields = await read_fields(request)
    if request.content_type == "multipart/form-data":
        fields = from_texts(fields)
    return await _answer(request, order_of(fields, Operation.GENERATION))


async def _edit(request: web.Request) -> web.StreamResponse:
    fields, image, mask = await read_fields_and_pictures(request, with_mask=True)
    return await _answer(request, order_of(fields, Operation.EDIT), image, mask)


async def _vary(request: web.Request) -> web.StreamResponse:
    fields, image, _ = await read_fields_and_pictures(request, with_mask=False)
    return await _answer(request, order_of(fields, Operation.VARIATION), image)


async def _answer(
    request: web.Request, order: Order, image: bytes | None = None, mask: bytes | None = None
) -> web.StreamResponse:
    """Have it drawn while the client waits."""
    models = request.app[FACE].models
    draft = await draft_of(models, order, image, mask, repeated=is_repeated(request))
    try:
        generation, replayed = await accept(request, draft.build, with_pictures=image is not None)
    except InvalidRequestError as exc:
        order.name_param(exc)
        raise
    headers = replay_headers(replayed=replayed)
    if order.stream:
        return await stream_images(request, draft, generation.id, headers, joined=replayed)
    with ending(generation.id):
        result = await outcome(request, generation.id, joined=replayed)
        body = await in_thread(whole_answer, result, order)
    return json_response(body, headers={REQUEST_ID: generation.id, **headers})
