"""Pictures on their way in and out: inputs fitted to the request, results checked before they count."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sdmanager.errors import (
    BlankImageError,
    InputImageError,
    NoImageError,
    StorageError,
    TruncatedImageError,
)
from sdmanager.generation import (
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    GeneratedImage,
    ImageData,
    PreviewFormat,
    eight_bits,
    turn_upright,
)
from sdmanager.threads import in_thread

from .png import is_whole_png, png_texts, replace_text

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.generation import ImageRequest

# Pillow warns at more and refuses at much more; here all of them are refused.
_PIXELS_MAX = 64 * 1024 * 1024

# Not all that Pillow knows: its EPS plugin runs Ghostscript on the input.
_INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_INIT = "init image"
_MASK = "mask image"

# Larger than any rounding up of a size by the engine (the largest multiple of a known family is 64).
_ALIGN_MAX = 64


async def check_input_images(request: ImageRequest) -> None:
    """See that the pictures that a request starts from can be read, before it is accepted.

    Raises:
        InputImageError: One is missing, unreadable, damaged, or has far too many pixels.

    One is decoded after the other, and only one is in memory. If cancelled, the one in hand is waited for.
    """
    for source, what in ((request.init_image, _INIT), (request.mask_image, _MASK)):
        if source is not None:
            await in_thread(_check_input, source, what)


def _check_input(source: Path | bytes, what: str) -> None:
    open_input(source, what)  # and let go of: a picture may take hundreds of megabytes


def open_input(source: Path | bytes, what: str) -> Image.Image:
    """A picture that the caller names, decoded whole and turned upright.

    Args:
        source: A file, or the bytes of one.
        what: What to call it in an error.

    Raises:
        InputImageError: It is missing, unreadable, damaged, or far too large.
    """
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=_INPUT_FORMATS
        ) as picture:
            if picture.width * picture.height > _PIXELS_MAX:
                raise Image.DecompressionBombError
            picture.load()
            turn_upright(picture)
            return eight_bits(picture)
    except FileNotFoundError:
        raise InputImageError(f"The {what} does not exist.", hint="Check the path.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputImageError(
            f"The {what} has too many pixels.",
            hint=f"Use one of at most {_PIXELS_MAX // 10**6} million pixels.",
        ) from None
    except (UnidentifiedImageError, SyntaxError, ValueError, NotImplementedError):
        raise InputImageError(
            f"The {what} is no image that can be read.", hint="Use a PNG, JPEG or WebP file."
        ) from None
    except OSError as exc:
        reason = exc.strerror or "it is damaged or cut short"
        raise InputImageError(f"The {what} cannot be read: {reason}.", hint="Use another file.") from exc
    except MemoryError:
        raise
    except Exception as exc:  # Pillow raises whatever it stumbles over: IndexError, KeyError, struct.error, …
        raise InputImageError(f"The {what} cannot be read: it is damaged.", hint="Use another file.") from exc


def natural_size(picture: Image.Image, width: int, height: int) -> tuple[int, int]:
    """The size to draw a variation of this picture at, where the caller names none.

    Args:
        picture: As opened.
        width: What the model draws by default, in pixels: the result has at most as many of them.
        height: Likewise.

    Returns:
        Width and height with the picture's own aspect ratio, as multiples of 8 within the limits of a request.
    """
    shrink = min(1.0, math.sqrt(width * height / (picture.width * picture.height)))

    def round_down(pixels: int) -> int:
        return min(max(int(pixels * shrink) // SIZE_MULTIPLE * SIZE_MULTIPLE, SIZE_MIN), SIZE_MAX)

    return round_down(picture.width), round_down(picture.height)


def fit_input(picture: Image.Image, width: int, height: int, *, mask: bool) -> bytes:
    """PNG bytes of the picture scaled and cropped from its centre to exactly this size.

    Args:
        picture: As opened.
        width: Pixels.
        height: Pixels.
        mask: Whether it is a mask: one channel, white marks what is redrawn.
    """
    mode = "L" if mask else "RGB"
    flat = picture if picture.mode == mode else picture.convert(mode)
    if flat.size != (width, height):
        flat = ImageOps.fit(flat, (width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    flat.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def fit_init_image(request: ImageRequest) -> tuple[ImageRequest, bytes]:
    """The init image at the size of the request, which is its own where the caller named none.

    Raises:
        InputImageError: As for ``open_input``.
    """
    assert request.init_image is not None  # noqa: S101 - the caller has checked
    picture = open_input(request.init_image, _INIT)
    if not request.model_fields_set & {"width", "height"}:
        width, height = natural_size(picture, request.width, request.height)
        request = request.model_copy(update={"width": width, "height": height})
    return request, fit_input(picture, request.width, request.height, mask=False)


def fit_mask_image(request: ImageRequest) -> bytes:
    """The mask at the size of the request.

    Raises:
        InputImageError: As for ``open_input``.
    """
    assert request.mask_image is not None  # noqa: S101 - the caller has checked
    return fit_input(open_input(request.mask_image, _MASK), request.width, request.height, mask=True)


def check_result(
    path: Path, width: int, height: int, seed: int, *, prompts: tuple[str, str] = ("", "")
) -> GeneratedImage:
    """A finished picture, once it has been seen to be one.

    The engine's own word is not enough: on a full disk it reports success, exits with 0 and leaves a
    cut file.

    Args:
        path: File that the engine wrote.
        width: Pixels asked for; the engine may round up to what the model can do, which is cropped again.
        height: Likewise.
        seed: Of this picture.
        prompts: The one that the engine was given, and the one to stand in the picture's ``parameters`` instead.

    Raises:
        NoImageError: There is no file.
        TruncatedImageError: It is empty, cut short, damaged or of another size.
        BlankImageError: All its pixels have one colour.
        StorageError: It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NoImageError("The engine reported success but wrote no image.") from None
    except OSError as exc:
        raise StorageError(f"The image cannot be read: {exc.strerror}.") from exc
    if not is_whole_png(data):
        raise TruncatedImageError(
            f"The engine reported success but its image is cut short ({len(data):,} bytes).",
            hint="Usually the disk is full: free some space and run again.",
            details={"bytes": len(data)},
        )
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, SyntaxError, ValueError) as exc:
        raise TruncatedImageError("The engine reported success but its image cannot be decoded.") from exc
    if _is_uniform(picture):
        raise BlankImageError("The engine drew an image of one single colour.")
    given, asked = prompts
    if given != asked:
        data = replace_text(data, _parameters(given), _parameters(asked))
    if picture.size != (width, height):
        data = _crop(data, picture, width, height)
    return GeneratedImage(data, seed, width, height)


