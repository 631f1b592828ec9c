"""The routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.server.responses import json_response

from . import extras, images
from .lists import list_routes
from .options import OPTIONS, Options, get_options, set_options
from .progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE: Final = "/sdapi/v1"
_NO_CONTROL_NETS: Final[Mapping[str, object]] = {"model_list": []}


def add_a1111_routes(app: web.Application) -> None:
    """Add the routes; the application holds a ``Face`` under ``FACE``."""
    app[images.STOPS] = {}
    app[OPTIONS] = Options()
    app.add_routes(
        [
            web.get(f"{BASE}/progress", progress),  # first, because clients poll it
            web.post(f"{BASE}/txt2img", images.txt2img),
            web.post(f"{BASE}/img2img", images.img2img),
            web.post(f"{BASE}/interrupt", images.interrupt),
            web.post(f"{BASE}/skip", images.skip),
            web.get(f"{BASE}/options", get_options),
            web.post(f"{BASE}/options", set_options),
            web.post(f"{BASE}/png-info", extras.png_info),
            web.post(f"{BASE}/extra-single-image", extras.extra_single_image),
            web.post(f"{BASE}/extra-batch-images", extras.extra_batch_images),
            web.post(f"{BASE}/interrogate", extras.interrogate),
            *list_routes(BASE),
            web.get("/controlnet/model_list", _control_nets),
        ]
    )


async def _control_nets(_request: web.Request) -> web.StreamResponse:
    # Outside the API's own path, where the extension that others have puts it.
    return json_response(dict(_NO_CONTROL_NETS))
