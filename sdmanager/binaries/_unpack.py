"""Unpacking an archive that might be hostile: regular files and folders, below one folder, within limits."""

from __future__ import annotations

import stat
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sdmanager.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_PIECE = 1 << 20


def unpack_tar(
    archive: Path,
    into: Path,
    *,
    below: str = "",
    max_files: int,
    max_bytes: int,
) -> None:
    """Unpack what an archive holds below a folder of its only top folder.

    ``tarfile``'s own ``data`` filter is not relied on: releases of Python that this package supports have
    known ways around it.

    Args:
        archive: A tar file, compressed or not.
        into: An existing empty folder.
        below: Path under the top folder; only what is below it is written, all else is only checked.
        max_files: More entries are refused.
        max_bytes: More unpacked bytes are refused.

    Raises:
        DownloadError: The archive is damaged, or holds anything but plain files and folders with safe names.
        OSError: The disk is full, or a file cannot be written.
    """
    prefix = PurePosixPath(below).parts
    try:
        with tarfile.open(archive) as tar:
            for member in _checked(tar, max_files, max_bytes):
                parts = _parts(member.name)
                inner = parts[1 + len(prefix) :]
                if parts[1 : 1 + len(prefix)] == prefix and inner:
                    _write(tar, member, into.joinpath(*inner))
    except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as exc:
        raise DownloadError(
            f"The archive {archive.name} is damaged: {exc}.", details=_details(archive)
        ) from exc
    except _UnsafeError as exc:
        raise DownloadError(
            f"The archive {archive.name} is not safe to unpack: {exc}.", details=_details(archive)
        ) from exc


class _UnsafeError(Exception):
    """Why an entry is refused."""


def _details(archive: Path) -> dict[str, object]:
    return {"archive": archive.name, "reason": "archive"}


def _checked(tar: tarfile.TarFile, max_files: int, max_bytes: int) -> Iterator[tarfile.TarInfo]:
    top: str | None = None
    size = 0
    for count, member in enumerate(tar, 1):
        if count > max_files:
            raise _UnsafeError(f"it has more than {max_files} entries")
        # A sparse file is of a "regular" type too, and its size in the archive says nothing of its real one.
        if not (member.isdir() or member.isreg()) or member.issparse() or member.type == tarfile.CONTTYPE:
            raise _UnsafeError(f"{member.name!r} is neither a plain file nor a folder")
        parts = _parts(member.name)
        top = top if top is not None else parts[0]
        if parts[0] != top:
            raise _UnsafeError(f"{member.name!r} is outside the top folder {top!r}")
        size += member.size
        if member.size < 0 or size > max_bytes:
            raise _UnsafeError(f"it holds more than {max_bytes} bytes")
        yield member


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(name.rstrip("/").split("/"))
    bad = any(
        part in {"", ".", ".."} or "\\" in part or ":" in part or not part.isprintable() for part in parts
    )
    if bad:
        raise _UnsafeError(f"the name {name!r} is not a plain relative one")
    return parts


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        if source is None:
            raise _UnsafeError(f"{member.name!r} has no content")
        with source, target.open("xb") as file:
            _copy(source, file, member.size)
    except (FileExistsError, NotADirectoryError):
        raise _UnsafeError(f"{member.name!r} is there twice") from None
    if member.mode & stat.S_IXUSR:
        target.chmod(0o755)


def _copy(source: IO[bytes], file: IO[bytes], size: int) -> None:
    while piece := source.read(_PIECE):
        size -= file.write(piece)
    if size != 0:
        raise EOFError("it ends too soon")
