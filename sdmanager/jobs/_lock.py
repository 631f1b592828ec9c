"""Who owns a folder of generations; and folders that nobody owns."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from sdmanager.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK_NAME: Final = ".lock"
MARK_NAME: Final = ".sdmanager-generations"
"""Says that everything in the folder may be removed: somebody may name a folder of their own by mistake."""

_FORGOTTEN_SECONDS: Final = 24 * 3600.0
_FOLDERS_MAX: Final = 1000


def lock_folder(folder: Path, *, patience: float = 0.0) -> FileLock | None:
    """The lock of a folder, which ends with the process; None if somebody has it.

    Args:
        folder: Which; there must be one.
        patience: Seconds to try.

    Raises:
        OSError: It cannot be locked.
    """
    path = folder / LOCK_NAME
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=patience, poll_interval=0.01)
    except Timeout:
        return None
    except NotImplementedError as exc:
        raise OSError(str(exc)) from exc
    if not path.exists():  # somebody has removed the folder in between
        lock.release()
        return None
    return lock


def free_folder(parent: Path, name: str, *, keep: float = 0.0, wall: Callable[[], float] = time.time) -> Path:
    """The first of ``name``, ``name-2``, … in a folder that no living registry holds.

    Other such folders that nobody holds, and nobody has written to for a day and the time to keep, are removed.

    Args:
        parent: Folder of the folders of registries.
        name: What to call it.
        keep: Seconds that a registry keeps results.
        wall: Seconds since the epoch.

    Raises:
        StorageError: There is no end of folders that cannot be used: the parent may not be read.
    """
    for number in range(1, _FOLDERS_MAX):
        wanted = parent / (name if number == 1 else f"{name}-{number}")
        if not _is_held(wanted):
            break
    else:
        raise StorageError(
            "The folder of generations cannot be used.",
            hint="Check who owns the state folder, and its rights.",
        )
    oldest = wall() - _FORGOTTEN_SECONDS - keep
    with contextlib.suppress(OSError):
        for other in list(parent.iterdir()):
            if other != wanted and _is_ours(other) and _newest(other) < oldest:
                _remove_forgotten(other, oldest)
    return wanted


def remove(path: Path) -> bool:
    """Remove a file or a folder with all that is in it, as far as that can be done; whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return not path.exists() and not path.is_symlink()


def _is_ours(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / MARK_NAME).is_file()


def _is_held(folder: Path) -> bool:
    try:
        if not (folder / LOCK_NAME).exists():
            return False
        lock = lock_folder(folder)
    except OSError:
        return True
    if lock is None:
        return True
    lock.release()
    return False


def _remove_forgotten(folder: Path, oldest: float) -> None:
    try:
        lock = lock_folder(folder)
    except OSError:
        return
    if lock is None:
        return
    if _newest(folder) < oldest:  # again: it may have been used in between
        for entry in list(folder.iterdir()):
            if entry.name not in {LOCK_NAME, MARK_NAME}:
                remove(entry)
        # The mark last: without it, what a killed process leaves would be nobody's. And before letting go of the
        # lock: afterwards the folder may be another's.
        remove(folder)
    lock.release()


def _newest(folder: Path) -> float:
    """When anything in it was last written; some releases of the lock write to its file when it is only tried."""
    times = [0.0]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.name != LOCK_NAME:
                times.append(path.lstat().st_mtime)
    return max(times)
