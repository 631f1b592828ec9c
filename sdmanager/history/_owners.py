"""Who has frames in a gallery: each server that has it open, for as long as it lives."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from sdmanager.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK: Final = ".lock"
_PATIENCE_SECONDS: Final = 30.0


class Owner:
    """A folder for what is not whole yet, and the lock that says that somebody lives who has it.

    Args:
        forming: Folder of the folders of owners.

    Raises:
        OSError: It cannot be made or locked.
    """

    def __init__(self, forming: Path) -> None:
        self.name = secrets.token_hex(8)
        self.folder = forming / self.name
        self.folder.mkdir()
        lock = _locked(self.folder)
        if lock is None:
            raise OSError("somebody has locked a folder that nobody can know")
        self._lock = lock

    def release(self) -> None:
        """Remove the folder, and let go of it; idempotent."""
        _remove(self.folder, self._lock)


@contextlib.contextmanager
def alone(forming: Path, *, seconds: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Nobody else opens the gallery meanwhile: a folder that was just made is not locked yet.

    Args:
        forming: Folder of the folders of owners.
        seconds: How long to wait for who does.

    Raises:
        StorageError: Somebody takes longer over it.
        OSError: It cannot be locked.
    """
    lock = FileLock(forming / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.01)
    except Timeout:
        raise StorageError("Another server has been opening the gallery for too long.") from None
    except NotImplementedError as exc:
        raise OSError(str(exc)) from exc
    try:
        yield
    finally:
        lock.release()


def living(forming: Path) -> set[str]:
    """Names of those who live; the folders of all others are removed. To be called ``alone``."""
    found = set()
    for folder in list(forming.iterdir()):
        if not folder.is_dir() or folder.is_symlink() or not _is_name(folder.name):
            continue
        try:
            lock = _locked(folder)
        except OSError:
            lock = None
        if lock is None:
            found.add(folder.name)
            continue
        _remove(folder, lock)
    return found


def _remove(folder: Path, lock: FileLock) -> None:
    """The file of the lock goes last, once it is open no more: some systems remove no file that is."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name == _LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()
    lock.release()
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _locked(folder: Path) -> FileLock | None:
    """The lock of an owner's folder; None while the owner lives."""
    lock = FileLock(folder / _LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except NotImplementedError as exc:
        raise OSError(str(exc)) from exc
    return lock


def _is_name(name: str) -> bool:
    return len(name) == 16 and not set(name) - set("0123456789abcdef")
