"""Who may speak to the server: hosts, origins, tokens and content types. Pure: no socket, no clock, no aiohttp."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sdmanager.errors import (
    InvalidRequestError,
    MediaTypeError,
    RefusedError,
    SDManagerError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_CONTENT_TYPES = frozenset({"application/json", "multipart/form-data"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_NAME = r"\[[0-9a-f:.]+\]|[a-z0-9._-]+"
_HOST = re.compile(rf"({_NAME})(?::([0-9]{{1,5}}))?", re.ASCII)
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://({_NAME})(:[0-9]{{1,5}})?", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")
_SLASHES = re.compile(r"//+")

# The page there holds no secrets, and a browser that opens it can show none.
_OPEN_TARGET = "/"
# Clients of this API send what it takes no body for without a body, and then mostly without a type.
_BARE_POSTS = "/sdapi/"
# What aiohttp's client says of a body that is none; a page can say it only after it has asked.
_BARE_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class DoorPolicy:
    """What the server accepts; :meth:`build` makes one from what a user gave.

    Attributes:
        port: That the server listens on.
        host: That the server listens on.
        token: What a client must show, or None where nobody needs one.
        allowed_origins: Of other pages that may use the server: ``scheme://host[:port]``, lower case.
        allowed_hosts: Further names of this server, without port, lower case. They are accepted with any port,
            because a proxy or a container gives it another one.
        own_hosts: Whole values of ``Host`` that need no closer look.
        own_origins: Origins of the server's own pages.
        wildcard: Whether the server listens on all addresses.
    """

    port: int
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    allowed_origins: frozenset[str] = frozenset()
    allowed_hosts: frozenset[str] = frozenset()
    own_hosts: frozenset[str] = field(init=False, repr=False)
    own_origins: frozenset[str] = field(init=False, repr=False)
    wildcard: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out once what every request is compared with."""
        address = _address(self.host)
        wildcard = not self.host or (address is not None and address.is_unspecified)
        names = _LOOPBACK_NAMES if wildcard else (*_LOOPBACK_NAMES, _bracketed(self.host.lower()))
        hosts = {f"{name}:{self.port}" for name in names}
        if self.port == 80:
            hosts.update(names)  # clients leave the default port out
        object.__setattr__(self, "wildcard", wildcard)
        object.__setattr__(self, "own_hosts", frozenset(hosts))
        object.__setattr__(self, "own_origins", frozenset(f"http://{host}" for host in hosts))

    @classmethod
    def build(
        cls,
        host: str,
        port: int,
        *,
        token: str | None = None,
        allow_origin: Iterable[str] = (),
        allow_host: Iterable[str] = (),
    ) -> DoorPolicy:
        """Check and normalise what a user gave.

        Args:
            host: Address or name to listen on.
            port: The port that the server really has.
            token: Visible ASCII characters; needed unless the host is a loopback address.
            allow_origin: Origins of other pages that may use the server, as ``scheme://host[:port]``.
            allow_host: Further names under which clients reach the server, without port.

        Raises:
            InvalidRequestError: The server would be open to the network without a token, or a value is none.
        """
        if token is not None and not _TOKEN.fullmatch(token):
            raise InvalidRequestError(
                "The token is empty or has characters that no header can carry.",
                hint="Use letters, digits and signs of ASCII, without spaces.",
            )
        if token is None and not is_loopback(host):
            raise InvalidRequestError(
                "The server would be open to the network without a token.",
                hint="Set a token (--token, or SDMANAGER_TOKEN), or listen on 127.0.0.1.",
            )
        return cls(
            port,
            host,
            token,
            frozenset(_normal_origin(value) for value in allow_origin),
            frozenset(_normal_name(value) for value in allow_host),
        )


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a request is judged by; of headers, all values there are.

    Attributes:
        method: Upper case.
        target: As in the request line.
        hosts: Of ``Host``.
        origins: Of ``Origin``.
        fetch_sites: Of ``Sec-Fetch-Site``.
        fetch_modes: Of ``Sec-Fetch-Mode``.
        fetch_dests: Of ``Sec-Fetch-Dest``.
        content_types: Of ``Content-Type``.
        authorizations: Of ``Authorization``.
        query_tokens: Of ``token`` in the query.
        has_body: Whether a body follows, however short.
    """

    method: str
    target: str
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    fetch_sites: Sequence[str] = ()
    fetch_modes: Sequence[str] = ()
    fetch_dests: Sequence[str] = ()
    content_types: Sequence[str] = ()
    authorizations: Sequence[str] = ()
    query_tokens: Sequence[str] = ()
    has_body: bool = True


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach what listens on a host."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def judge(policy: DoorPolicy, facts: RequestFacts) -> SDManagerError | None:
    """Why a request is refused, or None if it may come in.

    ``OPTIONS`` needs no token: browsers send none with a preflight.
    """
    error: SDManagerError | None = _judge_host(policy, facts) or _judge_source(policy, facts)
    if error is None and facts.method != "OPTIONS":
        error = _judge_token(policy, facts) or _judge_content(facts)
    return error


def _judge_host(policy: DoorPolicy, facts: RequestFacts) -> RefusedError | None:
    # A name that is not ours is what DNS rebinding looks like: a page of a stranger, with our address.
    accepted = len(facts.hosts) == 1 and _accepts_host(policy, facts.hosts[0])
    if accepted and not facts.target.startswith("/") and facts.target != "*":
        accepted = _accepts_host(policy, _authority(facts.target))
    return None if accepted else refused_host()


def refused_host() -> RefusedError:
    """What is said to a request whose ``Host`` is missing, doubled or not ours."""
    return RefusedError(
        "The request does not name this server as its host.",
        hint="Use http://127.0.0.1 or http://localhost with the server's port, or start it with --allow-host.",
    )


def _judge_source(policy: DoorPolicy, facts: RequestFacts) -> RefusedError | None:
    listed = False
    if facts.origins:
        listed = facts.origins[0].lower() in policy.allowed_origins
        own = _is_own_origin(policy, facts.origins[0].lower(), facts.hosts[0].lower())
        if len(facts.origins) != 1 or not (listed or own):
            return RefusedError(
                "Pages of this origin may not use the server.",
                hint="Start the server with --allow-origin and this origin.",
            )
    if not listed and "cross-site" in facts.fetch_sites and not _opens_the_page(facts):
        return RefusedError(
            "Pages of other sites may not use the server.",
            hint="Allow the page's origin at the server's start. Pages of an allowed origin must ask with CORS: their "
            "pictures need the attribute crossorigin.",
        )
    return None


def _opens_the_page(facts: RequestFacts) -> bool:
    """Whether somebody followed a link to our page; frames in pages of others say ``navigate``, too."""
    return (
        facts.method == "GET"
        and facts.target.partition("?")[0] == _OPEN_TARGET
        and list(facts.fetch_modes) == ["navigate"]
        and all(dest == "document" for dest in facts.fetch_dests)
    )


def _judge_token(policy: DoorPolicy, facts: RequestFacts) -> UnauthorizedError | None:
    token = policy.token
    if token is None:
        return None
    reads = facts.method in ("GET", "HEAD")
    if reads and facts.target.partition("?")[0] == _OPEN_TARGET:
        return None
    shown = [_bytes(value) for value in facts.query_tokens] if reads else []
    for value in facts.authorizations:
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "bearer":
            shown.append(_bytes(rest.strip()))
        elif scheme.lower() == "basic" and (password := _password(rest.strip())):
            shown.append(password)
    # All of them: nobody is to wonder which one counted.
    if shown and all(hmac.compare_digest(value, token.encode()) for value in shown):
        return None
    return UnauthorizedError("The server's token is missing or wrong.")


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _password(credentials: str) -> bytes:
    """The password in the credentials of HTTP Basic; empty, as clients send it that were told none, for no such."""
    try:
        return base64.b64decode(_bytes(credentials), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _judge_content(facts: RequestFacts) -> MediaTypeError | None:
    # A page of another site can send other types without asking first.
    if facts.method not in _METHODS_WITH_BODY:
        return None
    essences = [value.partition(";")[0].strip().lower() for value in facts.content_types]
    if len(essences) == 1 and essences[0] in _CONTENT_TYPES:
        return None
    is_bare = not facts.has_body and _SLASHES.sub("/", facts.target).startswith(_BARE_POSTS)
    if is_bare and essences in ([], [_BARE_TYPE]):
        return None
    return refused_content()


def refused_content() -> MediaTypeError:
    """What is said to a request whose ``Content-Type`` is missing, doubled or none that is taken."""
    return MediaTypeError("The content type of the request is missing or is none that is taken.")


def _accepts_host(policy: DoorPolicy, host: str) -> bool:
    host = host.lower()
    if host in policy.own_hosts:
        return True
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    if match[1] in policy.allowed_hosts:
        return True
    # Rebinding needs a name: an address is what the user typed.
    return policy.wildcard and int(match[2] or 80) == policy.port and _address(match[1]) is not None


def _is_own_origin(policy: DoorPolicy, origin: str, host: str) -> bool:
    """Whether a page came from this server; the host must have been accepted."""
    if origin in policy.own_origins:
        return True
    # Of other names, only the one in use: any address could be anybody's. A proxy may speak TLS for us.
    return host not in policy.own_hosts and origin in (f"http://{host}", f"https://{host}")


def _authority(target: str) -> str:
    try:
        return urlsplit(target).netloc
    except ValueError:
        return ""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _normal_origin(value: str) -> str:
    match = _ORIGIN.fullmatch(value.lower())
    if match is None:
        raise InvalidRequestError(
            f"{value!r} is no origin.", hint="Write scheme://host or scheme://host:port, without a path."
        )
    scheme, name, port = match.groups()
    return f"{scheme}://{name}{port if port and port != _DEFAULT_PORTS.get(scheme) else ''}"


def _normal_name(value: str) -> str:
    name = _bracketed(value.lower())
    match = _HOST.fullmatch(name)
    if match is None or match[2] is not None:
        raise InvalidRequestError(
            f"{value!r} is no name of a host.", hint="Write the name without scheme and port."
        )
    return name
