"""Errors in the shape of this API."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    SDManagerError,
    ServerBusyError,
    ServerError,
    UnauthorizedError,
)
from sdmanager.server.responses import error_response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

_log = logging.getLogger("sdmanager.server")

REQUEST_ID: Final = "x-request-id"

# Among the details of an error: the generation that ended with it.
_DRAWN: Final = "generation_id"

_CODES: Final[tuple[tuple[type[SDManagerError], str], ...]] = (
    (ServerBusyError, "rate_limit_exceeded"),
    (UnauthorizedError, "invalid_api_key"),
    (ModelNotFoundError, "model_not_found"),
)
_TYPES: Final = {401: "authentication_error", 429: "rate_limit_error"}


def openai_error(
    error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
) -> web.Response:
    """``{"error": {"message", "type", "param", "code"}}``, with the status that its clients expect."""
    own = dict(headers or {})
    drawn = error.details.get(_DRAWN)
    if isinstance(drawn, str):
        # The SDKs repeat what was answered with 409, 429 or 5xx: what failed would be drawn three times.
        own |= {REQUEST_ID: drawn, "x-should-retry": "false"}
    status = _status(error) if status is None else status
    return error_response(error, own, status=status, body={"error": openai_failure(error)})


def openai_failure(error: SDManagerError) -> dict[str, object]:
    """What an error says, also in the middle of a stream.

    ``details["param"]``, else the first of ``details["fields"]``, is the field that is wrong; ``details["reason"]`` is
    a code that says more than the class does.
    """
    status = _status(error)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    return {"message": message, "type": kind, "param": _param(error), "code": _code(error)}


def invalid(
    param: str, message: str, *, reason: str = "invalid_value", hint: str | None = None
) -> InvalidRequestError:
    """An error about one field of a request."""
    return InvalidRequestError(message, hint=hint, details={"param": param, "reason": reason})


@contextlib.contextmanager
def ending(generation_id: str) -> Iterator[None]:
    """A block in which errors are how a generation ended: its client is told not to try again by itself.

    That goes for mistakes of ours, too, which are logged; not for a client that has gone.

    Raises:
        SDManagerError: There was an error.
        ConnectionError: The client has gone.
    """
    try:
        yield
    except ConnectionError:
        raise
    except SDManagerError as exc:
        exc.details[_DRAWN] = generation_id
        raise
    except Exception as exc:
        _log.exception("The answer with generation %s could not be made.", generation_id)
        raise ServerError("The server made a mistake.", details={_DRAWN: generation_id}) from exc


def _status(error: SDManagerError) -> int:
    # Its clients wait and try again at 429; 503 is an accident to them.
    return 429 if isinstance(error, ServerBusyError) else error.http_status


def _param(error: SDManagerError) -> str | None:
    named = error.details.get("param")
    if isinstance(named, str):
        return named
    fields = error.details.get("fields")
    if isinstance(error, InvalidRequestError) and isinstance(fields, list) and fields:
        return str(fields[0])
    return "model" if isinstance(error, ModelNotFoundError) else None


def _code(error: SDManagerError) -> str:
    reason = error.details.get("reason")
    if isinstance(reason, str):
        return reason
    known = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if known is None and isinstance(error, InvalidRequestError) and _param(error) is not None:
        known = "invalid_value"
    return known or error.code.lower()
