"""What HTTP's answers mean for a download: pure functions of addresses and headers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

REDIRECTS_MAX = 5
_PORTS = {"http": 80, "https": 443}

# 18 digits: more than any file has, and less than what int() refuses.
_CONTENT_RANGE = re.compile(r"bytes +(\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes +\*/(\d{1,18})", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')


class RedirectRefusedError(Exception):
    """A redirect that is not followed; the text says why."""


class SizeRefusedError(Exception):
    """The server's file has another size than the one that is known."""

    def __init__(self, expected: int, actual: int) -> None:
        """Keep both sizes."""
        super().__init__(expected, actual)
        self.expected = expected
        self.actual = actual


class EncodedError(Exception):
    """The server encoded the content although it was asked not to."""


class Verdict(Enum):
    """What to do with an answer.

    Attributes:
        GO_ON: Its first byte is the one after those that are there.
        FROM_START: Its first byte is the first of the file.
        ASK_AGAIN: Of no use: ask for the whole file.
        COMPLETE: All bytes are there already.
        REFUSED: The status says that there is no file.
    """

    GO_ON = auto()
    FROM_START = auto()
    ASK_AGAIN = auto()
    COMPLETE = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, with the size of the whole file and its strong ETag where the server gave them."""

    verdict: Verdict
    total: int | None = None
    etag: str | None = None


def judge(
    status: int, headers: Mapping[str, str], *, done: int, etag: str | None, size: int | None
) -> Answer:
    """What an answer means.

    Args:
        status: Of the answer.
        headers: Of the answer; looked up by lower-case names.
        done: Bytes that are there: the rest was asked for with `etag` if there are any, else the whole file.
        etag: The strong ETag of the bytes that are there.
        size: Of the whole file, where it is known.

    Raises:
        SizeRefusedError: The whole file has another size.
        EncodedError: The content is encoded.
    """
    if status == 206 and done:
        return _judge_range(headers, done, etag, size)
    if status == 416 and done:
        match = _UNSATISFIED.fullmatch(headers.get("content-range", "").strip())
        whole = match is not None and int(match[1]) == done
        return Answer(Verdict.COMPLETE, done, etag) if whole else Answer(Verdict.ASK_AGAIN)
    if status != 200:
        return Answer(Verdict.REFUSED)
    length = content_length(headers)
    if _is_encoded(headers) and (size is None or length != size):
        # Some servers put "gzip" on a .tar.gz that they send as it is: then the length is the file's own.
        raise EncodedError
    if size is not None and length is not None and length != size:
        raise SizeRefusedError(size, length)
    return Answer(Verdict.FROM_START, length if size is None else size, strong_etag(headers.get("etag")))


def _judge_range(headers: Mapping[str, str], done: int, etag: str | None, size: int | None) -> Answer:
    found = parse_content_range(headers.get("content-range"))
    if found is None or found[0] != done or found[1] + 1 != found[2] or _is_encoded(headers):
        return Answer(Verdict.ASK_AGAIN)
    length, total = content_length(headers), found[2]
    if (size is not None and total != size) or (length is not None and length != total - done):
        return Answer(Verdict.ASK_AGAIN)
    if headers.get("etag", etag) != etag:
        return Answer(Verdict.ASK_AGAIN)
    return Answer(Verdict.GO_ON, total, etag)


def _is_encoded(headers: Mapping[str, str]) -> bool:
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def content_length(headers: Mapping[str, str]) -> int | None:
    """Bytes of the body, or None if the server does not say or says nonsense."""
    text = headers.get("content-length", "").strip()
    if "transfer-encoding" in headers or not _NUMBER.fullmatch(text):
        return None
    return int(text)


def parse_content_range(value: str | None) -> tuple[int, int, int] | None:
    """First byte, last byte and whole size in ``bytes 5-9/10``; None unless they fit each other."""
    match = _CONTENT_RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    first, last, total = int(match[1]), int(match[2]), int(match[3])
    return (first, last, total) if first <= last < total else None


def strong_etag(value: str | None) -> str | None:
    """The ETag if equal ones mean equal bytes, else None."""
    return value.strip() if value and _STRONG_ETAG.fullmatch(value.strip()) else None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a server asks to wait, from a number or a date; None if it does not.

    Args:
        value: Of the header.
        now: Seconds since the epoch.
    """
    text = (value or "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def is_retried(status: int) -> bool:
    """Whether the same request may be answered better later."""
    return status in (408, 429) or status >= 500


def parsed(url: str) -> SplitResult | None:
    """The parts of an address that can be fetched from, or None."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if usable else None


def scrubbed(url: str) -> str:
    """The address without user, password, query and fragment."""
    parts = parsed(url)
    if parts is None:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def redirected(origin: str, url: str, location: str) -> str:
    """Where a redirect leads to.

    Args:
        origin: The address that the caller gave.
        url: The one that was answered with the redirect.
        location: What the answer says.

    Raises:
        RedirectRefusedError: It leads from https to http, from a local mirror to another one, or nowhere.
    """
    try:
        new, old, first = parsed(urljoin(url, location)), parsed(url), parsed(origin)
    except ValueError:
        new = old = first = None
    if new is None or old is None or first is None:
        raise RedirectRefusedError("it redirects to an address that is no http or https one")
    if new.scheme == "http":
        if "https" in (first.scheme, old.scheme):
            raise RedirectRefusedError("it redirects from https to http")
        if _origin(new) != _origin(first):
            raise RedirectRefusedError("it redirects to another host without https")
    # Credentials go on only to the very server that they are for.
    user = old.netloc.rpartition("@")[0] if _origin(new) == _origin(old) else ""
    host = new.netloc.rpartition("@")[2]
    return new._replace(netloc=f"{user}@{host}" if user else host).geturl()


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
