"""Connections: how many there may be, how long the first header may take, and what is said to what is no HTTP."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any, cast

from aiohttp import http_exceptions, web

from sdmanager.errors import InvalidRequestError, ServerBusyError, ServerError

from .origins import refused_content, refused_host
from .responses import error_body, error_response, protect

if TYPE_CHECKING:
    from sdmanager.errors import SDManagerError

_logger = logging.getLogger("sdmanager.server")

_CONNECTIONS_MAX = 700
_REFUSALS_MAX = 50  # that are still to be read, beside those
_REFUSAL_SECONDS = 1.0
# How long the rest of a request is read that was answered before it was complete.
_LINGERING_SECONDS = 2.0

_HEAD_MAX = 16 << 10
_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
_HOST_LINE = re.compile(rb"\nhost[ \t]*:", re.IGNORECASE)
_CONTENT_TYPE_LINE = re.compile(rb"\ncontent-type[ \t]*:", re.IGNORECASE)
_FULL = json.dumps(
    error_body(
        ServerBusyError("The server has too many connections.", hint="Close some, or try again later.")
    )
).encode("ascii")
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nCache-Control: no-store\r\n"
    b"X-Content-Type-Options: nosniff\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_FULL), _FULL)
)


class Connections:
    """Factory of protocols for ``loop.create_server``: aiohttp's own, with limits.

    Beyond the cap a connection is answered 503 and closed. One whose first header is not complete in time is closed;
    so is one that does not send the next header in ``keepalive`` seconds, whole.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        limit: int = _CONNECTIONS_MAX,
        header_seconds: float = 10.0,
        keepalive_seconds: float = 15.0,
    ) -> None:
        """Take the server of an ``AppRunner`` that has been set up.

        Args:
            server: ``runner.server``. Options of its own for connections are not used.
            limit: Of connections at a time; never more than half the files that the process may open.
            header_seconds: For the first header.
            keepalive_seconds: Between an answer and the end of the next header.
        """
        self.limit = min(limit, _half_of_the_files())
        self.header_seconds = header_seconds
        self.keepalive_seconds = keepalive_seconds
        self.open = 0
        self.refused = 0
        self._server = server

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return _Connection(self, self._server)


class _Connection(web.RequestHandler):
    __slots__ = ("_deadline", "_limits", "_recent", "_refused")

    def __init__(self, limits: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=_LINGERING_SECONDS,
            logger=_logger,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to say none: it would log tokens in queries
            auto_decompress=False,  # a small body must not become a large one
        )
        self._limits = limits
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._recent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limits, loop = self._limits, asyncio.get_running_loop()
        self._refused = limits.open >= limits.limit
        if not self._refused:
            limits.open += 1
            super().connection_made(transport)
            self._deadline = loop.call_later(limits.header_seconds, self._close_if_silent)
            return
        limits.refused += 1
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(_REFUSAL)
        # Closing with unread bytes in the socket would throw away what was just written.
        self._deadline = loop.call_later(_REFUSAL_SECONDS, self.force_close)
        if limits.refused > _REFUSALS_MAX:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self.force_close()
        else:
            self._recent = data if len(data) <= _HEAD_MAX else b""
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._refused:
            self._limits.refused -= 1
        else:
            self._limits.open -= 1
        self._recent = b""
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        # aiohttp's own count of whole headers; it has no public name.
        if not self._request_count:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the door, in the door's shape; aiohttp's own text quotes the request."""
        super().handle_error(request, status, exc, message)  # logs, and raises where an answer has begun
        error = _refusal(self._recent) if status < 500 else ServerError("The server made a mistake.")
        response = error_response(error)
        protect(response)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a fault of ours; a client that leaves or sends what is no HTTP is none, and the text quotes it."""
        exc = kw.get("exc_info")
        if isinstance(exc, http_exceptions.HttpProcessingError | web.RequestPayloadError | ConnectionError):
            self.logger.debug("A connection ended early: %s.", type(exc).__name__)
        else:
            super().log_exception(*args, **kw)


def _refusal(data: bytes) -> SDManagerError:
    """What to say to a request that the parser refused; as the door would, where it came in one piece.

    Newer aiohttp refuses headers that stand twice, and requests without a host, before the door sees them.
    """
    head = data.partition(b"\r\n\r\n")[0]
    if _REQUEST_LINE.match(data):
        if len(_HOST_LINE.findall(head)) != 1:
            return refused_host()
        if len(_CONTENT_TYPE_LINE.findall(head)) > 1:
            return refused_content()
    return InvalidRequestError("The request is no HTTP that this server reads.")


def _half_of_the_files() -> int:
    """Half of the files that this process may open: the other half is for what the connections ask for."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # a system that has no such limit
        return _CONNECTIONS_MAX
    files: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _CONNECTIONS_MAX if files == resource.RLIM_INFINITY else max(1, files // 2)
