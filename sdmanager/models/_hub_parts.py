"""What is unfinished in the cache of huggingface_hub: that of this process, and what dead ones left."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOM_TO_SPARE: Final = 64 * 2**20
"""Bytes that a transfer leaves free on the disk."""

STALE_SECONDS: Final = 60.0
"""After which nothing comes any more of what is as it was."""

TRIALS: Final = "tmp-sdmanager-"
"""How the names of the folders begin in which the library, in a worker of ours, tries whether links can be made."""


def own_parts(parts: Iterable[Path]) -> list[Path]:
    """Those of some unfinished files that this process has open; none where the system does not tell."""
    mine = set()
    with contextlib.suppress(OSError):
        for entry in list(Path("/dev/fd").iterdir()):
            with contextlib.suppress(OSError, ValueError):
                found = os.fstat(int(entry.name))
                mine.add((found.st_dev, found.st_ino))
    held = []
    for part in parts:
        with contextlib.suppress(OSError):
            found = part.stat()
            if (found.st_dev, found.st_ino) in mine:
                held.append(part)
    return held


def clear_parts(blob: Path, *, older: float) -> None:
    """Delete what dead processes left of a file, where nobody holds the library's lock of it.

    Args:
        blob: The file in the cache that would have become whole.
        older: Seconds since anything was last written to what is deleted; some file systems only pretend to lock.
    """
    from filelock import FileLock, Timeout

    storage = blob.parent.parent
    _clear_probes((storage, blob.parent))
    clear_trials(blob, TRIALS, older=max(older, STALE_SECONDS))
    oldest = time.time() - older
    with contextlib.suppress(OSError, Timeout, NotImplementedError):
        parts = [
            part for part in blob.parent.glob(f"{blob.name}*.incomplete") if part.lstat().st_mtime <= oldest
        ]
        if not parts:
            return
        locks = storage.parent / ".locks" / storage.name
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{blob.name}.lock", timeout=0, mode=0o664):
            for part in parts:
                part.unlink(missing_ok=True)


def clear_trials(blob: Path, prefix: str, *, older: float = 0.0) -> None:
    """Delete folders in which a worker has tried whether links can be made, and was ended over it.

    Args:
        blob: A file of the cache: they are in its repository's folder, or in that of the whole cache.
        prefix: Of their names.
        older: Seconds since anything was last made in what is deleted.
    """
    oldest = time.time() - older
    with contextlib.suppress(OSError):
        for folder in (blob.parent.parent, blob.parent.parent.parent):
            for trial in folder.glob(f"{prefix}*"):
                if trial.lstat().st_mtime <= oldest:
                    shutil.rmtree(trial, ignore_errors=True)


def _clear_probes(folders: Iterable[Path]) -> None:
    """Delete the empty files by which the library finds out about rights; who makes one does not mind its loss."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for probe in folder.glob("tmp_*-*-*-*-*"):
                if probe.lstat().st_size == 0:
                    probe.unlink(missing_ok=True)
