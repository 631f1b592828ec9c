"""The door: every request is judged before it is routed, and everything that goes wrong is answered in one shape."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from sdmanager.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InvalidRequestError,
    MediaTypeError,
    MethodNotAllowedError,
    RouteNotFoundError,
    SDManagerError,
    ServerError,
)

from .origins import RequestFacts, judge
from .responses import protect
from .shapes import error_answer, spoken_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Middleware

    from .origins import DoorPolicy

_logger = logging.getLogger("sdmanager.server")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SENT_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID")
_PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, DELETE, OPTIONS",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_ASKED_MAX = 50
# What tells the libraries of others whether to try again, and how to name a request, among them.
_READABLE_HEADERS = "ETag, Idempotency-Replayed, Location, Retry-After, X-Request-Id, X-Should-Retry"
_STATUS_ERRORS: dict[int, tuple[type[SDManagerError], str]] = {
    404: (RouteNotFoundError, "The server has no such path."),
    405: (MethodNotAllowedError, "The path does not take this method."),
    408: (BodyTimeoutError, "The body of the request did not come in time."),
    413: (BodyTooLargeError, "The body of the request is larger than is taken."),
    415: (MediaTypeError, "The content type of the request is none that is taken."),
}


def install_door(
    app: web.Application,
    policy: DoorPolicy,
    *,
    on_error: Callable[[SDManagerError], None] = lambda _error: None,
) -> None:
    """Put the door before an application.

    The judging is a middleware. The headers are set by a signal, because a stream sends its own from within
    its handler.

    Args:
        app: Not yet frozen, without other middlewares.
        policy: What is let in.
        on_error: Told of every error that is answered; must not raise.
    """
    door = _Door(policy, on_error)
    app.middlewares.append(door.middleware())
    door.judge_expectations(app)

    async def dress(request: web.Request, response: web.StreamResponse) -> None:
        _dress(policy, request, response)

    app.on_response_prepare.append(dress)


def route_of(request: web.Request) -> str:
    """The template of the path of a request, such as ``/v1/images/generations/{id}``; ``-`` where it has no route."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "-"


class _Door:
    def __init__(self, policy: DoorPolicy, on_error: Callable[[SDManagerError], None]) -> None:
        self._policy = policy
        self._on_error = on_error

    def middleware(self) -> Middleware:
        # Only asked where no route matched: it redirects to the same path without needless slashes if that is one.
        without_slashes = web.normalize_path_middleware(append_slash=False, remove_slash=True)

        @web.middleware
        async def door(request: web.Request, handler: _Handler) -> web.StreamResponse:
            try:
                error = judge(self._policy, _facts(self._policy, request))
                if error is not None:
                    return self._refuse(request, error)
                if request.method == hdrs.METH_OPTIONS:
                    return _options(self._policy, request)
                if request.match_info.http_exception is not None:
                    return await without_slashes(request, handler)
                return await handler(request)
            except ConnectionError:  # nobody is there any more
                raise
            except Exception as exc:  # noqa: BLE001 - logged there
                return self._answer(request, exc)

        return door

    def judge_expectations(self, app: web.Application) -> None:
        """Judge what has ``Expect`` before it is routed: aiohttp answers that header between routing and
        middlewares."""
        resolve = app.router.resolve

        async def resolve_judged(request: web.Request) -> web.UrlMappingMatchInfo:
            expected = request.headers.getall(hdrs.EXPECT, ())
            if not expected:
                return await resolve(request)
            error = judge(self._policy, _facts(self._policy, request))
            status = None
            if error is None:
                if all(value.lower() in ("", "100-continue") for value in expected):
                    return await resolve(request)
                error, status = InvalidRequestError("The request expects what this server does not do."), 417
            answer = self._refuse(request, error, status=status)

            async def say_so(_request: web.Request) -> web.StreamResponse:
                return answer

            route = web.ResourceRoute(hdrs.METH_ANY, say_so, web.PlainResource("/"), expect_handler=say_so)
            return web.UrlMappingMatchInfo({}, route)

        app.router.resolve = resolve_judged  # type: ignore[method-assign]  # there is no other place for it

    def _answer(self, request: web.Request, exc: Exception) -> web.StreamResponse:
        """The answer to a request whose handler raised."""
        if isinstance(exc, web.HTTPException) and exc.status < 400:
            raise exc
        if request.writer.output_size > 0:
            # A second header in a stream would be read as its content: the client sees a stream that is cut off.
            _log(request, exc)
            raise ConnectionResetError("The response had begun.") from exc
        if isinstance(exc, SDManagerError):
            return self._refuse(request, exc)
        if isinstance(exc, web.HTTPException):
            return self._refuse(request, *_mapped(exc), status=exc.status)
        _log(request, exc)
        return self._refuse(request, ServerError("The server made a mistake."))

    def _refuse(
        self,
        request: web.Request,
        error: SDManagerError,
        headers: Mapping[str, str] | None = None,
        *,
        status: int | None = None,
    ) -> web.Response:
        self._on_error(error)
        return error_answer(spoken_at(request), error, headers, status=status)


