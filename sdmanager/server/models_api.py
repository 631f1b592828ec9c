"""The models: which there are, and which one is drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import InvalidRequestError, ModelNotFoundError

from .body import read_json
from .face import FACE, model_named
from .responses import json_response
from .wire import MODELS, model_body

if TYPE_CHECKING:
    from .face import ModelEntry, Models

_HINT: Final = f'Send {{"id": "NAME"}}; GET {MODELS} lists the names.'


def add_model_routes(app: web.Application) -> None:
    """Add the routes; ``add_native_routes`` does it."""
    app.add_routes(
        [
            web.get(MODELS, list_models),
            web.get(f"{MODELS}/current", _show_current),
            web.post(f"{MODELS}/current", _use),
            web.get(f"{MODELS}/{{name:[^/]+}}", show_model),
        ]
    )


async def find_model(models: Models, name: str) -> ModelEntry:
    """The model of this name.

    Raises:
        ModelNotFoundError: There is none.
    """
    entry = await model_named(models, name)
    if entry is None:
        raise ModelNotFoundError("There is no such model.", hint=f"GET {MODELS} lists those there are.")
    return entry


async def list_models(request: web.Request) -> web.StreamResponse:
    """Answer with all models, as OpenAI's clients read them."""
    models = request.app[FACE].models
    entries = await models.list()
    data = [model_body(entry, current=entry.name == models.current) for entry in entries]
    return json_response({"object": "list", "data": data})


async def show_model(request: web.Request) -> web.StreamResponse:
    """Answer with the model that the path names.

    Raises:
        ModelNotFoundError: There is none.
    """
    models = request.app[FACE].models
    entry = await find_model(models, request.match_info["name"])
    return json_response(model_body(entry, current=entry.name == models.current))


async def _show_current(request: web.Request) -> web.StreamResponse:
    models = request.app[FACE].models
    return json_response(model_body(await find_model(models, models.current), current=True))


async def _use(request: web.Request) -> web.StreamResponse:
    fields = await read_json(request)
    name = fields.get("id")
    if not isinstance(name, str) or fields.keys() != {"id"}:
        raise InvalidRequestError("The body must be an object with the id of a model alone.", hint=_HINT)
    models = request.app[FACE].models
    await models.use(name)
    return json_response({"id": models.current, "current": True})
