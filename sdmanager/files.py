"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from sdmanager.errors import StorageError

# Of a temporary file's: names are limited to 255 bytes, and a character may take four.
_NAME_CHARS: Final = 50


def write_whole(
    path: Path, data: bytes, *, durable: bool = True, error: type[StorageError] = StorageError
) -> None:
    """Write a file so that it is there whole or not at all; what it replaces stays until then.

    Args:
        path: Where; its folder must exist.
        data: All of it.
        durable: Whether the bytes must be on the disk before the name is (they survive a power cut).
        error: What to raise.

    Raises:
        StorageError: The folder is missing or not writable, or the disk is full; of the type that was asked for.
    """
    temporary = path.with_name(f".{path.name[:_NAME_CHARS]}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(
            temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise error(
            f"The file {path.name!r} cannot be written: {exc.strerror or exc}.",
            details={"path": str(path), "errno": exc.errno},
        ) from exc


def remove_parts(path: Path) -> None:
    """Remove what processes that were killed in ``write_whole`` have left of a file; of one that nobody writes now.

    Raises:
        OSError: It cannot be removed.
    """
    for part in path.parent.glob(f".{glob.escape(path.name[:_NAME_CHARS])}.*.part"):
        part.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The absolute path, with ``~`` as the home folder; an unknown user's is taken as it is."""
    # Path.expanduser raises RuntimeError for a user that is not there.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111


def free_bytes(folder: Path) -> int | None:
    """Free space where a folder is or would be, or None where that is unknown."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def read_json(path: Path) -> object:
    """What a JSON file holds, or None when it is missing, unreadable or malformed."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write a JSON file whole, making its folder at need.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"The folder {path.parent.name!r} cannot be made: {exc.strerror or exc}.") from exc
    # ASCII only: a file name in it may hold bytes that are no UTF-8, which have no encoding of their own.
    write_whole(path, json.dumps(value, indent=1).encode("ascii"), durable=durable)