def _facts(policy: DoorPolicy, request: web.Request) -> RequestFacts:
    values = request.headers.getall
    with_token = policy.token is not None
    return RequestFacts(
        request.method,
        request.raw_path,
        values(hdrs.HOST, ()),
        values(hdrs.ORIGIN, ()),
        sites := values("Sec-Fetch-Site", ()),
        values("Sec-Fetch-Mode", ()) if sites else (),
        values("Sec-Fetch-Dest", ()) if sites else (),
        values(hdrs.CONTENT_TYPE, ()),
        values(hdrs.AUTHORIZATION, ()) if with_token else (),
        # A query is parsed only where it may hold one: that takes longer than all the rest of this.
        request.query.getall("token", ()) if with_token and "token=" in request.raw_path else (),
        has_body=hdrs.TRANSFER_ENCODING in request.headers
        or any(length != "0" for length in values(hdrs.CONTENT_LENGTH, ())),
    )


def _options(policy: DoorPolicy, request: web.Request) -> web.Response:
    # For unknown paths, too: a page that may ask learns from the request itself that there is nothing.
    miss = request.match_info.http_exception
    taken = miss.allowed_methods if isinstance(miss, web.HTTPMethodNotAllowed) else ()
    headers = {hdrs.ALLOW: ", ".join(sorted({*taken, hdrs.METH_OPTIONS}))}
    if _listed_origin(policy, request) is not None:
        headers |= {**_PREFLIGHT, hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(_sent_headers(request))}
    return web.Response(status=204, headers=headers)


def _sent_headers(request: web.Request) -> list[str]:
    """The headers that pages of a listed origin may send: what this server reads, and what the page asks for.

    The libraries of others add headers of their own, which nothing here reads, and would not send without them.
    """
    sent = {name.lower(): name for name in _SENT_HEADERS}
    asked = ",".join(request.headers.getall(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ())).split(",", _ASKED_MAX)
    for name in map(str.strip, asked[:_ASKED_MAX]):
        if _HEADER_NAME.fullmatch(name):
            sent.setdefault(name.lower(), name)
    return list(sent.values())


def _listed_origin(policy: DoorPolicy, request: web.Request) -> str | None:
    origins = request.headers.getall(hdrs.ORIGIN, ())
    return origins[0] if len(origins) == 1 and origins[0].lower() in policy.allowed_origins else None


def _dress(policy: DoorPolicy, request: web.Request, response: web.StreamResponse) -> None:
    if policy.allowed_origins:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = _listed_origin(policy, request)
        if origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _READABLE_HEADERS
            response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    protect(response)


def _mapped(exc: web.HTTPException) -> tuple[SDManagerError, dict[str, str]]:
    """What aiohttp refuses as an error of ours, and the headers that tell more."""
    kind, message = _STATUS_ERRORS.get(
        exc.status,
        (InvalidRequestError if exc.status < 500 else ServerError, f"{exc.reason}."),
    )
    headers = {name: exc.headers[name] for name in ("Allow", "Sec-WebSocket-Version") if name in exc.headers}
    if "Allow" in headers:
        headers["Allow"] += ", OPTIONS"
    return kind(message), headers


def _log(request: web.Request, exc: Exception) -> None:
    # The route instead of the path: a client may have put anything there.
    _logger.error("The handler of %s %s failed.", request.method, route_of(request), exc_info=exc)
