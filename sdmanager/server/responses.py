"""Answers in JSON, of one shape for everything that went wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from sdmanager.errors import UnauthorizedError

from .wire import failure_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.errors import SDManagerError

_JSON = "application/json; charset=utf-8"
_NAME = "sdmanager"  # instead of the versions of Python and aiohttp


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response that is not to be kept.

    Args:
        value: What ``json.dumps`` takes, or bytes that are JSON already.
        status: HTTP status.
        headers: More headers, or others.
    """
    body = value if isinstance(value, bytes) else json.dumps(value, allow_nan=False).encode("ascii")
    own: dict[str, str] = {hdrs.CONTENT_TYPE: _JSON, hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=body, status=status, headers={**own, **headers} if headers else own)


def created_response(location: str, value: object, *, replayed: bool) -> web.Response:
    """The answer to a request that made something.

    Args:
        location: Path of what was made.
        value: What ``json.dumps`` takes.
        replayed: Whether an earlier request with the same ``Idempotency-Key`` made it.
    """
    return json_response(value, 201, {hdrs.LOCATION: location, **replay_headers(replayed=replayed)})


def replay_headers(*, replayed: bool) -> dict[str, str]:
    """The headers that say whether an earlier request with the same ``Idempotency-Key`` had this done."""
    return {"Idempotency-Replayed": "true"} if replayed else {}


def error_response(
    error: SDManagerError,
    headers: Mapping[str, str] | None = None,
    *,
    status: int | None = None,
    body: object = None,
) -> web.Response:
    """``{"error": {"message", "code", "suggestion"?}}`` with the error's own status.

    ``details["retry_after"]`` (seconds) becomes ``Retry-After``.

    Args:
        error: What went wrong.
        headers: More headers.
        status: Instead of the error's own.
        body: Instead of that body, in the shape of another API.
    """
    own = dict(headers or {})
    retry_after = error.details.get("retry_after")
    if isinstance(retry_after, int):
        own.setdefault(hdrs.RETRY_AFTER, str(retry_after))
    if isinstance(error, UnauthorizedError):
        own.setdefault(hdrs.WWW_AUTHENTICATE, "Bearer")
    status = error.http_status if status is None else status
    return json_response(error_body(error) if body is None else body, status, own)


def error_body(error: SDManagerError) -> dict[str, object]:
    """What an error is on the wire."""
    return {"error": failure_body(error)}


def protect(response: web.StreamResponse) -> None:
    """Set the headers that every response has before it is sent.

    Whether it may be kept only where that is not set, unless it is an error.
    """
    headers = response.headers
    headers[hdrs.SERVER] = _NAME  # aiohttp's own is there already
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if response.status >= 400:
        # Where a file cannot be opened, aiohttp answers under the headers of the picture: to be kept for good.
        headers[hdrs.CACHE_CONTROL] = "no-store"
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
