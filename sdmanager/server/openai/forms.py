"""Forms with pictures, as the routes for edits and variations get them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.server.body import read_form
from sdmanager.server.requests import refuse_large_if_full

from .errors import invalid
from .order import from_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

_IMAGES: Final = ("image", "image[]")
_IMAGES_MAX: Final = 16  # what its clients may send


async def read_fields_and_pictures(
    request: web.Request, *, with_mask: bool
) -> tuple[dict[str, object], bytes, bytes | None]:
    """The fields of a form, the bytes of its image, and those of its mask, if there is one.

    What the files are called, and what type they are said to have, counts for nothing.

    Raises:
        InvalidRequestError: There is no image, or more than one; or it is no form.
        RefusedError: It is too large, or did not come in time.
        ServerBusyError: There is no place for it anyway; it is not read.
    """
    refuse_large_if_full(request)
    form = await read_form(request, image_fields=(*_IMAGES, "mask"), repeated=_IMAGES)
    image = _image(form)
    mask = form.pop("mask", None) if with_mask else None
    if mask is not None and not isinstance(mask, bytes):
        raise invalid("mask", "mask must be a file.", reason="invalid_type")
    return from_texts(form), image, mask


def _image(form: Mapping[str, object]) -> bytes:
    images = [part for name in _IMAGES for part in _listed(form.get(name))]
    if not images:
        raise invalid("image", "There is no image.", reason="missing_required_parameter")
    if len(images) > _IMAGES_MAX:
        raise invalid("image", f"There are more than {_IMAGES_MAX} images.")
    if len(images) > 1:
        raise invalid("image", "The engine starts from one image.", hint="Send one, and a mask if need be.")
    if not isinstance(images[0], bytes):
        raise invalid("image", "image must be a file.", reason="invalid_type")
    return images[0]


def _listed(parts: object) -> list[object]:
    return parts if isinstance(parts, list) else []
