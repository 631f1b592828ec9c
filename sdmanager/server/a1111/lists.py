"""What there is: models, samplers, LoRAs, and the many things that this server has none of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.engine.lora_files import lora_names
from sdmanager.hardware import ram_now
from sdmanager.server.face import FACE
from sdmanager.server.responses import json_response
from sdmanager.threads import in_thread

from .checkpoints import row
from .names import sampler_rows, scheduler_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# The last two are what makes pictures larger here; clients expect the first one.
UPSCALERS: Final = ("None", "Lanczos", "Nearest")

# Answers that are always the same: to what there is none of, and to what has nothing to do because the engine reads
# its files anew for every picture, and holds none in between.
_FIXED: Final[dict[str, object]] = {
    "latent-upscale-modes": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "extensions": [],
    "cmd-flags": {"api": True, "nowebui": True},
}
_DONE: Final[dict[str, object]] = {
    "refresh-checkpoints": None,
    "refresh-loras": None,
    "refresh-vae": None,
    "refresh-embeddings": None,
    "unload-checkpoint": {},
    "reload-checkpoint": {},
}


def list_routes(base: str) -> list[web.RouteDef]:
    """The routes.

    Args:
        base: Path before their names.
    """
    asked = {
        "sd-models": _models,
        "sd-vae": _vaes,
        "samplers": _samplers,
        "schedulers": _schedulers,
        "upscalers": _upscalers,
        "loras": _loras,
        "memory": _memory,
    }
    return [
        *(web.get(f"{base}/{name}", handler) for name, handler in asked.items()),
        *(web.get(f"{base}/{name}", _always(value)) for name, value in _FIXED.items()),
        *(web.post(f"{base}/{name}", _always(value)) for name, value in _DONE.items()),
    ]


def _always(value: object) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return json_response(value)

    return answer


async def _models(request: web.Request) -> web.StreamResponse:
    return json_response([row(entry) for entry in await request.app[FACE].models.list()])


async def _vaes(request: web.Request) -> web.StreamResponse:
    # Each belongs to its model, which is drawn with it.
    names = {entry.vae.name for entry in await request.app[FACE].models.list() if entry.vae is not None}
    return json_response([{"model_name": name, "filename": name} for name in sorted(names)])


async def _samplers(request: web.Request) -> web.StreamResponse:
    return json_response(sampler_rows(request.app[FACE].info().samplers))


async def _schedulers(request: web.Request) -> web.StreamResponse:
    return json_response(scheduler_rows(request.app[FACE].info().schedulers))


async def _upscalers(_request: web.Request) -> web.StreamResponse:
    rows = [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
        for name in UPSCALERS
    ]
    return json_response(rows)


async def _loras(request: web.Request) -> web.StreamResponse:
    folder = request.app[FACE].loras_dir
    found, _ = await in_thread(lora_names, folder) if folder is not None else ([], True)
    return json_response([{"name": name, "alias": name, "path": name, "metadata": {}} for name in found])


async def _memory(_request: web.Request) -> web.StreamResponse:
    total, free = await in_thread(ram_now)
    ram = (
        {"free": free, "used": total - free, "total": total} if total is not None and free is not None else {}
    )
    return json_response({"ram": ram, "cuda": {"error": "unavailable"}})
