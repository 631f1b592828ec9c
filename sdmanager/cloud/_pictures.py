"""Pictures to and from a service: decoded whole, in plain formats, with a limit."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING, Final

from sdmanager.errors import CloudError, InputImageError
from sdmanager.generation import GeneratedImage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

_PIXELS_MAX: Final = 64 * 1024 * 1024

# Not all that Pillow knows: its EPS plugin runs Ghostscript.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_KEPT_MODES: Final = frozenset({"RGB", "RGBA", "L"})
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
            picture = _loaded(answer)
            if picture.mode not in _KEPT_MODES:
                picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            buffer = io.BytesIO()
            # What the service wrote into the file besides the picture is not kept.
            picture.save(
                buffer, "PNG", compress_level=1, exif=b"", icc_profile=picture.info.get("icc_profile")
            )
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
            upright = _upright(_loaded(picture))
            if upright.mode.startswith("I"):  # Pillow clips 16 bits to 8 instead of scaling them
                upright = upright.convert("I").point(lambda value: value / 257)
            buffer = io.BytesIO()
            upright.convert("RGB").save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    except FileNotFoundError:
        raise InputImageError("The init image does not exist.", hint="Check the path.") from None
    except _NoPictureError as exc:
        raise InputImageError(f"The init image {exc}.", hint="Use a PNG, JPEG or WebP file.") from None
    return buffer.getvalue()


def _loaded(picture: Image.Image) -> Image.Image:
    if picture.format not in _FORMATS:
        raise _NoPictureError(f"has the format {picture.format}, which is not taken")
    if picture.width * picture.height > _PIXELS_MAX:
        raise _NoPictureError("has too many pixels")
    picture.load()
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    from PIL import ImageOps

    # Damaged EXIF data are no reason to refuse a picture; Pillow raises whatever it stumbles over in them.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, SyntaxError, struct.error):
        return ImageOps.exif_transpose(picture)
    return picture


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _NoPictureError("has too many pixels") from None
    except UnidentifiedImageError:
        raise _NoPictureError("is no image that can be read") from None
    except OSError as exc:
        raise _NoPictureError(f"cannot be read: {exc.strerror or 'it is damaged or cut short'}") from None
    except (SyntaxError, ValueError, NotImplementedError, struct.error):
        raise _NoPictureError("is damaged") from None
