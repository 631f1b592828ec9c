from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ._rules import scrubbed

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is.

    Attributes:
        done: Bytes of the file that are there, those of `resumed` included.
        total: Bytes of the whole file, or None while nobody has said.
        resumed: Bytes that an earlier call had left and that were not fetched again.
    """

    done: int
    total: int | None
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download waits and how often it tries.

    Attributes:
        connect: Seconds to wait for a connection.
        read: Seconds without a byte after which a connection counts as dead.
        attempts: Attempts in a row that may bring nothing new; one that does starts the count again.
        first_pause: Seconds before the second attempt; doubled before each further one.
        longest_pause: Seconds at which the doubling ends.
        longest_retry_after: The longest Retry-After that is waited for; a server that asks for more has failed.
    """

    connect: float = 10.0
    read: float = 30.0
    attempts: int = 5
    first_pause: float = 0.5
    longest_pause: float = 8.0
    longest_retry_after: float = 60.0

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return float(min(self.first_pause * 2.0 ** min(failures - 1, 30), self.longest_pause))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to fetch and where to put it; `url` may hold credentials, the properties do not."""

    url: str
    target: Path
    sha256: str
    size: int | None

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return urlsplit(scrubbed(self.url)).netloc

    @property
    def shown_url(self) -> str:
        """The address without user, password and query."""
        return scrubbed(self.url)
