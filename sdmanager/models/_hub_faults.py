"""What kind of fault it was that huggingface_hub, its HTTP client or the system raised."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# By the names of classes: the library has changed its HTTP client before. The first that matches counts.
_KINDS: Final = (
    ("OfflineModeIsEnabled", "offline"),
    ("GatedRepoError", "gated"),
    ("RepositoryNotFoundError", "repository"),
    ("RevisionNotFoundError", "revision"),
    ("RemoteEntryNotFoundError", "entry"),
    ("DisabledRepoError", "disabled"),
    ("HFValidationError", "name"),
    ("LocalTokenNotFoundError", "token"),
    ("FileMetadataError", "no_hub"),
    ("HfHubHTTPError", "status"),
    ("ProxyError", "proxy"),
    ("TooManyRedirects", "no_hub"),
    ("InvalidURL", "address"),
    ("UnsupportedProtocol", "address"),
    ("LocalProtocolError", "address"),
    ("ConnectError", "unreachable"),
    ("ConnectTimeout", "unreachable"),
    ("TimeoutException", "stalled"),
    ("TransportError", "cut"),
)
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class WrongFileError(Exception):
    """What was fetched is not what was asked for.

    Args:
        kind: ``size`` or ``digest``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class SetUpError(Exception):
    """The library cannot be used as it is set up.

    Args:
        facts: With the kind of fault.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(facts["kind"])
        self.facts = facts


def library_fault(exc: Exception) -> SetUpError:
    """What it is that the library cannot be imported for: perhaps a variable that it cannot read."""
    said = str(exc) if isinstance(exc, ValueError) else ""
    values = [
        (len(value), name) for name, value in os.environ.items() if name.startswith("HF_") and value in said
    ]
    variable = max((each for each in values if each[0]), default=(0, None))[1]
    return SetUpError({"kind": "library", "cause": type(exc).__name__, "variable": variable})


def facts_of(exc: BaseException) -> dict[str, Any]:
    """The kind of fault, and a few numbers: never a text of the library, which may hold a signed address."""
    chain = list(_chain(exc))
    for link in chain:
        if isinstance(link, WrongFileError):
            return {"kind": link.kind}
        if isinstance(link, SetUpError):
            return link.facts
        names = {base.__name__ for base in type(link).__mro__}
        kind = next((kind for name, kind in _KINDS if name in names), None)
        if kind == "unreachable":
            return {"kind": _why_unreachable(chain)}
        if kind is not None:
            status = getattr(getattr(link, "response", None), "status_code", None)
            return {"kind": kind} | ({"status": status} if isinstance(status, int) else {})
        if type(link) is OSError and link.errno is None and "Consistency check" in str(link):
            return {"kind": "size"}
        if isinstance(link, OSError) and link.errno is not None:
            full = link.errno in _FULL
            return {
                "kind": "full" if full else "storage",
                "errno": link.errno,
                "reason": os.strerror(link.errno),
            }
    return {"kind": "other", "cause": type(exc).__name__}


def _why_unreachable(chain: list[BaseException]) -> str:
    if any(isinstance(link, ssl.SSLError) for link in chain) or "CERTIFICATE_VERIFY" in str(chain[0]):
        return "certificate"
    if any(isinstance(link, socket.gaierror) for link in chain):
        return "no_such_host"
    return "unreachable"


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, at most so many: a chain may be a ring."""
    link: BaseException | None = exc
    for _ in range(20):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
