"""A request as the body that a server takes."""

from __future__ import annotations

import base64
import re
import secrets
from typing import TYPE_CHECKING, Final

from pydantic.alias_generators import to_camel

from sdmanager.errors import BodyTooLargeError, InputImageError, InvalidRequestError
from sdmanager.generation import Lora, PreviewOptions

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.generation import ImageRequest

_PICTURES: Final = {"init_image": "init image", "mask_image": "mask image"}
# In base64 a third is added, and a server takes 64 MiB.
_PICTURES_MAX: Final = 47 << 20
_KEY: Final = re.compile(r"[!-~]{1,255}")


def body_of(request: ImageRequest) -> dict[str, object]:
    """The fields that the caller set, by their names on the wire; pictures are read here, and go along.

    What was left out stays out, so that the model's own defaults take its place.

    Raises:
        InputImageError: A picture cannot be read.
        BodyTooLargeError: The pictures are larger than a server takes.
    """
    body: dict[str, object] = {}
    size = 0
    for name in type(request).model_fields.keys() & request.model_fields_set:
        value = getattr(request, name)
        if value is None:
            continue
        if name in _PICTURES:
            data = _read(value, _PICTURES[name])
            size += len(data)
            value = base64.b64encode(data).decode("ascii")
        elif isinstance(value, PreviewOptions):
            value = value.model_dump(by_alias=True, exclude_none=True)
        elif isinstance(value, tuple):
            value = [each.model_dump(by_alias=True) for each in value if isinstance(each, Lora)]
        body[to_camel(name)] = value
    if size > _PICTURES_MAX:
        raise BodyTooLargeError(
            f"The input images are larger than {_PICTURES_MAX >> 20} MiB together.", hint="Scale them down."
        )
    return body


def checked_key(key: str | None) -> str:
    """A key that names a request, so that it can be sent again; one that is new where none is given.

    Raises:
        InvalidRequestError: It is none that a server takes.
    """
    if key is None:
        return secrets.token_hex(16)
    if not _KEY.fullmatch(key):
        raise InvalidRequestError("An idempotency key is 1 to 255 visible ASCII characters, without spaces.")
    return key


def _read(source: bytes | Path, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise InputImageError(f"The {what} does not exist.", hint="Check the path.") from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "its path is none"
        raise InputImageError(f"The {what} cannot be read: {reason}.", hint="Use another file.") from exc
