"""``options``: the settings that clients read, and the two that they can change here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.server.body import read_json
from sdmanager.server.face import FACE
from sdmanager.server.responses import json_response

from .checkpoints import resolve, title
from .fields import Fields

if TYPE_CHECKING:
    from sdmanager.server.face import ModelEntry, Models

_CLIP_SKIP_MAX: Final = 12


@dataclass(slots=True)
class Options:
    """What clients have set, for as long as the server runs; the model is kept elsewhere.

    Attributes:
        clip_skip: For requests that say nothing of it; 1 is the model's own.
    """

    clip_skip: int = 1


OPTIONS: Final = web.AppKey("a1111_options", Options)


async def get_options(request: web.Request) -> web.StreamResponse:
    """All settings. None is called as one of Forge's: its clients would ask for more that is not here."""
    entry = await current_entry(request.app[FACE].models)
    return json_response(
        {
            "samples_format": "png",
            "sd_model_checkpoint": title(entry) if entry is not None else request.app[FACE].models.current,
            "sd_checkpoint_hash": entry.sha256 if entry is not None else None,
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": request.app[OPTIONS].clip_skip,
            "live_previews_enable": True,
            "live_previews_image_format": "png",
        }
    )


async def set_options(request: web.Request) -> web.StreamResponse:
    """Take what can be changed: the model, by any of its names, and the layers of CLIP; all else is ignored."""
    given = Fields(await read_json(request))
    clip_skip = given.integer("CLIP_stop_at_last_layers", 1, _CLIP_SKIP_MAX)
    wanted = given.text("sd_model_checkpoint").strip()
    models = request.app[FACE].models
    if wanted:
        name = await resolve(wanted, models)
        if name != models.current:
            await models.use(name)
    if clip_skip is not None:
        request.app[OPTIONS].clip_skip = clip_skip
    return json_response(None)


async def current_entry(models: Models) -> ModelEntry | None:
    """The model that draws where a request names none; None where it is gone from the list."""
    current = models.current
    return next((entry for entry in await models.list() if entry.name == current), None)
