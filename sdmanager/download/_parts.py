"""The unfinished file of one writer: hashed while it is written, published whole or kept for the next call."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from typing import IO, TYPE_CHECKING

from ._remains import About, Names, new_names, take_best, unlock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from filelock import FileLock

    from ._types import Wanted

_CHUNK = 1 << 20


def digest_of(path: Path, check: Callable[[], None]) -> str:
    """The SHA-256 of a file; what `check`, called again and again, raises ends the work."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            check()
            digest.update(chunk)
    return digest.hexdigest()


class Part:
    """An unfinished file of one's own, beside the target.

    Attributes:
        done: Bytes that are there.
        total: Bytes of the whole file, where they are known.
        etag: The server's strong ETag for these bytes: without it they cannot be gone on with.
        adopted: Bytes that an earlier call had left.
        pieces: How many answers the bytes come from.
    """

    def __init__(self, wanted: Wanted, names: Names, lock: FileLock | None) -> None:
        """Begin with an empty file; `lock` is held.

        Raises:
            OSError: The folder cannot be written.
        """
        self._wanted = wanted
        self._names = names
        self._lock = lock
        self._released = False
        self._file: IO[bytes] = io.BytesIO()
        self.etag: str | None = None
        self.done = self.adopted = self.pieces = 0
        try:
            self.restart()
        except BaseException:
            self.release()
            raise

    @classmethod
    def claim(cls, wanted: Wanted, check: Callable[[], None]) -> Part:
        """A part with what a dead writer left of the same file, else an empty one.

        Args:
            wanted: What is to be fetched.
            check: Called again and again; what it raises ends the work.

        Raises:
            OSError: The folder cannot be written.
        """
        part = cls(wanted, *new_names(wanted))
        try:
            part._adopt(check)
        except BaseException:
            part.release()
            raise
        return part

    def _adopt(self, check: Callable[[], None]) -> None:
        left = take_best(self._wanted)
        if left is None:
            return
        self._file.close()
        try:
            # First what the bytes are, then the bytes: a kill in between leaves them where they were.
            left.about.write(self._names.about)
            left.names.data.replace(self._names.data)
        except OSError:
            left.release(remove=False)
            self.restart()
            return
        left.release(remove=True)
        self.etag, self.total = left.about.etag, left.about.total
        self.adopted = left.size
        self._file = self._names.data.open("r+b", buffering=0)
        while chunk := self._file.read(_CHUNK):
            check()
            self._digest.update(chunk)
            self.done += len(chunk)
        self.adopted = self.done

    def restart(self, etag: str | None = None, total: int | None = None) -> None:
        """Begin again with an empty file.

        Args:
            etag: The strong ETag of what will be written.
            total: Bytes of the whole file, where they are known.

        Raises:
            OSError: The folder cannot be written.
        """
        self._file.close()
        # A new file, not the old one cut short: where locks do not hold, another writer may still have that.
        self._names.about.unlink(missing_ok=True)
        self._names.data.unlink(missing_ok=True)
        self._file = self._names.data.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self.done = self.adopted = self.pieces = 0
        self.etag = etag
        self.total = total if self._wanted.size is None else self._wanted.size
        if etag is not None:
            About(self._wanted.shown_url, self._wanted.sha256, etag, self.total).write(self._names.about)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: The disk is full or broken.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._digest.update(data)
        self.done += len(data)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are known to be there."""
        return self.done == self.total

    @property
    def is_of_one_piece(self) -> bool:
        """Whether one answer brought all bytes."""
        return self.pieces <= 1 and not self.adopted

    @property
    def sha256(self) -> str:
        """The digest of the bytes."""
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Put the file in the place of the target, with its bytes on the disk before it has that name.

        Raises:
            OSError: It cannot be done; the target is what it was.
        """
        os.fsync(self._file.fileno())
        own = os.fstat(self._file.fileno())
        self._file.close()  # some systems do not rename a file that is open
        if not os.path.samestat(own, self._names.data.stat()):
            raise OSError("another process took the unfinished file")
        self._names.data.replace(self._wanted.target)
        self.etag = None
        with contextlib.suppress(OSError):  # not every system can do this with a folder
            folder = os.open(self._wanted.target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove the bytes, as far as that can be done."""
        self._file.close()
        self.etag = None
        self._names.remove()

    def release(self) -> None:
        """Keep what another call can go on with, remove what none can, and let go of the lock."""
        if self._released:
            return
        self._released = True
        self._file.close()
        if self.etag is None or not (self.done or self.adopted):
            self._names.remove()
        if self._lock is not None:
            unlock(self._names, self._lock)
