"""From a request with fields, in JSON or a form, to a generation. A client gives pictures, never paths."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InputImageError, InvalidRequestError
from sdmanager.generation import ImageRequest, Lora, PreviewOptions
from sdmanager.threads import in_thread

from .body import JSON_MAX, parsed, read_form, read_json
from .face import FACE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web
    from pydantic import BaseModel

    from sdmanager.jobs import Generation

    from .face import Face

PICTURES: Final = ("initImage", "maskImage")

# One of a few words, or names: an empty text is none of them.
_CHOICES: Final = frozenset({"preset", "modelId"})
_TEXTS: Final = frozenset({"operation", "prompt", "negativePrompt", "sampler", "scheduler", *PICTURES})
_FIELDS: Final = frozenset(field.alias for field in ImageRequest.model_fields.values())
_DATA_URL: Final = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_NAME_MAX: Final = 40

_PICTURE_HINT: Final = "Send the picture itself: base64, a data URL, or a file in a form."
_KEY_HINT: Final = "Use 1 to 255 visible ASCII characters, such as a UUID."


async def read_fields(request: web.Request) -> dict[str, object]:
    """The fields of a body in JSON, or of a form.

    Raises:
        ServerBusyError: The body is large, and there is no place for it anyway; it is not read.
        ServerNotRunningError: Likewise, because the server stops.
        InvalidRequestError: The body is not what its content type says.
        RefusedError: It is too large, or did not come in time.
    """
    refuse_large_if_full(request)
    if request.content_type == "multipart/form-data":
        return form_fields(await read_form(request))
    return await read_json(request)


def refuse_large_if_full(request: web.Request) -> None:
    """Refuse a large body, before it is read, where there is no place for what it asks for.

    Raises:
        ServerBusyError: There is none.
        ServerNotRunningError: Likewise, because the server stops.
        InvalidRequestError: The ``Idempotency-Key`` is none.
    """
    if request.content_length is None or request.content_length > JSON_MAX:
        request.app[FACE].service.refuse_if_full(_key(request))


def is_repeated(request: web.Request) -> bool:
    """Whether its ``Idempotency-Key`` is known: what it asks for was accepted before.

    Raises:
        InvalidRequestError: The key is none.
    """
    return _is_known(request.app[FACE], _key(request))


async def submit(request: web.Request, fields: Mapping[str, object]) -> tuple[Generation, bool]:
    """Have drawn what the fields ask for; see ``accept``, and ``image_request`` for what it raises besides."""
    with_pictures = any(fields.get(name) is not None for name in PICTURES)
    return await accept(request, lambda: image_request(fields), with_pictures=with_pictures)


async def accept(
    request: web.Request, build: Callable[[], ImageRequest], *, with_pictures: bool
) -> tuple[Generation, bool]:
    """Take what a request asks for; it is checked first, and the pictures in it are decoded for that.

    Args:
        request: Of any API; its ``Idempotency-Key`` counts.
        build: Makes the request to draw; in a thread, one at a time, where there are pictures.
        with_pictures: Whether there are input images.

    Returns:
        The generation, and whether the same request with the same ``Idempotency-Key`` made it before.

    Raises:
        SDManagerError: It is not accepted: see ``Face.check`` and ``GenerationService.submit``; or what ``build``
            raises.

    Cancelling it while it waits for others, whose pictures are decoded, ends it at once.
    """
    face, key = request.app[FACE], _key(request)
    if with_pictures:
        async with face.decoding:
            face.service.refuse_if_full(key)
            wanted = await in_thread(build)
            await _check(face, wanted, key)
    else:
        wanted = build()
        face.service.refuse_if_full(key)
        await _check(face, wanted, key)
    replayed = _is_known(face, key)
    return face.service.submit(wanted, key=key), replayed


async def _check(face: Face, wanted: ImageRequest, key: str | None) -> None:
    # What was accepted once is answered again, also where a LoRA is not there any more.
    if not _is_known(face, key):
        await face.check(wanted)


def _is_known(face: Face, key: str | None) -> bool:
    return key is not None and face.service.registry.find_key(key) is not None


def _key(request: web.Request) -> str | None:
    return idempotency_key(request.headers.getall("Idempotency-Key", []))


def image_request(fields: Mapping[str, object]) -> ImageRequest:
    """What the fields ask for.

    Args:
        fields: By their names on the wire; null is the same as absent. Pictures are base64, data URLs, or bytes.

    Raises:
        InvalidRequestError: A field is unknown, missing, of the wrong type or out of range.
        InputImageError: A picture is no base64, or empty.
    """
    given = _checked(fields, ImageRequest)
    for name in PICTURES:
        if name in given:
            given[name] = picture_bytes(name, given[name])
    if "maskImage" in given and "initImage" not in given:
        raise InvalidRequestError("maskImage needs initImage: there is nothing to redraw.")
    if "strength" in given and "initImage" not in given:
        raise InvalidRequestError("strength needs initImage: it says how far to go from it.")
    if "previews" in given:
        given["previews"] = _checked(
            _object(given["previews"], "previews", PreviewOptions), PreviewOptions, "previews."
        )
    if "loras" in given:
        loras = given["loras"]
        if not isinstance(loras, list):
            raise InvalidRequestError("loras must be a list of objects.", hint="Each has name and weight.")
        given["loras"] = [_checked(_object(lora, "loras", Lora), Lora, "loras.") for lora in loras]
    return ImageRequest.model_validate(given)


def form_fields(parts: Mapping[str, object]) -> dict[str, object]:
    """The parts of a form as the fields of a JSON body: numbers and objects are read from their text.

    An empty text is absent where the field takes no text: so a page sends a field that was not filled in.

    Args:
        parts: File parts as bytes, text parts as strings.

    Raises:
        InvalidRequestError: A part is not what its field takes.
    """
    fields: dict[str, object] = {}
    for name, part in parts.items():
        if isinstance(part, bytes) and name not in PICTURES and name in _FIELDS:
            raise InvalidRequestError(f"{_short(name)} is no picture: send it as text, not as a file.")
        if name in _TEXTS or name not in _FIELDS or not isinstance(part, str):
            fields[name] = part
        elif part:
            fields[name] = part if name in _CHOICES else _json(name, part)
    return fields


def idempotency_key(values: list[str]) -> str | None:
    """The key of a request, from all its headers of that name.

    Raises:
        InvalidRequestError: There are several, or it is empty, too long, or not visible ASCII.
    """
    if not values:
        return None
    key = values[0]
    if len(values) > 1 or not 1 <= len(key) <= 255 or not all("!" <= char <= "~" for char in key):
        raise InvalidRequestError("The Idempotency-Key header is not one that is taken.", hint=_KEY_HINT)
    return key


def _checked(fields: Mapping[str, object], model: type[BaseModel], where: str = "") -> dict[str, object]:
    """The fields that say something, each known to the model."""
    known = {field.alias or "" for field in model.model_fields.values()}
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name.replace("_", ""), known, n=1, cutoff=0.5)
            raise InvalidRequestError(
                f"There is no field named {_short(where + name)}.",
                hint=f"Did you mean {where + close[0]!r}?"
                if close
                else f"There are: {', '.join(sorted(known))}.",
                details={"fields": [f"{where}{name}"]},
            )
    return given


def _object(value: object, name: str, model: type[BaseModel]) -> dict[str, object]:
    if not isinstance(value, dict):
        known = ", ".join(field.alias or "" for field in model.model_fields.values())
        raise InvalidRequestError(f"{name} must be an object.", hint=f"Its fields are: {known}.")
    return value


def picture_bytes(name: str, value: object) -> bytes:
    """A picture as a client sends it: bytes, base64 or a data URL.

    Args:
        name: What the client calls it, for errors.
        value: What it sent.

    Raises:
        InputImageError: It is no base64, or empty.
    """
    if isinstance(value, bytes):
        data = value
    elif isinstance(value, str):
        prefix = _DATA_URL.match(value)
        try:
            data = base64.b64decode(value[prefix.end() if prefix else 0 :], validate=True)
        except (binascii.Error, ValueError):
            raise InputImageError(f"{name} is no valid base64.", hint=_PICTURE_HINT) from None
    else:
        raise InputImageError(f"{name} must be a string.", hint=_PICTURE_HINT)
    if not data:
        raise InputImageError(f"{name} is empty.", hint=_PICTURE_HINT)
    return data


def _json(name: str, text: str) -> object:
    try:
        return parsed(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"{_short(name)} must be a number or JSON, without keys that stand twice."
        ) from None


def _short(name: str) -> str:
    """A name that a client chose, fit for a message."""
    return repr(name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}…")
