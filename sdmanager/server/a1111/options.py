"""``options``: the settings that clients read, and the two that they can change here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from sdmanager.generation import CLIP_SKIP_MAX
from sdmanager.server.body import read_json
from sdmanager.server.face import FACE, model_named
from sdmanager.server.responses import json_response

from .checkpoints import resolve, title
from .fields import Fields


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
    models = request.app[FACE].models
    entry = await model_named(models, models.current)
    return json_response(
        {
            "samples_format": "png",
            "sd_model_checkpoint": title(entry) if entry is not None else models.current,
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
    clip_skip = given.integer("CLIP_stop_at_last_layers", 1, CLIP_SKIP_MAX)
    wanted = given.text("sd_model_checkpoint").strip()
    models = request.app[FACE].models
    if wanted:
        name = await resolve(wanted, models)
        if name != models.current:
            await models.use(name)
    if clip_skip is not None:
        request.app[OPTIONS].clip_skip = clip_skip
    return json_response(None)
