"""What a pull leaves when it has not gone through: other models keep what they have, and are not taken for changed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import SDManagerError

from ._deleting import delete_owned, places_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdmanager.settings import Settings

    from ._pull_journal import Noted
    from .installed import InstalledFile
    from .store import ModelStore


def discard(files: Iterable[Noted], journal: Path, store: ModelStore, settings: Settings) -> None:
    """Delete what a pull has fetched, but for what a model has, or another pull uses.

    Args:
        files: Of the pull.
        journal: That of the pull.
        store: The installed models.
        settings: Says where models are kept.

    Raises:
        StorageError: Others hold the list of installed models.
    """
    with store.undisturbed():
        needed = store.needed(but=journal)
        for noted in files:
            with contextlib.suppress(OSError):
                delete_owned(Path(noted.pointer), settings.models_dir, needed)
                if noted.blob is None or places_of(Path(noted.blob))[0] in needed:
                    continue
                # It may be whole, and not yet be named.
                if not _is_named(noted.blob):
                    Path(noted.blob).unlink(missing_ok=True)


class Times:
    """When files were written that a pull may fetch again: records of models name that, too.

    Args:
        paths: Of the files.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._before: dict[str, int] = {}
        for path in paths:
            with contextlib.suppress(OSError):
                self._before[os.path.realpath(path)] = os.stat(path).st_mtime_ns  # noqa: PTH116

    def renew(self, store: ModelStore) -> None:
        """Write down new times for files that were as their records say before, and have the same content now."""
        for model in store.list():
            files = tuple(self._renewed(file) for file in model.files)
            if files != model.files:
                with contextlib.suppress(SDManagerError):  # 'verify' does it as well
                    store.swap(replace(model, files=files), model)

    def _renewed(self, file: InstalledFile) -> InstalledFile:
        real = Path(os.path.realpath(file.path))
        if self._before.get(str(real)) != file.mtime_ns or real.name != file.sha256:
            return file
        try:
            found = real.stat()
        except OSError:
            return file
        return replace(file, mtime_ns=found.st_mtime_ns) if found.st_size == file.size else file


def _is_named(blob: str) -> bool:
    """Whether any commit of its repository has a link to it."""
    links = (
        Path(folder, name)
        for folder, _, names in os.walk(Path(blob).parent.parent / "snapshots")
        for name in names
    )
    return any(os.path.realpath(link) == os.path.realpath(blob) for link in links)
