"""The native routes: ask for pictures, see how they come along, fetch or cancel them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from sdmanager.errors import GenerationNotFoundError, StorageError
from sdmanager.jobs import Status
from sdmanager.threads import in_thread

from .face import FACE
from .models_api import add_model_routes
from .openai import OPENAI, generate, speaks_openai
from .openapi import openapi_json
from .pictures import Picture
from .requests import read_fields, submit
from .responses import created_response, json_response
from .shapes import SPOKEN_AT, spoken_at
from .wire import GENERATIONS, generation_body, generation_summary, result_body

if TYPE_CHECKING:
    from sdmanager.generation import GeneratedImage, GenerationResult
    from sdmanager.jobs import Generation


def add_native_routes(app: web.Application) -> None:
    """Add the routes; the application holds a ``Face`` under ``FACE``."""
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/v1/info", _info),
            web.get("/openapi.json", _openapi),
            web.get(f"{GENERATIONS}/{{id}}", _get),  # first, because clients poll it
            web.delete(f"{GENERATIONS}/{{id}}", _cancel),
            web.post(GENERATIONS, _create),
            web.get(GENERATIONS, _list),
            web.get(f"{GENERATIONS}/{{id}}/images/{{n}}", _image),
        ]
    )
    add_model_routes(app)


async def _health(request: web.Request) -> web.StreamResponse:
    return json_response({"status": "ok", "busy": request.app[FACE].service.busy})


async def _info(request: web.Request) -> web.StreamResponse:
    return json_response(request.app[FACE].info().body())


async def _openapi(request: web.Request) -> web.StreamResponse:
    info = request.app[FACE].info()
    return json_response(openapi_json(info.version, info.samplers, info.schedulers))


async def _create(request: web.Request) -> web.StreamResponse:
    fields = await read_fields(request)
    if spoken_at(request) == OPENAI or speaks_openai(fields):
        request[SPOKEN_AT] = OPENAI
        return await generate(request, fields)
    generation, replayed = await submit(request, fields)
    # Of a new one always "pending", also where drawing began at once: what clients of this protocol expect.
    status = generation.status if replayed else Status.PENDING
    body = {"id": generation.id, "status": status.value, "createdAt": generation.created_at}
    return created_response(f"{GENERATIONS}/{generation.id}", body, replayed=replayed)


async def _list(request: web.Request) -> web.StreamResponse:
    generations = request.app[FACE].service.registry.list()
    return json_response({"generations": [generation_summary(generation) for generation in generations]})


async def _get(request: web.Request) -> web.StreamResponse:
    generation = request.app[FACE].service.get(request.match_info["id"])
    if generation.result is None:
        return json_response(_encoded(generation))
    try:
        return json_response(await in_thread(_encoded_with_result, generation, generation.result))
    except StorageError as exc:
        raise _expired() from exc


@functools.lru_cache(maxsize=64)
def _encoded(generation: Generation) -> bytes:
    """A generation without a result; kept, because it is asked for more often than it changes."""
    return json.dumps(generation_body(generation)).encode("ascii")


def _encoded_with_result(generation: Generation, result: GenerationResult) -> bytes:
    return json.dumps({**generation_body(generation), "result": result_body(result)}).encode("ascii")


async def _cancel(request: web.Request) -> web.StreamResponse:
    generation = await request.app[FACE].service.cancel(request.match_info["id"])
    return json_response({"id": generation.id, "status": generation.status.value})


async def _image(request: web.Request) -> web.StreamResponse:
    generation = request.app[FACE].service.get(request.match_info["id"])
    number = request.match_info["n"]
    images: tuple[GeneratedImage, ...] = generation.result.images if generation.result is not None else ()
    if number not in map(str, range(len(images))):
        raise GenerationNotFoundError("The generation has no image of this number, or not yet.")
    source = images[int(number)].source
    # Immutable for as long as it is there; ids are never used again.
    headers = {hdrs.CONTENT_TYPE: "image/png", hdrs.CACHE_CONTROL: "private, max-age=3600, immutable"}
    if isinstance(source, Path):
        if not await in_thread(source.is_file):
            raise _expired()
        return Picture(source, headers=headers)
    return web.Response(body=source, headers={**headers, hdrs.ETAG: f'"{generation.id}-{number}"'})


def _expired() -> GenerationNotFoundError:
    return GenerationNotFoundError("The result of this generation has expired.")
