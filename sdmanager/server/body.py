"""Bodies of requests: read with limits of size and time, and parsed without guessing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, TypeVar, cast

from aiohttp import BodyPartReader, MultipartReader, hdrs, http_exceptions, web

from sdmanager.errors import BodyTimeoutError, BodyTooLargeError, InvalidRequestError, MediaTypeError
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Coroutine

    from aiohttp import StreamReader

_T = TypeVar("_T")

JSON_MAX = 1 << 20
BODY_MAX = 64 << 20
BODY_SECONDS = 30.0
STALL_SECONDS = 10.0

_IMAGE_FIELDS = ("initImage", "maskImage")
_PARTS_MAX = 100
_CHUNK = 64 << 10
_THREAD_ABOVE = 128 << 10
_PLAIN_ENCODINGS = ("", "binary", "8bit", "7bit")


async def read_json(
    request: web.BaseRequest,
    *,
    limit: int = JSON_MAX,
    image_limit: int = BODY_MAX,
    image_fields: Collection[str] = _IMAGE_FIELDS,
    image_trees: Collection[str] = (),
    seconds: float = BODY_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> dict[str, object]:
    """The JSON object that a request carries. Cancelling it leaves the rest of the body unread.

    Args:
        request: Its body must not have been read.
        limit: Bytes of the body, texts under ``image_fields`` and what stands under ``image_trees`` not counted.
        image_limit: Bytes of the whole body.
        image_fields: Keys of the object that may hold images.
        image_trees: Keys that may hold lists or objects with images somewhere in them.
        seconds: For the whole body.
        stall_seconds: Between two pieces of it.

    Raises:
        InvalidRequestError: It is no JSON object in UTF-8, or has a key twice, a number that JSON has not, or half a
            surrogate pair; or the connection sent something else than it announced.
        BodyTooLargeError: It is larger than the limits.
        BodyTimeoutError: It did not come in time.
        MediaTypeError: It is compressed.
    """
    data = bytearray()
    async with _reading(request, image_limit, seconds):
        while piece := await _in_time(request.content.readany(), stall_seconds):
            data += piece
            if len(data) > image_limit:
                raise _too_large(image_limit)
    if len(data) <= _THREAD_ABOVE:
        return _parsed_body(data, limit, image_fields, image_trees)
    return await in_thread(_parsed_body, data, limit, image_fields, image_trees)


async def read_form(
    request: web.BaseRequest,
    *,
    limit: int = BODY_MAX,
    text_limit: int = JSON_MAX,
    image_fields: Collection[str] = _IMAGE_FIELDS,
    repeated: Collection[str] = (),
    seconds: float = BODY_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> dict[str, object]:
    """The parts of a ``multipart/form-data`` body: bytes of files and str of texts, under their names.

    Args:
        request: Its body must not have been read.
        limit: Bytes of the whole body.
        text_limit: Bytes of all texts together, those under ``image_fields`` not counted.
        image_fields: Names of parts that may hold images, also as texts in base64.
        repeated: Names that parts may share; under each stands the list of its parts, in their order.
        seconds: For the whole body.
        stall_seconds: Between two pieces of it.

    Raises:
        InvalidRequestError: It is no form, a part has no name or one that another has, or a text is not UTF-8.
        BodyTooLargeError: It is larger than the limits.
        BodyTimeoutError: It did not come in time.
        MediaTypeError: It is no form, or compressed.
    """
    if request.content_type != "multipart/form-data":
        raise MediaTypeError("The body of the request is no form.")
    form: dict[str, object] = {}
    lists: dict[str, list[str | bytes]] = {}
    text_left, count = text_limit, 0
    async with _reading(request, limit, seconds):
        reader = MultipartReader(request.headers, cast("StreamReader", _Limited(request.content, limit)))
        while part := await _in_time(reader.next(), stall_seconds):
            if not isinstance(part, BodyPartReader) or not part.name:
                raise InvalidRequestError("A part of the form has no name, or parts of its own.")
            count += 1
            if part.name in form or count > _PARTS_MAX:
                raise InvalidRequestError("The form has a part twice, or too many parts.")
            if part.headers.get("Content-Transfer-Encoding", "").lower() not in _PLAIN_ENCODINGS:
                raise InvalidRequestError(
                    "A part of the form is encoded.", hint="Send its bytes as they are."
                )
            is_text = part.filename is None
            is_counted = is_text and part.name not in image_fields
            data = bytearray()
            while not part.at_eof():
                data += await _in_time(part.read_chunk(_CHUNK), stall_seconds)
                if is_counted and len(data) > text_left:
                    raise _too_large(text_limit)
            if is_counted:
                text_left -= len(data)
            value = data.decode() if is_text else bytes(data)
            if part.name in repeated:
                lists.setdefault(part.name, []).append(value)
            else:
                form[part.name] = value
    return form | lists


def parsed(text: str) -> object:
    """What JSON means, without guessing.

    Raises:
        ValueError: It is no JSON, or has a key twice, a number that JSON has not, or half a surrogate pair.
        RecursionError: It is too deep.
    """
    value: object = json.loads(
        text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite_number
    )
    # Half a surrogate pair has no UTF-8, and would fail wherever it is written.
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


class _Limited:
    """A stream that cannot be used any more once it has brought too much.

    The parts of a form do not tell: what stands before and between them is read without them.
    """

    def __init__(self, content: StreamReader, limit: int) -> None:
        self._content = content
        self._limit = limit

    def __getattr__(self, name: str) -> object:
        if (
            getattr(self._content, "total_bytes", 0) > self._limit
        ):  # without a body, older aiohttp does not count
            raise _too_large(self._limit)
        return getattr(self._content, name)


@contextlib.asynccontextmanager
async def _reading(request: web.BaseRequest, limit: int, seconds: float) -> AsyncIterator[None]:
    """Refuse what is too large by its own account, and turn what goes wrong into errors of ours."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise MediaTypeError("The body of the request is compressed.", hint="Send it as it is.")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise BodyTimeoutError("The body of the request did not come in time.") from None
    # aiohttp's reader of forms raises all of these about what a client sent: assertions in older releases, and
    # warnings where those are errors.
    except (
        ValueError,
        RuntimeError,
        RuntimeWarning,
        AssertionError,
        http_exceptions.HttpProcessingError,
        web.RequestPayloadError,
    ):
        raise InvalidRequestError("The body of the request is not what its header says.") from None