def _parameters(prompt: str) -> bytes:
    """How the engine's text chunk begins; it writes UTF-8, whatever the standard says of this kind of chunk."""
    return b"parameters\0%s\n" % prompt.encode("utf-8", "surrogateescape")


def _is_uniform(picture: Image.Image) -> bool:
    return len(picture.convert("RGB").getcolors(1) or ()) == 1


def _crop(data: bytes, picture: Image.Image, width: int, height: int) -> bytes:
    surplus = picture.width - width, picture.height - height
    if not all(0 <= pixels < _ALIGN_MAX for pixels in surplus):
        raise TruncatedImageError(
            f"The image is {picture.width}x{picture.height} pixels instead of {width}x{height}.",
            details={"width": picture.width, "height": picture.height},
        )
    left, top = surplus[0] // 2, surplus[1] // 2
    kept = PngInfo()
    for keyword, text in (png_texts(data) or {}).items():  # Pillow would read the engine's UTF-8 as Latin-1
        kept.add_itxt(keyword, text)
    buffer = io.BytesIO()
    picture.crop((left, top, left + width, top + height)).save(buffer, "PNG", pnginfo=kept)
    return buffer.getvalue()


def encode_preview(data: bytes, image_format: PreviewFormat, max_size: int | None) -> ImageData:
    """A preview as the caller wants it.

    Args:
        data: A whole PNG.
        image_format: Encoding to give.
        max_size: Longest side in pixels, or None for what the engine drew.

    Raises:
        OSError: The picture cannot be decoded.
    """
    picture = Image.open(io.BytesIO(data))
    picture.load()
    size = picture.size
    if max_size is not None and max(size) > max_size:
        picture.thumbnail((max_size, max_size), Image.Resampling.BILINEAR)
    if image_format is not PreviewFormat.PNG or picture.size != size:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, image_format.value.upper(), quality=80)
        data = buffer.getvalue()
    return ImageData(data, image_format.value, *picture.size)
