"""Which files of huggingface_hub's cache a pull is fetching: ours to delete, whatever becomes of the pull."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_json

from ._deleting import delete_owned
from .store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdmanager.settings import Settings


class Journal:
    """What one pull fetches, kept until the model is installed: a killed pull leaves it to the next.

    Args:
        path: Of the file; those of other pulls lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> frozenset[str]:
        """The files that an earlier pull of this model has fetched, or was about to."""
        return _paths_in(self._path)

    def write(self, paths: Iterable[str]) -> None:
        """Note that these files are ours, if they come to be.

        Raises:
            StorageError: It cannot be written.
        """
        write_json(self._path, sorted(paths))

    def settle(self) -> None:
        """Keep what is there, when the pull has failed."""
        there = [path for path in self.read() if os.path.lexists(path)]
        with contextlib.suppress(StorageError):  # it says too much then, which keeps files that could go
            if there:
                self.write(there)
            else:
                self.close()

    def close(self) -> None:
        """Forget it: the model is installed, or nothing of it is left."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def others(self) -> frozenset[str]:
        """The files that pulls of other models are fetching."""
        paths = [path for path in self._path.parent.glob("*.json") if path != self._path]
        return frozenset().union(*map(_paths_in, paths))


def discard(paths: Iterable[tuple[str, str | None]], journal: Journal, settings: Settings) -> None:
    """Delete what a pull has fetched, but for what another model has, or is getting.

    Args:
        paths: Of each file its place in the cache, and that of its content, where that is known.
        journal: That of the pull.
        settings: Says where models are kept.
    """
    used = {os.path.realpath(path) for path in journal.others()}
    used |= {os.path.realpath(file.path) for model in ModelStore(settings).list() for file in model.files}
    for pointer, blob in paths:
        if os.path.realpath(pointer) in used:
            continue
        with contextlib.suppress(OSError):
            delete_owned(Path(pointer), settings.models_dir)
            # It may be whole, and not yet be named.
            if blob is not None and not _is_named(blob):
                Path(blob).unlink(missing_ok=True)


def _is_named(blob: str) -> bool:
    """Whether any commit of its repository has a link to it."""
    links = (
        Path(folder, name)
        for folder, _, names in os.walk(Path(blob).parent.parent / "snapshots")
        for name in names
    )
    return any(os.path.realpath(link) == os.path.realpath(blob) for link in links)


def _paths_in(path: Path) -> frozenset[str]:
    data = read_json(path)
    return (
        frozenset(each for each in data if isinstance(each, str)) if isinstance(data, list) else frozenset()
    )
