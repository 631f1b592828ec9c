"""Pictures to and from a service: decoded whole, in plain formats, with a limit."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Final

from sdmanager.errors import CloudError, InputImageError
from sdmanager.generation import GeneratedImage, eight_bits, turn_upright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

_PIXELS_MAX: Final = 64 * 1024 * 1024

# Not all that Pillow knows: its EPS plugin runs Ghostscript.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_KEPT_MODES: Final = frozenset({"RGB", "RGBA", "L"})
# Where an ICC profile says what kind of colours it is for, and what it says.
_PROFILE_SPACE: Final = slice(16, 20)
_SPACE_OF_MODE: Final = {"L": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
_QUALITY: Final = 95


class _NoPictureError(Exception):
    """What is wrong with bytes that should be a picture."""


def decoded(answer: Image.Image, seed: int) -> GeneratedImage:
    """The picture that a service answered with, which Pillow has so far only looked at.

    Raises:
        CloudError: It is broken, cut short, of an unusual format, or has far too many pixels.
    """
    try:
        with _explained():
            picture = _seen(answer)
            if picture.mode not in _KEPT_MODES:
                picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            buffer = io.BytesIO()
            # What the service wrote into the file besides the picture is not kept.
            picture.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=_profile_of(picture))
    except _NoPictureError as exc:
        raise CloudError(f"The service answered with a picture that {exc}.", hint="Try again.") from None
    return GeneratedImage(buffer.getvalue(), seed, picture.width, picture.height)


def encoded(source: Path | bytes) -> bytes:
    """A picture to start from, as the JPEG file that services are told it is.

    Raises:
        InputImageError: It is missing, unreadable, damaged, or has far too many pixels.
    """
    from PIL import Image

    try:
        with (
            _explained(),
            Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS
            ) as picture,
        ):
            buffer = io.BytesIO()
            _seen(picture).convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    except FileNotFoundError:
        raise InputImageError("The init image does not exist.", hint="Check the path.") from None
    except _NoPictureError as exc:
        raise InputImageError(f"The init image {exc}.", hint="Use a PNG, JPEG or WebP file.") from None
    return buffer.getvalue()


def _seen(picture: Image.Image) -> Image.Image:
    """The picture as it was meant to be seen."""
    if picture.format not in _FORMATS:
        raise _NoPictureError(f"has the format {picture.format}, which is not taken")
    if picture.width * picture.height > _PIXELS_MAX:
        raise _NoPictureError("has too many pixels")
    picture.load()
    turn_upright(picture)
    return eight_bits(picture)


def _profile_of(picture: Image.Image) -> bytes | None:
    """Its ICC profile, unless that is for what it was before it was converted, such as CMYK."""
    profile = picture.info.get("icc_profile")
    known = isinstance(profile, bytes) and profile[_PROFILE_SPACE] == _SPACE_OF_MODE[picture.mode]
    return profile if known else None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (FileNotFoundError, MemoryError, _NoPictureError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _NoPictureError("has too many pixels") from None
    except UnidentifiedImageError:
        raise _NoPictureError("is no image that can be read") from None
    except OSError as exc:
        raise _NoPictureError(f"cannot be read: {exc.strerror or 'it is damaged or cut short'}") from None
    except Exception:  # noqa: BLE001 - Pillow raises whatever it stumbles over: struct.error, IndexError, …
        raise _NoPictureError("is damaged") from None
