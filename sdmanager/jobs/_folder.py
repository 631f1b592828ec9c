"""The folder of a registry: in it one folder per generation, with its record and its pictures; one owner at a time."""

from __future__ import annotations

import contextlib
import json
import logging
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import write_whole

from ._lock import LOCK_NAME, MARK_NAME, lock_folder, remove
from .ids import is_id
from .records import from_json, image_name, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from filelock import FileLock

    from sdmanager.generation import GenerationResult

    from .snapshots import Generation

_LOG = logging.getLogger("sdmanager.jobs")

_RECORD: Final = "record.json"
_RECORD_BYTES_MAX: Final = 16 * 2**20

# Whoever looks for a free folder holds the lock for a moment.
_PATIENCE: Final = 0.25


class GenerationFolder:
    """What a registry keeps on disk.

    Nothing is forced to the disk itself: what was written is there when the process is killed at any moment,
    and may be missing after a power cut.

    Args:
        path: Where; made by ``take``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    @property
    def taken(self) -> bool:
        """Whether this is its owner."""
        return self._lock is not None

    def take(self) -> list[Generation]:
        """Become its owner, until ``release`` or the end of the process.

        Returns:
            What an earlier owner left, the oldest first. What is none of it, or not whole, is removed.

        Raises:
            StorageError: Somebody else is its owner, or it cannot be used, or it is none of a registry's.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_folder(self.path, patience=_PATIENCE)
            if lock is None:
                raise self._refused(
                    "is in use by another server", "Stop the other one, or use another folder."
                )
            try:
                self._mark()
                found = self._load()
            except BaseException:
                lock.release()
                raise
        except StorageError:
            raise
        except OSError as exc:
            raise self._refused(f"cannot be used: {exc.strerror or exc}", None, exc.errno) from exc
        self._lock = lock
        return found

    def release(self) -> None:
        """Let the next owner take it; idempotent."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def add(self, generation: Generation) -> None:
        """Write down a new generation.

        Raises:
            StorageError: It cannot be written, and nothing of it is there.
        """
        folder = self._of(generation.id)
        try:
            folder.mkdir()
            self._write(generation)
        except StorageError:
            remove(folder)
            raise
        except OSError as exc:
            raise StorageError(
                f"The generation cannot be written down: {exc.strerror or exc}.",
                details={"path": str(folder), "errno": exc.errno},
            ) from exc

    def note(self, generation: Generation) -> None:
        """Write down how a generation stands now; a warning says where that cannot be done."""
        images = generation.result.images if generation.result else ()
        folder = self._of(generation.id)
        if any(image.source != folder / image_name(index) for index, image in enumerate(images)):
            return  # a record of pictures that are not there would be worse than the one of the work on them
        try:
            self._write(generation)
        except StorageError as exc:
            _LOG.warning("That a generation is %s is not written down: %s", generation.status, exc)

    def store(self, generation_id: str, result: GenerationResult) -> GenerationResult:
        """Write the pictures of a generation.

        Returns:
            The same result with the files in the place of the bytes.

        Raises:
            StorageError: They cannot be written, and none of them is there; or the generation's folder is gone.
        """
        paths = [self._of(generation_id) / image_name(index) for index in range(len(result.images))]
        try:
            for path, image in zip(paths, result.images, strict=True):
                write_whole(path, image.png, durable=False)
        except StorageError:
            for path in paths:
                remove(path)
            raise
        images = zip(result.images, paths, strict=True)
        return replace(result, images=tuple(replace(image, source=path) for image, path in images))

    def remove(self, generation_ids: Iterable[str]) -> list[str]:
        """Remove all that is kept of generations; those are returned of which nothing is left."""
        return [name for name in generation_ids if remove(self._of(name))]

    def _of(self, generation_id: str) -> Path:
        if not is_id(generation_id):
            raise ValueError("not the id of a generation")
        return self.path / generation_id

    def _write(self, generation: Generation) -> None:
        # ASCII only: a name in it may hold bytes that are no UTF-8, which have no encoding of their own.
        data = json.dumps(to_json(generation)).encode("ascii")
        write_whole(self._of(generation.id) / _RECORD, data, durable=False)

    def _mark(self) -> None:
        mark = self.path / MARK_NAME
        if mark.exists():
            return
        if any(entry.name != LOCK_NAME for entry in self.path.iterdir()):
            raise self._refused(
                "holds other files, which would be lost", "Use a folder that is empty or not there yet."
            )
        mark.touch()

    def _load(self) -> list[Generation]:
        found = []
        for entry in list(self.path.iterdir()):
            if entry.name in {LOCK_NAME, MARK_NAME}:
                continue
            try:
                generation = _read(entry)
            except OSError as exc:  # such as too many open files: no reason to throw it away
                _LOG.warning("A generation cannot be read, and is left alone: %s", exc.strerror)
                continue
            if generation is None:
                remove(entry)
                continue
            found.append(generation)
            images = generation.result.images if generation.result else ()
            kept = {_RECORD, *(image_name(index) for index in range(len(images)))}
            for other in list(entry.iterdir()):
                if other.name not in kept:
                    remove(other)
        return sorted(found, key=lambda generation: (generation.created_at, generation.id))

    def _refused(self, why: str, hint: str | None, errno: int | None = None) -> StorageError:
        return StorageError(
            f"The folder of generations {why}.", hint=hint, details={"path": str(self.path), "errno": errno}
        )


def _read(folder: Path) -> Generation | None:
    """The generation in a folder with all of its pictures, or None.

    Raises:
        OSError: There is a record, and it cannot be read now.
    """
    record = folder / _RECORD
    if not is_id(folder.name) or folder.is_symlink() or not 0 < _file_size(record) <= _RECORD_BYTES_MAX:
        return None
    try:
        generation = from_json(json.loads(record.read_bytes()), folder)
    except (ValueError, RecursionError):
        return None
    images = generation.result.images if generation is not None and generation.result is not None else ()
    whole = all(_file_size(folder / image_name(index)) for index in range(len(images)))
    return generation if whole else None


def _file_size(path: Path) -> int:
    """Bytes of an ordinary file; 0 where there is none, or something else, such as a link."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    return 0
