"""Copies of the user's files in the folder of models: there whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InsufficientResourcesError, ModelChangedError, StorageError
from sdmanager.files import free_bytes

from ._reading import copy, metered
from .fit import check_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._reading import Meter
    from .installed import InstalledFile, InstalledModel

_Files = tuple["InstalledFile", ...]

# Beside the copies, so that a finished one is renamed. One this old is left from a process that was killed: by the
# name that tempfile gives, and a file of ours in it, it is told from a folder of the user's.
_STAGING: Final = ".import-"
_OURS: Final = re.compile(r"\.import-[a-z0-9_]{8}")
_MARKER: Final = "sdmanager-import"
_FILES: Final = "files"
_STALE_SECONDS: Final = 24 * 3600.0

# Of records, and of the demo model.
_RESERVED: Final = re.compile(r"installed|demo-\d+")
_FOLDERS_MAX: Final = 1000


async def copy_parts(
    name: str,
    files: _Files,
    models_dir: Path,
    on_progress: Callable[[int, int], None] | None,
    write_down: Callable[[_Files], InstalledModel],
) -> InstalledModel:
    """Copy files into a folder of their own, and list them.

    Args:
        name: Of the model.
        files: As they were when they were looked at.
        models_dir: Where the folder is made.
        on_progress: Called on the event loop with the bytes that are copied, and all.
        write_down: Given the copies; lists them.

    Raises:
        InsufficientResourcesError: The disk is too small.
        ModelChangedError: A file was changed meanwhile.
        StorageError: They cannot be copied.
    """
    total = sum(file.size for file in files)

    def work(meter: Meter) -> InstalledModel:
        check_disk(name, total, free_bytes(models_dir))
        try:
            return _copy(name, files, models_dir, meter, write_down)
        except StorageError:
            raise
        except OSError as exc:
            raise _failed(exc, name, total) from exc

    return await metered(total, on_progress, work)


def _failed(error: OSError, name: str, needed: int) -> InsufficientResourcesError | StorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return InsufficientResourcesError(
            f"The disk became full while the model {name!r} was copied.",
            hint="Make room, or leave --copy out: then the files stay where they are.",
            details={"model": name, "resource": "disk", "needed_bytes": needed},
        )
    return StorageError(
        f"The model {name!r} cannot be copied: {error.strerror or error}.",
        hint="Check that its files may be read and that the folder of models may be written.",
        details={"errno": error.errno},
    )


def _copy(
    name: str, files: _Files, models_dir: Path, meter: Meter, write_down: Callable[[_Files], InstalledModel]
) -> InstalledModel:
    models_dir.mkdir(parents=True, exist_ok=True)
    _sweep(models_dir)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=models_dir))
    folder: Path | None = None
    try:
        (staging / _MARKER).touch()
        copied = staging / _FILES
        copied.mkdir()
        digests = [
            _copy_one(file, copied / target, meter)
            for file, target in zip(files, _targets(files), strict=True)
        ]
        folder = _rename(copied, models_dir, name)
        copies = tuple(
            _as_copied(file, folder / target, sha256)
            for file, target, sha256 in zip(files, _targets(files), digests, strict=True)
        )
        meter.count(0)  # what nobody waits for any more is not listed
        return write_down(copies)
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _targets(files: Sequence[InstalledFile]) -> list[str]:
    """A name for each copy: its own, or with its part in front where two have the same."""
    names = [file.path.name.lower() for file in files]
    return [
        file.path.name if names.count(name) == 1 else f"{file.role}-{file.path.name}"
        for file, name in zip(files, names, strict=True)
    ]


def _copy_one(file: InstalledFile, target: Path, meter: Meter) -> str:
    sha256 = copy(file.path, target, meter)
    found = file.path.stat()
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns) or target.stat().st_size != file.size:
        raise ModelChangedError(
            f"The file {file.path.name!r} was changed while it was copied.",
            hint="Import it again when nothing writes to it any more.",
            details={"path": str(file.path)},
        )
    return sha256


def _as_copied(file: InstalledFile, path: Path, sha256: str) -> InstalledFile:
    return dataclasses.replace(file, path=path, mtime_ns=path.stat().st_mtime_ns, sha256=sha256, owned=True)


def _rename(staging: Path, models_dir: Path, name: str) -> Path:
    """Give the finished folder the first free name of ``name``, ``name-2``, …"""
    base = name.replace(":", "@")  # which not all systems allow
    for number in range(1, _FOLDERS_MAX):
        folder = models_dir / (base if number == 1 else f"{base}-{number}")
        if _RESERVED.fullmatch(folder.name.lower()) or folder.exists():
            continue
        try:
            return staging.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    raise StorageError(
        f"There are too many folders named {base!r}.", hint="Remove those that are not used any more."
    )


def _sweep(models_dir: Path) -> None:
    """Remove what killed processes left."""
    for left in models_dir.glob(f"{_STAGING}*"):
        if not _OURS.fullmatch(left.name) or left.is_symlink():
            continue
        with contextlib.suppress(OSError):
            (left / _MARKER).stat()
            newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
