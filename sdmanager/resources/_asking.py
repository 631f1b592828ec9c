"""Questions over HTTP to a program that holds memory."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp
    from yarl import URL

BODY_MAX: Final = 1 << 20
_CONNECT_SECONDS: Final = 3.0
_WORDS_MAX: Final = 200
_PLACE_MAX: Final = 80
_POLL_FIRST, _POLL_LAST = 0.02, 0.25
_KEY_SHOWN: Final = "***"
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class UnansweredError(Exception):
    """There was no answer that can be used; the text goes on from the name of who was asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered.

    Attributes:
        status: Of HTTP.
        body: The JSON in it; None where there is none.
        said: The reason that it gives, shortened; "" where it gives none.
    """

    status: int
    body: object
    said: str

    @property
    def ok(self) -> bool:
        """Whether that was what we asked for; a redirect is not, since none is followed."""
        return 200 <= self.status < 300

    @property
    def refusal(self) -> str:
        """What went wrong, to go on from the name of who was asked."""
        return f"answered with status {self.status}{f': {self.said}' if self.said else ''}"


class Asker:
    """One server that is asked; each question has a connection of its own, no proxy, and follows no redirect.

    Args:
        url: Whatever `checked_url` gave.
        key: To show as a bearer token; it is never in a message.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if key is not None and not _VISIBLE.fullmatch(key):
            raise InvalidRequestError(
                "The API key has characters in it that no key may have.",
                hint="Give it as it is, without quotes or line breaks.",
            )
        self.url = url
        self._key = key

    async def ask(self, method: str, path: str, body: object = None, *, seconds: float) -> Answer:
        """Ask, and wait for the whole answer.

        Args:
            method: Of HTTP.
            path: After the URL, quoted.
            body: To send as JSON; None: nothing.
            seconds: For all of it.

        Raises:
            UnansweredError: Nobody is there, it took too long, or the answer is too large.

        If cancelled, the connection is closed.
        """
        import aiohttp

        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=min(_CONNECT_SECONDS, seconds))
        try:
            # What is compressed all the same is not unpacked: a little of it could become very much.
            async with (
                aiohttp.ClientSession(trust_env=False, auto_decompress=False, timeout=limits) as session,
                session.request(
                    method, _as_url(self.url + path), json=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return self._answer(response.status, await _body_of(response))
        except TimeoutError:
            raise UnansweredError(f"did not answer within {seconds:g} s") from None
        except aiohttp.ClientSSLError:
            raise UnansweredError("has a certificate that is not trusted, or speaks no TLS") from None
        except aiohttp.ClientConnectorError:
            raise UnansweredError("cannot be reached") from None
        except (
            aiohttp.ClientError,
            aiohttp.http_exceptions.HttpProcessingError,
            OSError,
            ValueError,
        ) as exc:
            raise UnansweredError(f"gave no answer that can be read ({type(exc).__name__})") from None

    def _answer(self, status: int, data: bytes) -> Answer:
        try:
            body = json.loads(data) if data else None
        except (ValueError, RecursionError):
            body = None
        said = body.get("error") if isinstance(body, dict) else None
        if isinstance(said, dict):
            said = said.get("message")
        words = " ".join(said.split()) if isinstance(said, str) else ""
        if self._key is not None:
            words = words.replace(self._key, _KEY_SHOWN)
        return Answer(status, body, words[:_WORDS_MAX].rstrip("."))


def _as_url(text: str) -> URL:
    from yarl import URL

    return URL(text, encoded=True)


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > BODY_MAX:
            raise UnansweredError(f"gave an answer of more than {BODY_MAX >> 20} MiB")
    return bytes(data)


async def until(check: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask again and again until it is so; False: it was not within these seconds."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + seconds, _POLL_FIRST
    while not await check():
        left = deadline - loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _POLL_LAST)
    return True


def checked_url(url: object, what: str, port: int) -> str:
    """An address that can be asked, without the slash at its end.

    Args:
        url: As given.
        what: Whose it is: ``Ollama``.
        port: Where it usually listens, for the hint.

    Raises:
        InvalidRequestError: It is no HTTP address, or has a password or a query in it.
    """
    if not isinstance(url, str) or not _VISIBLE.fullmatch(url):
        reason: str | None = "it has characters in it that no address may have"
    else:
        reason = _fault_of(url)
        if reason is None:
            return url.rstrip("/")
    raise InvalidRequestError(
        f"The address of {what} cannot be used: {reason}.",
        hint=f"Write it like http://127.0.0.1:{port}, without a password.",
    )


def _fault_of(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "its host or port is none"
    faults = (
        (parts.scheme not in ("http", "https"), "it does not begin with http:// or https://"),
        ("@" in parts.netloc, "it has a user name or password in it"),
        (not host, "it names no host"),
        (port == 0, "its port is 0"),
        ("?" in url or "#" in url, "it has a query or fragment in it"),
    )
    return next((reason for is_so, reason in faults if is_so), None)


def place_of(url: str) -> str:
    """``HOST:PORT`` of a checked address and the path after it, by which one server is told from others.

    What is too long for a name is cut, and told from others by a digest.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    port = parts.port or (443 if parts.scheme == "https" else 80)
    place = f"{host}:{port}{parts.path.rstrip('/')}"
    if len(place) <= _PLACE_MAX:
        return place
    return f"{place[: _PLACE_MAX - 9]}~{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def reachable_host(host: str) -> str:
    """Where to ask what listens on this address: one that means all of a machine's is no address to ask."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)
