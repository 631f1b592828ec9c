"""The models: which there are, and which one is drawn with."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from sdmanager.errors import InvalidRequestError

from .body import read_json
from .face import FACE
from .responses import json_response
from .wire import MODELS, model_body

_HINT: Final = f'Send {{"id": "NAME"}}; GET {MODELS} lists the names.'


def add_model_routes(app: web.Application) -> None:
    """Add the routes; ``add_native_routes`` does it."""
    app.add_routes([web.get(MODELS, _list), web.post(f"{MODELS}/current", _use)])


async def _list(request: web.Request) -> web.StreamResponse:
    models = request.app[FACE].models
    entries = await models.list()
    data = [model_body(entry, current=entry.name == models.current) for entry in entries]
    return json_response({"object": "list", "data": data})


async def _use(request: web.Request) -> web.StreamResponse:
    fields = await read_json(request)
    name = fields.get("id")
    if not isinstance(name, str) or fields.keys() != {"id"}:
        raise InvalidRequestError("The body must be an object with the id of a model alone.", hint=_HINT)
    models = request.app[FACE].models
    await models.use(name)
    return json_response({"id": models.current, "current": True})
