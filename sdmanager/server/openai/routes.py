"""The routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.server.drawing import outcome, result_of
from sdmanager.server.face import FACE
from sdmanager.server.requests import accept, read_fields
from sdmanager.server.responses import json_response
from sdmanager.threads import in_thread

from .answers import whole_answer
from .draft import draft_of
from .errors import REQUEST_ID, ending
from .forms import read_fields_and_pictures
from .models import find_model, model_body
from .order import Operation, from_texts, order_of
from .stream import stream_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .draft import Draft

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
            web.get(f"{_BASE}/models", _models),
            web.get(f"{_BASE}/models/{{name:.+}}", _model),
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
    order = order_of(fields, Operation.GENERATION)
    return await _answer(request, await draft_of(request.app[FACE].models, order))


async def _edit(request: web.Request) -> web.StreamResponse:
    fields, image, mask = await read_fields_and_pictures(request, with_mask=True)
    order = order_of(fields, Operation.EDIT)
    return await _answer(request, await draft_of(request.app[FACE].models, order, image, mask))


async def _vary(request: web.Request) -> web.StreamResponse:
    fields, image, _ = await read_fields_and_pictures(request, with_mask=False)
    order = order_of(fields, Operation.VARIATION)
    return await _answer(request, await draft_of(request.app[FACE].models, order, image))


async def _answer(request: web.Request, draft: Draft) -> web.StreamResponse:
    """Have it drawn while the client waits."""
    generation, replayed = await accept(request, draft.build, with_pictures=draft.image is not None)
    headers = {"Idempotency-Replayed": "true"} if replayed else {}
    if draft.order.stream:
        return await stream_images(request, draft, generation.id, headers, owned=not replayed)
    with ending(generation.id):
        if replayed:  # who asked for it first may still wait: it is not this client's to cancel
            result = result_of(await request.app[FACE].service.wait(generation.id))
        else:
            result = await outcome(request, generation.id)
        body = await in_thread(whole_answer, result, draft.order)
    return json_response(body, headers={REQUEST_ID: generation.id, **headers})


async def _models(request: web.Request) -> web.StreamResponse:
    entries = await request.app[FACE].models.list()
    return json_response({"object": "list", "data": [model_body(entry) for entry in entries]})


async def _model(request: web.Request) -> web.StreamResponse:
    return json_response(model_body(await find_model(request.app[FACE].models, request.match_info["name"])))
