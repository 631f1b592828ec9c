"""Pictures as this API has them: fitted as clients ask, and back with the text that is in them."""

from __future__ import annotations

import io
import logging
import re
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageFilter, ImageOps

from sdmanager.engine.images import open_input
from sdmanager.engine.png import is_whole_png, png_texts
from sdmanager.errors import InputImageError
from sdmanager.server.requests import picture_bytes

from .asked import ResizeMode

if TYPE_CHECKING:
    from sdmanager.generation import ImageData

    from .asked import Inputs

_log = logging.getLogger("sdmanager.server")

_OPAQUE: Final = 255
_HALF: Final = 128
_LATENT_PIXELS: Final = 8

# With an end to a name: a line without a colon is searched from each of its letters.
_PARAMETER: Final = re.compile(r'(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_PARAMETERS_MAX: Final = 100
_LINE_MAX: Final = 64 << 10


def fitted_inputs(inputs: Inputs, size: tuple[int, int] | None) -> tuple[bytes, bytes | None]:
    """The picture to start from and the mask, as files; takes time.

    Args:
        inputs: As they came.
        size: To fit them to; None: their own, and the picture that is drawn is fitted to them.

    Raises:
        InputImageError: One of them is no picture that can be read.
    """
    data = picture_bytes("init_images", inputs.init)
    picture = open_input(data, "init image")
    flat = _on_white(picture)
    if inputs.resize is ResizeMode.CROP:  # which is done to all input images
        size = None
    if size is not None and flat.size != size:
        flat = resized(flat.convert("RGB"), size, inputs.resize)
    if flat is not picture:
        data = png(flat)
    if inputs.mask is None:
        return data, None
    mask = _mask(open_input(picture_bytes("mask", inputs.mask), "mask image"))
    if inputs.invert:
        mask = ImageOps.invert(mask)
    if size is not None and mask.size != size:
        mask = resized(mask, size, inputs.resize)
    if inputs.blur:
        mask = mask.filter(ImageFilter.GaussianBlur(inputs.blur))
    return data, png(mask)


def _on_white(picture: Image.Image) -> Image.Image:
    """The same without transparency, as AUTOMATIC1111 shows it; itself where it has none."""
    if not picture.has_transparency_data:
        return picture
    whole = Image.new("RGBA", picture.size, "white")
    whole.alpha_composite(picture.convert("RGBA"))
    return whole.convert("RGB")


def _mask(picture: Image.Image) -> Image.Image:
    """One channel; of a picture that is transparent in places, what is not."""
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("RGBA", "LA"):
        alpha = picture.getchannel("A")
        if alpha.getextrema() != (_OPAQUE, _OPAQUE):
            return alpha.point(lambda value: _OPAQUE if value > _HALF else 0)
    return picture.convert("L")


def resized(picture: Image.Image, size: tuple[int, int], mode: ResizeMode) -> Image.Image:
    """The picture at exactly this size."""
    match mode:
        case ResizeMode.STRETCH:
            return picture.resize(size, Image.Resampling.LANCZOS)
        case ResizeMode.CROP:
            return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        case ResizeMode.FILL:
            shrink = min(size[0] / picture.width, size[1] / picture.height)
            inner = max(round(picture.width * shrink), 1), max(round(picture.height * shrink), 1)
            return _filled(picture.resize(inner, Image.Resampling.LANCZOS), size)


def _filled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in the middle of this size, its outermost lines drawn out to the edges."""
    width, height = picture.size
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    right, bottom = size[0] - width - left, size[1] - height - top
    whole = Image.new(picture.mode, size)
    whole.paste(picture, (left, top))
    edges = (
        ((0, 0, 1, height), (left, height), (0, top)),
        ((width - 1, 0, width, height), (right, height), (left + width, top)),
        ((0, 0, width, 1), (width, top), (left, 0)),
        ((0, height - 1, width, height), (width, bottom), (left, top + height)),
    )
    for line, extent, place in edges:
        if all(extent):
            whole.paste(picture.crop(line).resize(extent), place)
    return whole


def latent_size(preview: ImageData) -> tuple[int, int]:
    """Of the picture that a preview of one pixel for each of the latent's belongs to, in pixels."""
    return preview.width * _LATENT_PIXELS, preview.height * _LATENT_PIXELS


def as_it_stands(preview: ImageData, size: tuple[int, int]) -> bytes | None:
    """A preview as a picture of this size; None: it cannot be read."""
    picture = _read(preview)
    return png(picture.resize(size, Image.Resampling.BILINEAR)) if picture is not None else None


def preview_png(preview: ImageData) -> bytes | None:
    """A preview as PNG; None: it cannot be read."""
    if preview.format == "png":
        return preview.data if is_whole_png(preview.data) else None
    picture = _read(preview)
    return png(picture) if picture is not None else None


def _read(preview: ImageData) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(preview.data)).convert("RGB")
    except (OSError, SyntaxError, ValueError) as exc:  # a preview never breaks an answer
        _log.debug("a preview cannot be read: %r", exc)
        return None


def png(picture: Image.Image) -> bytes:
    """The file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def texts_in(data: bytes) -> dict[str, str]:
    """The texts in a picture, by their names; the settings that it was drawn with are ``parameters``.

    No picture is decoded for that: a small file may hold far more pixels than there is memory for.

    Raises:
        InputImageError: It is no picture that can be read.
    """
    texts = png_texts(data)
    if texts is not None:
        return texts
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "GIF")) as picture:
            return {str(name): str(value) for name, value in picture.info.items() if isinstance(value, str)}
    except MemoryError:
        raise
    except Exception as exc:  # Pillow raises whatever it stumbles over
        raise InputImageError("image is no picture that can be read.", details={"fields": ["image"]}) from exc


def parameters_in(infotext: str) -> dict[str, str]:
    """The settings that such a text tells, by the names that stand in it."""
    head, separator, last = infotext.strip().rpartition("\nSteps: ")
    if not separator:
        return {"Prompt": infotext.strip()} if infotext.strip() else {}
    prompt, _, negative = head.partition("\nNegative prompt: ")
    if head.startswith("Negative prompt: "):
        prompt, negative = "", head.removeprefix("Negative prompt: ")
    found = {"Prompt": prompt.strip(), "Negative prompt": negative.strip()}
    for number, match in enumerate(_PARAMETER.finditer(f"Steps: {last[:_LINE_MAX]}")):
        if number == _PARAMETERS_MAX:
            break
        found.setdefault(match[1], match[2].strip('" '))
    return found
