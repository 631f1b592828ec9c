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
from .responses import error_body, protect
from .shapes import error_answer

if TYPE_CHECKING:
    from sdmanager.errors import SDManagerError

_logger = logging.getLogger("sdmanager.server")

_CONNECTIONS_MAX = 700
_REFUSALS_MAX = 50  # that are still to be read, beside those
_REFUSAL_SECONDS = 1.0
# How long the rest of a request is read that was answered before it was complete.
_LINGERING_SECONDS = 2.0

# Of what is written, this much must be taken in the time that a reader may stall, until little is left.
_TAKEN_MIN = 64 << 10

_LINE_KIB = 32
_HEAD_MAX = 16 << 10
_REQUEST_LINE = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.[01]\r\n")
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

    Beyond the cap the oldest connection that has not sent a whole header yet is closed for a new one; where there is
    none, the new one is answered 503 and closed. One whose first header is not complete in time is closed; so is one
    that does not send the next header in ``keepalive`` seconds, whole, and one that does not take what is written.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        limit: int = _CONNECTIONS_MAX,
        header_seconds: float = 10.0,
        keepalive_seconds: float = 15.0,
        stall_seconds: float = 60.0,
    ) -> None:
        """Take the server of an ``AppRunner`` that has been set up.

        Args:
            server: ``runner.server``. Options of its own for connections are not used.
            limit: Of connections at a time; never more than half the files that the process may open.
            header_seconds: For the first header.
            keepalive_seconds: Between an answer and the end of the next header.
            stall_seconds: For which a client may take nothing, or next to nothing, of what is written.
        """
        self.limit = min(limit, _half_of_the_files())
        self.header_seconds = header_seconds
        self.keepalive_seconds = keepalive_seconds
        self.stall_seconds = stall_seconds
        self.refused = 0
        self._server = server
        self._open: set[_Connection] = set()
        self._silent: dict[_Connection, None] = {}  # without a whole header so far, the oldest first

    @property
    def open(self) -> int:
        """How many connections there are, without those that were refused."""
        return len(self._open)

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        return _Connection(self, self._server)

    def admit(self, connection: _Connection) -> bool:
        """Whether there is a place for a connection; closes a silent one for it if need be."""
        if len(self._open) >= self.limit:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                return False
            self.forget(oldest)
            oldest.force_close()
        self._open.add(connection)
        self._silent[connection] = None
        return True

    def has_spoken(self, connection: _Connection) -> None:
        """Keep a connection that has sent a whole header."""
        self._silent.pop(connection, None)

    def forget(self, connection: _Connection) -> None:
        """Give its place back."""
        self._silent.pop(connection, None)
        self._open.discard(connection)


class _Connection(web.RequestHandler):
    __slots__ = ("_deadline", "_limits", "_recent", "_refused", "_stalled")

    def __init__(self, limits: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=_LINGERING_SECONDS,
            logger=_logger,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to say none: it would log tokens in queries
            auto_decompress=False,  # a small body must not become a large one
            max_line_size=_LINE_KIB << 10,
            max_field_size=_LINE_KIB << 10,
        )
        self._limits = limits
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._recent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limits, loop = self._limits, asyncio.get_running_loop()
        self._refused = not limits.admit(self)
        if not self._refused:
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
            if self._request_count:  # aiohttp's own count of whole headers; it has no public name
                self._limits.has_spoken(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        transport = self.transport
        if transport is not None:
            self._expect_progress(transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_timers(self._stalled)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_timers(self._deadline, self._stalled)
        if self._refused:
            self._limits.refused -= 1
        else:
            self._limits.forget(self)
        self._recent = b""
        super().connection_lost(exc)

    @staticmethod
    def _cancel_timers(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()

    def _expect_progress(self, transport: asyncio.Transport, before: int | None = None) -> None:
        """Abort a connection whose client takes nothing of what is written, and look again later at any other."""
        left = transport.get_write_buffer_size()
        if before is not None and before - left < _TAKEN_MIN:
            transport.abort()
            return
        self._stalled = asyncio.get_running_loop().call_later(
            self._limits.stall_seconds, self._expect_progress, transport, left
        )

    def _close_if_silent(self) -> None:
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
        if isinstance(exc, http_exceptions.LineTooLong):
            error: SDManagerError = _too_long()
        else:
            error = _refusal(self._recent) if status < 500 else ServerError("The server made a mistake.")
        response = error_answer(_path(self._recent), error)
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


def _path(data: bytes) -> str:
    line = _REQUEST_LINE.match(data)
    return line[1].partition(b"?")[0].decode("latin-1") if line is not None else ""


def _too_long() -> InvalidRequestError:
    return InvalidRequestError(
        f"The address or a header of the request is longer than {_LINE_KIB} KiB.",
        hint="Send what is long in the body of a POST.",
        details={"limit": _LINE_KIB << 10},
    )


def _half_of_the_files() -> int:
    """Half of the files that this process may open: the other half is for what the connections ask for."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # a system that has no such limit
        return _CONNECTIONS_MAX
    files: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _CONNECTIONS_MAX if files == resource.RLIM_INFINITY else max(1, files // 2)
