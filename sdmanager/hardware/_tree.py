"""Reading the system's own files, which may be missing, unreadable, endless or nonsense."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._values import clean_text, parse_number

_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Tree:
    """The file system below a folder; nothing here raises.

    Attributes:
        root: Stands for ``/``.
    """

    root: Path = Path("/")

    def path(self, path: str) -> Path:
        """Where an absolute path of the system lies."""
        return self.root / path.lstrip("/")

    def read(self, path: str, limit: int = _LIMIT) -> bytes | None:
        """The first bytes of a regular file."""
        kept = b""
        with suppress(OSError, ValueError):
            # Opening a pipe or some devices would wait for somebody at the other end.
            descriptor = os.open(self.path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return None
                while len(kept) < limit and (piece := os.read(descriptor, limit - len(kept))):
                    kept += piece
            finally:
                os.close(descriptor)
            return kept
        return None

    def lines(self, path: str, limit: int = _LIMIT) -> list[str]:
        """The lines of a text file; none where it cannot be read."""
        return (self.read(path, limit) or b"").decode("utf-8", "replace").splitlines()

    def text(self, path: str) -> str | None:
        """The one line that a file holds."""
        return clean_text(self.read(path, 4096))

    def number(self, path: str, base: int = 10) -> int | None:
        """The one number that a file holds."""
        return parse_number(self.text(path), base)

    def names(self, path: str) -> list[str]:
        """What is in a folder, in order."""
        with suppress(OSError, ValueError):
            return sorted(entry.name for entry in self.path(path).iterdir())
        return []

    def target(self, path: str) -> str | None:
        """The last name of what a link points to, there or not."""
        with suppress(OSError, ValueError):
            return clean_text(self.path(path).readlink().name)
        return None

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        with suppress(OSError, ValueError):
            self.path(path).stat()
            return True
        return False
