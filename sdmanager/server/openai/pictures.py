"""Pictures as this API has them: encoded as asked, on their way at full size, with masks in the alpha channel.

Everything here takes its time, and belongs into a thread.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageOps

from sdmanager.engine.images import open_input
from sdmanager.errors import InputImageError

from .errors import invalid

if TYPE_CHECKING:
    from sdmanager.generation import GeneratedImage, ImageData

    from .order import Output

_QUALITY: Final = 95  # as for files; more makes them larger and hardly better

# A picture on its way is soon replaced: small enough, and quick.
_COMPRESS_LEVEL: Final = 1


def final_picture(image: GeneratedImage, output: Output) -> bytes:
    """A finished picture, encoded; a PNG is the engine's own file, with its settings in it.

    Raises:
        StorageError: The file is not there any more.
    """
    if output.format == "png":
        return image.png
    return _encoded(image.to_pil(), output)


def partial_picture(preview: ImageData, size: tuple[int, int], output: Output) -> bytes:
    """A picture on its way at the size of the finished one: the engine shows it much smaller.

    Args:
        preview: As the engine shows it.
        size: Width and height in pixels.
        output: How to encode it.
    """
    if (preview.format, preview.width, preview.height) == (output.format, *size) == ("png", *size):
        return preview.data
    picture = Image.open(io.BytesIO(preview.data)).convert("RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return _encoded(picture, output)


def _encoded(picture: Image.Image, output: Output) -> bytes:
    buffer = io.BytesIO()
    if output.format == "png":
        picture.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
    else:
        quality = _QUALITY if output.quality is None else output.quality
        picture.convert("RGB").save(buffer, output.format, quality=quality)
    return buffer.getvalue()


def input_fields(image: bytes, mask: bytes | None) -> tuple[dict[str, object], Image.Image]:
    """Fields of the native API for the pictures that a client sends, and the picture to start from, opened.

    In a mask of this API, what is transparent is redrawn; in ours, what is white. A mask that is nowhere transparent
    is taken for one of ours, and a picture that is transparent somewhere and has no mask is its own.

    Args:
        image: The bytes of an image file.
        mask: Likewise, or None.

    Raises:
        InputImageError: One cannot be read.
        InvalidRequestError: They differ in size.
    """
    picture = _opened(image, "image")
    fields: dict[str, object] = {"initImage": image}
    alpha = _alpha(picture)
    if mask is not None:
        drawn = _opened(mask, "mask")
        if drawn.size != picture.size:
            raise invalid(
                "mask", f"The mask has {_pixels(drawn)} pixels, and the image {_pixels(picture)}.",
                hint="Send a mask of the same size.",
            )  # fmt: skip
        alpha = _alpha(drawn)
        white = drawn.convert("L") if alpha is None else ImageOps.invert(alpha)
        fields["maskImage"] = _png(white)
    elif alpha is not None:
        fields["maskImage"] = _png(ImageOps.invert(alpha))
    return fields, picture


def _opened(data: bytes, param: str) -> Image.Image:
    try:
        return open_input(data, param)
    except InputImageError as exc:
        exc.details["param"] = param
        raise


def _alpha(picture: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, where any is not."""
    if not picture.has_transparency_data:
        return None
    alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _pixels(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
    return buffer.getvalue()
