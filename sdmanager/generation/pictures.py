"""Pictures of others, as they were meant to be seen."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL import Image

_LOG: Final = logging.getLogger("sdmanager.generation")


def turn_upright(picture: Image.Image) -> None:
    """Turn it as its EXIF data say; as it is where they are damaged, which is no reason to refuse a picture."""
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(picture, in_place=True)  # a copy would take as much memory again
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - Pillow raises whatever it stumbles over: struct.error, KeyError, …
        _LOG.debug("The EXIF data of a picture are damaged: %s.", type(exc).__name__)


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in a mode that converts well: Pillow clips 16 bits to 8 instead of scaling them."""
    if picture.mode.startswith("I"):
        wide = picture.convert("I")
        # "I" has 32 bits, of which older versions of Pillow use 16 for a PNG.
        scaled = picture.mode != "I" or _brightest(wide) > 255
        narrow = (wide.point(lambda value: value / 257) if scaled else wide).convert("L")
        narrow.info.pop("transparency", None)  # a value of 16 bits
        return narrow
    return picture.convert("RGB") if picture.mode == "LAB" else picture


def _brightest(picture: Image.Image) -> float:
    top = picture.getextrema()[1]
    return top if isinstance(top, int | float) else 0.0
