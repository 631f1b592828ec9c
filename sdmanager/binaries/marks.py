"""Telling whether the files of an engine are still those that were proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sdmanager.errors import EngineNotRunnableError, StorageError

from .binary import CUSTOM
from .inspection import file_sha256
from .installed import RECORD, recorded_digests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .binary import EngineBinary

_OF_FILE_MANAGERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

Marks: TypeAlias = dict[str, list[int | str]]
"""Of each file by its name below the engine's folder: size, time of change, inode, sha256."""


def take_marks(engine: EngineBinary) -> Marks:
    """Read every file of an engine.

    Raises:
        OSError: One cannot be read.
    """
    return {name: [*_stat(path), file_sha256(path)] for name, path in _files(engine)}


def looks_unchanged(engine: EngineBinary, marks: Marks) -> bool:
    """Whether every file has the size, time and inode of its mark, and none came or went. Reads no file."""
    try:
        return {name: _stat(path) for name, path in _files(engine)} == {
            name: mark[:3] for name, mark in marks.items()
        }
    except OSError:
        return False


def same_content(marks: Marks, others: Marks) -> bool:
    """Whether both are of the same files, wherever these lie and whenever they were written."""
    return {name: mark[3] for name, mark in marks.items()} == {name: mark[3] for name, mark in others.items()}


def as_installed(engine: EngineBinary, marks: Marks) -> bool:
    """Whether an installed engine is what was installed; a user's own may be anything."""
    if engine.variant == CUSTOM:
        return True
    return {name: mark[3] for name, mark in marks.items()} == recorded_digests(engine)


def require_unaltered(engine: EngineBinary) -> None:
    """See that an installed engine is what was installed, before it is run by itself.

    Raises:
        EngineNotRunnableError: It was altered.
        StorageError: Its files cannot be read.
    """
    try:
        unaltered = as_installed(engine, take_marks(engine))
    except OSError as exc:
        raise StorageError(f"The engine's files cannot be read: {exc.strerror or exc}.") from exc
    if not unaltered:
        raise EngineNotRunnableError(
            f"The files of the {engine.variant} engine {engine.version} are not those that were installed.",
            hint=f"Run 'sdmanager engine install --variant {engine.variant} --force' to get it again.",
            details={"path": str(engine.path)},
        )


def marks_from_json(data: object) -> Marks | None:
    """Marks read from a file, or None where the data is anything else."""
    if not isinstance(data, dict):
        return None
    kinds = (int, int, int, str)
    for mark in data.values():
        if not isinstance(mark, list) or len(mark) != len(kinds):
            return None
        if not all(isinstance(value, kind) for value, kind in zip(mark, kinds, strict=True)):
            return None
    return data


def _files(engine: EngineBinary) -> Iterator[tuple[str, Path]]:
    if engine.variant == CUSTOM:
        yield engine.path.name, engine.path
        return
    folder = engine.path.parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / RECORD and path.name not in _OF_FILE_MANAGERS:
            yield path.relative_to(folder).as_posix(), path


def _stat(path: Path) -> list[int | str]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]
