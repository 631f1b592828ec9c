"""Which files of huggingface_hub's cache a pull is fetching, and which it uses: whatever becomes of the pull."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

JOURNALS_NAME: Final = "pulls"
"""Folder of the journals, in that of states."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A file of a pull: its place in the cache, and that of its content, where that is known."""

    pointer: str
    blob: str | None

    def exists(self) -> bool:
        """Whether it is there, or its content is and has no name yet."""
        return any(os.path.lexists(path) for path in (self.pointer, self.blob) if path is not None)


class Journal:
    """What one pull fetches and uses, kept until the model is installed: a killed pull leaves it to the next.

    Args:
        path: Of the file; those of other pulls lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._path

    def read(self) -> frozenset[Noted]:
        """The files that an earlier pull of this model has fetched, or was about to."""
        return _ours_in(self._path)

    def write(self, ours: Iterable[Noted], uses: Iterable[Noted]) -> None:
        """Note which files are ours, if they come to be, and which are only used.

        Raises:
            StorageError: It cannot be written.
        """
        data = {"ours": _listed(ours), "uses": _listed(uses)}
        write_json(self._path, data)

    def settle(self, listed: Collection[str]) -> int:
        """Keep what is there and is in no record, when the pull has failed; its bytes.

        Args:
            listed: Files that records of models name.
        """
        there = [noted for noted in self.read() if noted.exists() and noted.pointer not in listed]
        if not there:
            self.close()
            return 0
        with contextlib.suppress(StorageError):  # it says too much then, which keeps files that could go
            self.write(there, ())
        return sum(map(_size_of, there))

    def close(self) -> None:
        """Forget it: the model is installed, or nothing of it is left."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def others_fetch(self) -> frozenset[str]:
        """The files that pulls of other models are fetching."""
        paths = [path for path in self._path.parent.glob("*.json") if path != self._path]
        return frozenset(noted.pointer for path in paths for noted in _ours_in(path))


def used_by_pulls(folder: Path, *, but: Path | None = None) -> frozenset[str]:
    """All places that pulls need which have not ended, or were killed.

    Args:
        folder: Of the journals.
        but: The journal that does not count.
    """
    paths = [path for path in folder.glob("*.json") if path != but]
    return frozenset(
        place
        for path in paths
        for part in ("ours", "uses")
        for noted in _noted_in(path, part)
        for place in (noted.pointer, noted.blob)
        if place is not None
    )


def _ours_in(path: Path) -> frozenset[Noted]:
    return _noted_in(path, "ours")


def _listed(files: Iterable[Noted]) -> list[tuple[str, str | None]]:
    return sorted(((noted.pointer, noted.blob) for noted in files), key=lambda pair: pair[0])


def _noted_in(path: Path, part: str) -> frozenset[Noted]:
    data = read_json(path)
    pairs = data.get(part) if isinstance(data, dict) else None
    found = set()
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [str(pointer), str() | None as blob]:
                found.add(Noted(pointer, blob))
            case _:
                pass
    return frozenset(found)


def _size_of(noted: Noted) -> int:
    for path in (noted.pointer, noted.blob):
        if path is not None:
            with contextlib.suppress(OSError):
                return os.stat(path).st_size  # noqa: PTH116
    return 0
