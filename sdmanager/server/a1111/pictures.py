"""Pictures as this API has them: fitted as clients ask, and back with the text that is in them."""

from __future__ import annotations

import base64
import io
import re
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageFilter, ImageOps

from sdmanager.engine.images import open_input
from sdmanager.errors import InputImageError
from sdmanager.server.requests import picture_bytes

from .asked import ResizeMode

if TYPE_CHECKING:
    from sdmanager.generation import ImageData

    from .asked import Inputs

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
    if (
        size is not None and inputs.resize is not ResizeMode.CROP
    ):  # cropping is what is done to all input images
        picture = open_input(data, "init image")
        if picture.size != size:
            data = png(resized(picture.convert("RGB"), size, inputs.resize))
    if inputs.mask is None:
        return data, None
    mask = _mask(open_input(picture_bytes("mask", inputs.mask), "mask image"))
    if inputs.invert:
        mask = ImageOps.invert(mask)
    if size is not None and inputs.resize is not ResizeMode.CROP and mask.size != size:
        mask = resized(mask, size, inputs.resize)
    if inputs.blur:
        mask = mask.filter(ImageFilter.GaussianBlur(inputs.blur))
    return data, png(mask)


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


def as_it_stands(preview: bytes, size: tuple[int, int]) -> bytes:
    """A preview as a picture of this size."""
    picture = Image.open(io.BytesIO(preview)).convert("RGB")
    return png(picture.resize(size, Image.Resampling.BILINEAR))


def to_png(data: bytes) -> bytes:
    """A picture of ours in another format as PNG."""
    return png(Image.open(io.BytesIO(data)).convert("RGB"))


def png(picture: Image.Image) -> bytes:
    """The file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def text(data: bytes) -> str:
    """As it goes into JSON: base64, with nothing before it."""
    return base64.b64encode(data).decode("ascii")


def texts_in(data: bytes) -> dict[str, str]:
    """The texts in a picture, by their names; the settings that it was drawn with are ``parameters``.

    Raises:
        InputImageError: It is no picture that can be read.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as picture:
            if picture.format == "PNG" and "parameters" not in picture.info:
                picture.load()  # it may stand behind the pixels
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
