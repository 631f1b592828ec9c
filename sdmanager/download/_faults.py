"""Errors of a download, in words that name the host and the file and no credentials."""

from __future__ import annotations

import errno
import socket
import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING

import requests
import urllib3

from sdmanager.errors import DownloadError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._types import Patience, Wanted

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})

# Whatever requests, urllib3, http.client and ssl raise for what a server or a network does. ValueError: for
# addresses; AttributeError: from a TLS socket that was shut down by another thread.
NETWORK_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
    ValueError,
    AttributeError,
)

_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.ProxySchemeUnknown,
    UnicodeError,
)

HINT = (
    "Check the connection and run it again; HTTPS_PROXY names a proxy, SDMANAGER_MIRROR another place to "
    "download from."
)
_HINT_CERTIFICATE = (
    "Check the clock, and the proxy if it opens TLS connections; REQUESTS_CA_BUNDLE names a file of authorities "
    "to trust."
)
_HINT_MISMATCH = (
    "Nothing of it was used. Run it again; if SDMANAGER_MIRROR is set, ask the owner of the mirror."
)


class RetryError(Exception):
    """An attempt failed in a way that another may not.

    Attributes:
        error: What to raise if no further attempt is made.
        after: Seconds that the server asks to wait, or None.
    """

    def __init__(self, error: DownloadError, after: float | None = None) -> None:
        """Keep both."""
        super().__init__(error.message)
        self.error = error
        self.after = after


class StoppedError(Exception):
    """The download was told to stop."""


def failure(wanted: Wanted, reason: str, why: str, hint: str = HINT, /, **details: object) -> DownloadError:
    """The error for a download that failed.

    Args:
        wanted: What was to be fetched.
        reason: For programs.
        why: For people: the end of a sentence about the server.
        hint: What to do.
        details: More facts for programs.
    """
    return DownloadError(
        f"{wanted.target.name!r} could not be downloaded from {wanted.host or 'nowhere'}: {why}.",
        hint=hint,
        details={"reason": reason, "url": wanted.shown_url, "file": wanted.target.name, **details},
    )


def mismatch(wanted: Wanted, actual: str) -> DownloadError:
    """The error for a file that is another one than was asked for."""
    why = "the file is not the one that was expected, as its SHA-256 is another"
    return failure(wanted, "mismatch", why, _HINT_MISMATCH, expected=wanted.sha256, actual=actual)


def wrong_size(wanted: Wanted, expected: int, actual: int) -> DownloadError:
    """The error for a file of another size than the known one."""
    why = f"the file there has {actual} bytes and not {expected}"
    return failure(wanted, "size", why, _HINT_MISMATCH, expected_bytes=expected, actual_bytes=actual)


def refused(wanted: Wanted, status: int, **details: object) -> DownloadError:
    """The error for a status that says that there is no file."""
    why = {
        401: "it asks for a user and a password",
        403: "it refuses access",
        404: "there is no such file",
        407: "the proxy asks for a user and a password",
        410: "the file is gone",
        429: "it has had too many requests",
    }.get(status, "it has a fault" if status >= 500 else "it refuses the request")
    return failure(wanted, "status", f"{why} (status {status})", status=status, **details)


def network_fault(
    wanted: Wanted, exc: BaseException, patience: Patience, *, proxied: bool = False
) -> DownloadError | RetryError:
    """The error for what the network libraries raised; a `RetryError` if another attempt may go better.

    Args:
        wanted: What was to be fetched.
        exc: What was raised.
        patience: With what the limits were.
        proxied: Whether a proxy was to be asked: then an address that is none is the proxy's.
    """
    chain = list(_chain(exc))

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(link, types) for link in chain)

    cause = type(exc).__name__
    if has(ssl.SSLCertVerificationError):
        why = "its certificate is not trusted"
        return failure(wanted, "certificate", why, _HINT_CERTIFICATE, cause=cause)
    if type(exc) is OSError and exc.errno is None:  # requests' own, and its only one without a number
        why = "the file of trusted authorities that the environment names cannot be read"
        return failure(wanted, "certificate", why, _HINT_CERTIFICATE, cause=cause)
    if has(*_NO_ADDRESS):
        if proxied:
            return failure(wanted, "proxy", "the address of the proxy is not valid", cause=cause)
        return failure(wanted, "url", "the address is not valid", cause=cause)
    reason, why = "interrupted", "the connection was cut"
    if has(urllib3.exceptions.ProxyError):
        reason, why = "unreachable", "the proxy cannot be reached, or refuses"
    elif has(socket.gaierror):
        reason, why = "unreachable", "its name, or that of the proxy, cannot be resolved"
    elif has(urllib3.exceptions.NewConnectionError):  # before the next one, of which it is a kind
        reason, why = "unreachable", f"no connection could be made ({_system_reason(chain)})"
    elif has(urllib3.exceptions.ConnectTimeoutError):
        reason, why = "unreachable", f"no connection could be made within {patience.connect:g} s"
    elif has(urllib3.exceptions.ReadTimeoutError):
        why = f"it sent nothing for {patience.read:g} s"
    elif has(ssl.SSLError):
        why = "the encrypted connection failed"
    return RetryError(failure(wanted, reason, why, cause=cause))


def _system_reason(chain: list[BaseException]) -> str:
    texts = (link.strerror for link in chain if isinstance(link, OSError) and link.errno)
    return next((text.lower() for text in texts if text), "unknown reason")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception and all that led to it, however the libraries tie them together."""
    waiting, seen = [exc], set()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        ties = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        waiting += [tie for tie in ties if isinstance(tie, BaseException)]


def not_writable(wanted: Wanted, exc: OSError) -> StorageError:
    """The error for a file that cannot be written."""
    return StorageError(
        f"The file {wanted.target.name!r} cannot be written: {exc.strerror or type(exc).__name__}.",
        details={"path": str(wanted.target), "errno": exc.errno},
    )


def disk_full(wanted: Wanted, needed: int | None, free: int) -> StorageError:
    """The error for a disk that has, or turned out to have, too little room.

    Args:
        wanted: What was to be fetched.
        needed: Bytes that are still to come and a margin, or None if nobody knows.
        free: Bytes on the disk.
    """
    need = "more than is free" if needed is None else f"{-(-needed // 2**20)} MiB of free space"
    return StorageError(
        f"The file {wanted.target.name!r} needs {need} on its disk, which has {free // 2**20} MiB.",
        hint="Free some space, or set SDMANAGER_HOME to a folder on another disk.",
        details={
            "path": str(wanted.target),
            "errno": errno.ENOSPC,
            "needed_bytes": needed,
            "free_bytes": free,
        },
    )
