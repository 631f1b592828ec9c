"""What this API says of pictures: in one answer, and event by event. Takes its time where it encodes pictures."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from sdmanager.server.wire import base64_text

from .pictures import final_picture, partial_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import GenerationResult, ImageData

    from .order import Order

# Nothing is counted here, and some clients insist on the figures.
_USAGE: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def whole_answer(result: GenerationResult, order: Order) -> bytes:
    """The answer with all pictures. Never with a URL, which some clients would prefer, and could not fetch.

    Raises:
        StorageError: A picture is not there any more.
    """
    first = result.image
    body = {
        "created": int(time.time()),
        **_common(order, (first.width, first.height)),
        "data": [
            {"b64_json": base64_text(final_picture(image, order.output)), "seed": image.seed}
            for image in result.images
        ],
        "usage": _USAGE,
    }
    return json.dumps(body).encode("ascii")


def partial_event(order: Order, preview: ImageData, size: tuple[int, int], which: Mapping[str, int]) -> bytes:
    """A picture on its way.

    Args:
        order: Whose.
        preview: As the engine shows it.
        size: Of the finished picture, in pixels.
        which: The indexes of the partial image, and of the image where there are several.
    """
    return _event(order, "partial_image", partial_picture(preview, size, order.output), size, which)


def completed_event(order: Order, result: GenerationResult, index: int) -> bytes:
    """A finished picture.

    Raises:
        StorageError: It is not there any more.
    """
    image = result.images[index]
    more: dict[str, object] = {"usage": _USAGE, "seed": image.seed}
    if len(result.images) > 1:
        more["image_index"] = index
    return _event(order, "completed", final_picture(image, order.output), (image.width, image.height), more)


def frame(data: Mapping[str, object]) -> bytes:
    """One event of a stream.

    Data alone, without a name before it, which is within: older SDKs hand out both wrapped where there is one. And
    never with an id or a time to come back after, with which others cannot read the heartbeats.
    """
    return b"data: " + json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n\n"


def _event(
    order: Order, name: str, picture: bytes, size: tuple[int, int], more: Mapping[str, object]
) -> bytes:
    return frame(
        {
            "type": f"{order.operation.value}.{name}",
            "b64_json": base64_text(picture),
            "created_at": int(time.time()),
            **_common(order, size),
            **more,
        }
    )


def _common(order: Order, size: tuple[int, int]) -> dict[str, object]:
    return {
        "size": f"{size[0]}x{size[1]}",
        "quality": order.quality,
        "background": "opaque",
        "output_format": order.output.format,
    }
