"""The talk with a server: one request, its answer, and what went wrong as an error of this package."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import requests
import urllib3

from sdmanager.errors import (
    InvalidRequestError,
    SDManagerError,
    ServerError,
    ServerUnreachableError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_Type = TypeVar("_Type")

_TOKEN: Final = re.compile(r"[!-~]+")
_PIECE: Final = 64 << 10
# A server says something every 15 seconds.
_SILENCE_SECONDS: Final = 50.0
# What a socket takes ends at some 24 days.
_TIMEOUT_MAX: Final = 86_400.0
_NETWORK_ERRORS: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
IMAGES: Final = "image/"


def segment(name: str) -> str:
    """An id as a part of a path.

    Raises:
        InvalidRequestError: It would be another path.
    """
    if name in {"", ".", ".."}:
        raise InvalidRequestError("An id is not empty, and no dots alone.")
    return quote(name, safe="", errors="replace")


class _Bearer(requests.auth.AuthBase):
    """Shows the token. Also without one it must be there: requests would take a password from a netrc file."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Requests to one server, with a session for each thread: requests does not promise that threads may share one.

    Redirects are not followed, so that the token goes nowhere else. Proxies of the environment are for other machines
    only: one that was asked for a loopback address would get the token, and look on its own machine.

    Args:
        base_url: Of the server; a path in it stands before all others.
        token: What the server wants to be shown, or None.
        timeout: Seconds to connect, and of silence in an answer; more than 0, at most a day.

    Raises:
        InvalidRequestError: The address is none, the token cannot be sent, or the timeout is out of its range.
    """

    def __init__(self, base_url: str, token: str | None, timeout: float) -> None:
        self.base_url = _checked(base_url)
        if token is not None and not _TOKEN.fullmatch(token):
            raise InvalidRequestError("A token is visible ASCII characters, without spaces.")
        if not 0 < timeout <= _TIMEOUT_MAX:
            raise InvalidRequestError(
                f"The timeout must be more than 0 seconds, and at most {_TIMEOUT_MAX:.0f}."
            )
        self._auth = _Bearer(token)
        self._timeout = timeout
        self._trust_environment = not _is_loopback(urlsplit(self.base_url).hostname or "")
        self._own = threading.local()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Close the connections that nobody uses now."""
        with self._mutex:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def ask(
        self,
        method: str,
        path: str,
        read: Callable[[Any], _Type],
        *,
        value: object = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | bytes] | None = None,
    ) -> _Type:
        """What a server answers in JSON. Asked once more where a connection breaks: what is asked must allow that.

        Args:
            method: Of HTTP.
            path: Begins with a slash.
            read: Makes what is returned of the answer; may raise ``ValueError``, ``TypeError`` and ``KeyError``.
            value: What to send as JSON, or None.
            headers: More headers.
            params: Of the query.

        Raises:
            SDManagerError: What the server says went wrong.
            ServerUnreachableError: No server answers.
            ServerError: Something else answers.
        """
        body = None if value is None else json.dumps(value).encode("ascii")
        sent = {"Accept": JSON, **({} if body is None else {"Content-Type": JSON}), **(headers or {})}
        answer = self._twice(method, path, data=body, headers=sent, params=params)
        self._expect(answer, JSON)
        try:
            return read(self._parsed(answer))
        except (ValueError, TypeError, KeyError):
            raise self.foreign("an answer that is none") from None

    def delete(self, path: str, gone: type[SDManagerError]) -> None:
        """Have something deleted. Asked once more where the connection breaks; it may be gone by then, which is well.

        Args:
            path: Begins with a slash.
            gone: What a server says where there is nothing to delete; raises this, too, if the first answer says it.
        """
        headers = {"Accept": JSON}
        try:
            answer = self._once("DELETE", path, headers=headers)
        except ServerUnreachableError as exc:
            if not _broke(exc):
                raise
            with contextlib.suppress(gone):
                self._expect(self._once("DELETE", path, headers=headers), JSON)
        else:
            self._expect(answer, JSON)

    def fetch(self, path: str) -> tuple[bytes, str]:
        """The bytes of a picture and the name of its format, such as ``png``; raises as ``ask`` does."""
        answer = self._twice("GET", path, headers={"Accept": "image/*"})
        return answer.content, self._expect(answer, IMAGES).removeprefix(IMAGES)

    @contextlib.contextmanager
    def stream(self, path: str, last_id: str) -> Iterator[Iterator[bytes]]:
        """The bytes of a stream of events as they come, to its end; raises as ``ask`` does, also while it is read."""
        headers = {
            "Accept": EVENTS,
            "Cache-Control": "no-store",
            **({"Last-Event-ID": last_id} if last_id else {}),
        }
        answer = self._once(
            "GET", path, headers=headers, stream=True, timeout=(self._timeout, _SILENCE_SECONDS)
        )
        try:
            self._expect(answer, EVENTS)
            yield self._pieces(answer)
        finally:
            answer.close()

    def foreign(self, about: str) -> ServerError:
        """The error for an answer that no server of this package gives."""
        return ServerError(
            f"What answers at {self.base_url} is no sdmanager server: {about}.",
            hint="Check the address and the port: 'sdmanager serve' prints them.",
        )

    def _pieces(self, answer: requests.Response) -> Iterator[bytes]:
        with self._as_ours():
            while piece := answer.raw.read1(_PIECE):
                yield piece

    def _twice(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._once(method, path, **options)
        except ServerUnreachableError as exc:
            # A connection that was kept may be closed by the server at the very moment when it is used again.
            if not _broke(exc):
                raise
            return self._once(method, path, **options)

    def _once(self, method: str, path: str, **options: Any) -> requests.Response:
        with self._as_ours():
            return self._session.request(
                method,
                self.base_url + path,
                auth=self._auth,
                allow_redirects=False,
                **{"timeout": self._timeout, **options},
            )

    @contextlib.contextmanager
    def _as_ours(self) -> Iterator[None]:
        try:
            yield
        except _NETWORK_ERRORS as exc:
            reason = _reason(exc)
            if isinstance(reason, urllib3.exceptions.NewConnectionError):
                raise ServerUnreachableError(f"No server answers at {self.base_url}.") from exc
            if isinstance(reason, requests.Timeout | urllib3.exceptions.TimeoutError):
                raise ServerUnreachableError(
                    f"The server at {self.base_url} does not answer.", hint="It may be too busy: try again."
                ) from exc
            raise ServerUnreachableError(
                f"The connection to {self.base_url} broke ({type(reason).__name__}).",
                hint="Look whether the server still runs.",
            ) from exc

    @property
    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = requests.Session()
            session.trust_env = self._trust_environment
            session.headers["User-Agent"] = "sdmanager"
            with self._mutex:
                self._sessions.add(session)
        return session

    def _expect(self, answer: requests.Response, kind: str) -> str:
        """See that an answer is of the kind that was asked for; its content type, without parameters."""
        if answer.status_code >= 400:
            raise self._error(answer)
        found = answer.headers.get("Content-Type", "").lower().partition(";")[0].strip()
        if answer.status_code >= 300 or not found.startswith(kind):
            raise self.foreign(f"status {answer.status_code}, {found or 'no content type'}")
        return found

    def _parsed(self, answer: requests.Response) -> Any:
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError):
            raise self.foreign(f"status {answer.status_code}, JSON that is none") from None

    def _error(self, answer: requests.Response) -> SDManagerError:
        status, kind = answer.status_code, answer.headers.get("Content-Type", "").lower()
        with self._as_ours():
            body = self._parsed(answer) if kind.startswith(JSON) else None
        said = body.get("error") if isinstance(body, dict) else None
        if not isinstance(said, dict) or not all(
            isinstance(said.get(name), str) for name in ("message", "code")
        ):
            return self.foreign(f"status {status}")
        hint, details = said.get("suggestion"), {}
        if (seconds := answer.headers.get("Retry-After", "")).isdecimal():
            details["retry_after"] = int(seconds)
        error = SDManagerError.of_code(
            said["code"], said["message"], hint=hint if isinstance(hint, str) else None, details=details
        )
        if isinstance(error, UnauthorizedError):
            error.hint = "Give the client the token that the server was started with."
        return error


def never_sent(error: ServerUnreachableError) -> bool:
    """Whether not even a connection came about, so that no server has seen what was asked."""
    no_connection = urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError
    return isinstance(_cause(error), no_connection)


def _broke(error: ServerUnreachableError) -> bool:
    """Whether there was a connection, and it ended too early."""
    return isinstance(_cause(error), urllib3.exceptions.ProtocolError)


def _cause(error: ServerUnreachableError) -> BaseException | None:
    return None if error.__cause__ is None else _reason(error.__cause__)


def _reason(error: BaseException) -> BaseException:
    """What lies in the wrappings of requests and urllib3."""
    while True:
        inner = (
            error.reason
            if isinstance(error, urllib3.exceptions.MaxRetryError)
            else next(iter(error.args), None)
        )
        if not isinstance(
            error, requests.RequestException | urllib3.exceptions.MaxRetryError
        ) or not isinstance(inner, urllib3.exceptions.HTTPError):
            return error
        error = inner


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise InvalidRequestError(
            "The address of the server is no http or https address.", hint="Such as http://127.0.0.1:8081."
        ) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidRequestError(
            "The address of the server has more than a host, a port and a path.",
            hint="Give the token as token=.",
        )
    return base_url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