async def _in_time(work: Coroutine[object, object, _T], seconds: float) -> _T:
    async with asyncio.timeout(seconds):
        return await work


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The body of the request is larger than {limit} bytes.", details={"limit": limit}
    )


def _parsed_body(
    data: bytearray, limit: int, image_fields: Collection[str], image_trees: Collection[str]
) -> dict[str, object]:
    # Images have none of these, so that a body within the limits cannot have more. Each may become an object of
    # a hundred bytes.
    if len(data) > limit and sum(map(data.count, (b",", b"[", b"{"))) > limit:
        raise _too_large(limit)
    try:
        value = parsed(data.decode())
        if not isinstance(value, dict):
            raise InvalidRequestError("The body of the request is no JSON object.")
        if len(data) > limit:
            images = {key for key in image_fields if isinstance(value.get(key), str)}
            images |= {key for key in image_trees if isinstance(value.get(key), list | dict)}
            rest = {key: value[key] for key in value.keys() - images}
            if len(json.dumps(rest, ensure_ascii=False).encode()) > limit:
                raise _too_large(limit)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            "The body of the request is no JSON, or has a key twice.", hint="Send JSON in UTF-8."
        ) from None
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _no_number(text: str) -> object:
    raise ValueError(text)


def _finite_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("larger than any number")
    return number
