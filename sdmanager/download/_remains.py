"""What writers leave beside a target: finding it again, telling the living from the dead, sweeping.

A part is three files with one random token in their names: the bytes, a JSON object that says of what they
are (only then can they be gone on with), and a lock that its writer holds. Where a file system has no locks
nothing is taken over.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sdmanager.files import read_json

from ._rules import strong_etag

if TYPE_CHECKING:
    from pathlib import Path

    from ._types import Wanted

STALE_SECONDS = 7 * 24 * 3600.0

# A writer makes its lock before anything else: what is useless and this old has no writer.
USELESS_SECONDS = 60.0

_FILE = re.compile(r"(\..+\.[0-9a-f]{16})\.(?:download|json|lock)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Names:
    """The paths of one part."""

    data: Path
    about: Path
    lock: Path

    @classmethod
    def of(cls, folder: Path, base: str) -> Names:
        """Those that begin with `base`."""
        return cls(folder / f"{base}.download", folder / f"{base}.json", folder / f"{base}.lock")

    def remove(self) -> None:
        """Remove the bytes and what is said about them, as far as that can be done."""
        for path in (self.data, self.about):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class About:
    """Of what the bytes of a part are; the address has no credentials in it."""

    url: str
    sha256: str
    etag: str
    total: int | None

    @classmethod
    def read(cls, path: Path) -> About | None:
        """What the file says, or None when it is missing, cut short or malformed."""
        found = read_json(path)
        if not isinstance(found, dict):
            return None
        url, sha256, etag, total = (found.get(key) for key in ("url", "sha256", "etag", "total"))
        if not (isinstance(url, str) and isinstance(sha256, str) and isinstance(etag, str)):
            return None
        if not (total is None or type(total) is int) or strong_etag(etag) != etag:
            return None
        return cls(url, sha256, etag, total)

    def write(self, path: Path) -> None:
        """Write it: not whole or not at all, as what is cut short counts as missing."""
        path.write_text(json.dumps(asdict(self)), encoding="ascii")

    def fits(self, wanted: Wanted) -> bool:
        """Whether the bytes are those of a file that is wanted."""
        same = (self.url, self.sha256) == (wanted.shown_url, wanted.sha256)
        return same and (wanted.size is None or self.total in (None, wanted.size))


@dataclass(frozen=True, slots=True)
class Left:
    """A part whose writer is gone; its lock is held by whoever has this."""

    names: Names
    lock: FileLock
    about: About
    size: int

    def release(self, *, remove: bool) -> None:
        """Let go of it, and remove all of it or only the lock."""
        if remove:
            self.names.remove()
        unlock(self.names, self.lock)


class _Use(Enum):
    NONE_OF_OURS = auto()
    REMOVE = auto()
    ADOPT = auto()


def new_names(wanted: Wanted) -> tuple[Names, FileLock | None]:
    """Names that nobody else has, and their lock, or None where locks do not work."""
    # Shortened, because names are limited to 255 bytes, and a character may take four.
    names = Names.of(wanted.target.parent, f".{wanted.target.name[:50]}.{secrets.token_hex(8)}")
    return names, lock_of(names)


def lock_of(names: Names) -> FileLock | None:
    """The lock of a part, or None if somebody has it or the file system has none."""
    lock = FileLock(names.lock, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock


def unlock(names: Names, lock: FileLock) -> None:
    """Let go of a lock and remove its file."""
    # Before letting go: afterwards the file may be another's. Some systems remove none that is open.
    with contextlib.suppress(OSError):
        names.lock.unlink(missing_ok=True)
    lock.release()


def take_best(wanted: Wanted) -> Left | None:
    """The largest part that a dead writer left of the wanted file; smaller ones and useless ones go."""
    best: Left | None = None
    for names in _parts_in(wanted.target.parent):
        age = _age(names)  # now, as some versions of the lock write to its file
        if _use_of(names, wanted, age)[0] is _Use.NONE_OF_OURS:
            continue
        lock = lock_of(names)
        if lock is None:
            continue
        use, about, size = _use_of(names, wanted, age)  # again: it may have been taken in between
        if use is _Use.ADOPT and about is not None:
            found = Left(names, lock, about, size)
            if best is not None and best.size >= size:
                found, best = best, found
            if best is not None:
                best.release(remove=True)
            best = found
            continue
        if use is _Use.REMOVE:
            names.remove()
        unlock(names, lock)
    return best


def _parts_in(folder: Path) -> list[Names]:
    try:
        matches = [_FILE.fullmatch(entry.name) for entry in folder.iterdir()]
    except OSError:
        return []
    return [Names.of(folder, base) for base in sorted({match[1] for match in matches if match})]


def _age(names: Names) -> float:
    """Seconds since anything was written to the part."""
    times = []
    for path in (names.data, names.about, names.lock):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return time.time() - max(times, default=0.0)


def _use_of(names: Names, wanted: Wanted, age: float) -> tuple[_Use, About | None, int]:
    about = About.read(names.about)
    try:
        size = names.data.stat().st_size
    except OSError:
        size = 0
    if age > STALE_SECONDS:
        return _Use.REMOVE, about, size
    if about is None or not size or (about.total is not None and size > about.total):
        return _Use.REMOVE if age > USELESS_SECONDS else _Use.NONE_OF_OURS, about, size
    return _Use.ADOPT if about.fits(wanted) else _Use.NONE_OF_OURS, about, size
