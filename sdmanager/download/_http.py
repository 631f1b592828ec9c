"""The talk with a server: redirects by our own rules, bodies as they come, and broken off at any moment."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Self

import requests
from requests.utils import select_proxy

from ._faults import NETWORK_ERRORS, RetryError, StoppedError, failure, network_fault
from ._rules import REDIRECTS_MAX, RedirectRefusedError, parsed, redirected

if TYPE_CHECKING:
    import urllib3

    from ._types import Patience, Wanted

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Connection:
    """What a download says to its server; `stop` is for other threads, the rest for one only."""

    def __init__(self, wanted: Wanted, patience: Patience, stopped: threading.Event) -> None:
        """Connect to nothing yet; `stopped` may be set already."""
        self._wanted = wanted
        self._patience = patience
        self._session = requests.Session()
        self._mutex = threading.Lock()
        self._body: urllib3.BaseHTTPResponse | None = None
        self._stopped = stopped

    def __enter__(self) -> Self:
        """The connection."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close everything."""
        self.hang_up()
        self._session.close()

    def stop(self) -> None:
        """End what goes on in the other thread with a `StoppedError`: at once, except while it connects."""
        self._stopped.set()
        # Whatever is wrong with the socket, the read ends by itself: it has a timeout.
        with self._mutex, contextlib.suppress(Exception):
            if self._body is not None:
                self._body.shutdown()

    def check(self) -> None:
        """Raise `StoppedError` if told to stop."""
        if self._stopped.is_set():
            raise StoppedError

    def wait(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            StoppedError: Told to stop.
        """
        self._stopped.wait(seconds)
        self.check()

    def ask(self, offset: int, etag: str | None) -> requests.Response:
        """Ask for the file, or for its bytes from `offset` on if it still has this ETag.

        Returns:
            The answer, after redirects, its body not read.

        Raises:
            RetryError: No answer came.
            DownloadError: Another attempt would go no better.
            StoppedError: Told to stop.
        """
        if parsed(self._wanted.url) is None:
            raise failure(self._wanted, "url", "that is no http or https address")
        # An encoding would be undone by nobody: the digest is of the bytes as they are.
        headers = {"Accept-Encoding": "identity", "User-Agent": "sdmanager"}
        if offset and etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": etag}
        url = self._wanted.url
        for _ in range(REDIRECTS_MAX + 1):
            response = self._send(url, headers)
            location = response.headers.get("location") if response.status_code in _REDIRECTS else None
            if location is None:
                return response
            self.hang_up()
            try:
                url = redirected(self._wanted.url, url, location)
            except RedirectRefusedError as refusal:
                raise failure(self._wanted, "redirect", str(refusal)) from None
        raise failure(self._wanted, "redirect", f"it redirects more than {REDIRECTS_MAX} times")

    def _send(self, url: str, headers: dict[str, str]) -> requests.Response:
        self.check()
        session, patience, proxy = self._session, self._patience, None
        try:
            # Not Session.send: it reads the whole body of a redirect before it is asked whether to follow.
            request = session.prepare_request(requests.Request("GET", url, headers=headers))
            settings = session.merge_environment_settings(request.url, {}, True, None, None)
            proxy = select_proxy(request.url or url, settings["proxies"])
            response = session.get_adapter(request.url or url).send(
                request,
                stream=True,
                timeout=(patience.connect, patience.read),
                verify=settings["verify"] or True,
                cert=settings["cert"],
                proxies=settings["proxies"],
            )
        except NETWORK_ERRORS as exc:
            # Without the cause: the texts of the libraries have the whole address in them.
            raise network_fault(self._wanted, exc, patience, proxied=proxy is not None) from None
        with self._mutex:
            self._body = response.raw
        if self._stopped.is_set():
            self.hang_up()
            raise StoppedError
        return response

    def read(self, size: int) -> bytes:
        """What has come of the body, at least one byte and at most `size`; nothing at its end.

        Raises:
            RetryError: The connection was cut or is stalled.
            StoppedError: Told to stop.
        """
        body = self._body
        if body is None:
            return b""
        try:
            data = body.read1(size, decode_content=False)
        except NETWORK_ERRORS as exc:
            self.check()
            fault = network_fault(self._wanted, exc, self._patience)
            raise fault if isinstance(fault, RetryError) else RetryError(fault) from None
        self.check()  # a read that was broken off looks like the end of the body
        return data or b""

    def hang_up(self) -> None:
        """Close the connection, whatever is still to come on it."""
        with self._mutex:
            body, self._body = self._body, None
        if body is not None:
            with contextlib.suppress(*NETWORK_ERRORS):
                body.close()
