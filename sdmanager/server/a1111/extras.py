"""Pictures that exist already: read for what they were drawn with, made larger, and not described."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageOps

from sdmanager.engine.images import open_input
from sdmanager.errors import InvalidRequestError
from sdmanager.generation import SIZE_MAX
from sdmanager.server.face import FACE
from sdmanager.server.requests import picture_bytes
from sdmanager.server.responses import json_response
from sdmanager.server.wire import base64_text
from sdmanager.threads import in_thread

from .errors import a1111_error
from .fields import Fields
from .images import read_body
from .pictures import parameters_in, png, texts_in

if TYPE_CHECKING:
    from aiohttp import web

_NOT_IMPLEMENTED: Final = 501
_IMAGES_MAX: Final = 16
_FACTOR_MAX: Final = 16
# Of what one request makes, all pictures together.
_PIXELS_MAX: Final = SIZE_MAX**2
_FILTERS: Final = {
    "none": Image.Resampling.LANCZOS,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


async def png_info(request: web.Request) -> web.StreamResponse:
    """What a picture was drawn with, as it stands in it."""
    sent = Fields(await read_body(request)).text("image")
    async with request.app[FACE].decoding:
        data = await in_thread(_told_by, sent)
    return json_response(data)


async def extra_single_image(request: web.Request) -> web.StreamResponse:
    """One picture, made larger by arithmetic: there is no model for it."""
    given = Fields(await read_body(request))
    async with request.app[FACE].decoding:
        image, _ = await in_thread(_enlarged, given, given.text("image"), _PIXELS_MAX)
    return json_response(await in_thread(_body, "image", image))


async def extra_batch_images(request: web.Request) -> web.StreamResponse:
    """Several, one after the other."""
    given = Fields(await read_body(request))
    sent = [entry.text("data") for entry in given.nested_list("imageList")]
    if len(sent) > _IMAGES_MAX:
        raise given.wrong("imageList", "holds too many images", hint=f"Send at most {_IMAGES_MAX}.")
    images, left = list[str](), _PIXELS_MAX
    for each in sent:
        async with request.app[FACE].decoding:
            image, pixels = await in_thread(_enlarged, given, each, left)
        images.append(image)
        left -= pixels
    return json_response(await in_thread(_body, "images", images))


async def interrogate(request: web.Request) -> web.StreamResponse:
    """Said plainly: the engine draws pictures and cannot tell what is on them."""
    error = InvalidRequestError("This server does not describe pictures.", hint="It only draws them.")
    request.app[FACE].metrics.refuse(error)  # as the door does with what is raised
    return a1111_error(error, status=_NOT_IMPLEMENTED)


def _told_by(sent: str) -> bytes:
    items = texts_in(picture_bytes("image", sent))
    info = items.get("parameters", "")
    return json.dumps({"info": info, "items": items, "parameters": parameters_in(info)}).encode("ascii")


def _body(name: str, pictures: str | list[str]) -> bytes:
    return json.dumps({"html_info": "", name: pictures}).encode("ascii")


def _enlarged(given: Fields, sent: str, left: int) -> tuple[str, int]:
    """A picture as the fields ask for it, in base64, and its pixels; takes time.

    Args:
        given: The fields.
        sent: The picture as it came.
        left: Pixels that it may have.

    Raises:
        InvalidRequestError: They ask for what is not there, or for too large a picture.
        InputImageError: It cannot be read.
    """
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if given.number(name, 0, 1):
            raise given.wrong(name, "needs a model that this server has not")
    wanted = given.text("upscaler_1", "None")
    if wanted.lower() not in _FILTERS:
        raise given.wrong(
            "upscaler_1", "names an upscaler that this server has not", hint="Use Lanczos or Nearest."
        )
    picture = open_input(picture_bytes("image", sent), "image")
    picture = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    size = _size(given, picture)
    pixels = size[0] * size[1]
    if pixels > left:
        raise given.wrong(
            "upscaling_resize",
            f"asks for more than {SIZE_MAX} times {SIZE_MAX} pixels, all pictures together",
        )
    method = _FILTERS[wanted.lower()]
    if given.integer("resize_mode", 0, 1) and given.flag("upscaling_crop", default=True):
        return base64_text(png(ImageOps.fit(picture, size, method))), pixels
    return base64_text(png(picture.resize(size, method))), pixels


def _size(given: Fields, picture: Image.Image) -> tuple[int, int]:
    """Of the result: so many times larger, or a size that was named, into which it is fitted."""
    if not given.integer("resize_mode", 0, 1):
        factor = given.number("upscaling_resize", 0, _FACTOR_MAX) or 2.0
        return max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    width = given.integer("upscaling_resize_w", 1, SIZE_MAX) or picture.width
    height = given.integer("upscaling_resize_h", 1, SIZE_MAX) or picture.height
    if given.flag("upscaling_crop", default=True):
        return width, height
    factor = min(width / picture.width, height / picture.height)
    return max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
