"""Unpacking archives that might be hostile: plain files below one folder, within limits, or nothing.

The archive is read by readers of our own, which are strict where those of the standard library guess, and what
they find is judged in one place (``_entries.py``) and written in one place (``_output.py``).
"""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from sdmanager.errors import DownloadError

from ._entries import DamagedError, Ledger, Limits, UnsafeError, check_links, shown
from ._output import Output
from ._streams import GZIP_MAGIC, XZ_MAGIC, tar_stream
from ._tar import is_tar, read_tar
from ._zip import is_zip, read_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from ._entries import Entry, Parts

    Contents = Iterator[tuple[Entry, Parts, Iterator[bytes]]]
    Progress = Callable[[int, int], None]

_RATIO = 200.0
_START = 265


class UnpackCancelledError(Exception):
    """``cancelled()`` was true: what was written so far is there, and nothing is open."""


def unpack_archive(
    archive: Path,
    into: Path,
    *,
    root: str = "",
    executables: Collection[str] = (),
    max_files: int = 4000,
    max_bytes: int = 8 << 30,
    max_ratio: float = _RATIO,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Path]:
    """Unpack a release archive: zip, or tar packed with gzip or xz, told by its first bytes.

    Args:
        archive: Whatever it is named.
        into: An existing folder; nothing in it is replaced, and no link in it is followed.
        root: Folder of the archive; only what is below it is written, all else is only checked.
        executables: Files, named from ``into``, that get mode 755; all others get 644.
        max_files: More entries are refused.
        max_bytes: More unpacked bytes are refused.
        max_ratio: More unpacked bytes to one of the archive's are refused, beyond the first mebibyte.
        on_progress: Called, in this thread, with the bytes of the archive that are done, and their number.
        cancelled: Asked between pieces of at most a mebibyte.

    Returns:
        Files, in the order of the archive, then links.

    Raises:
        DownloadError: The archive is damaged, or not safe to unpack.
        UnpackCancelledError: ``cancelled`` said so.
        OSError: The disk is full, or something cannot be written.

    After an error, what was written so far is still there.
    """
    below = PurePosixPath(root).parts

    def place(_: Entry, parts: Parts) -> tuple[Parts, int]:
        inner = parts[len(below) :] if parts[: len(below)] == below else ()
        return inner, 0o755 if "/".join(inner) in executables else 0o644

    with _refusals(archive), archive.open("rb") as file:
        limits = Limits(max_files, max_bytes, max_ratio, os.fstat(file.fileno()).st_size)
        tick = _ticker(file, limits.packed, on_progress, cancelled)
        written = _unpack(_contents(file, limits), Output(into), place, tick)
        if on_progress is not None:
            on_progress(limits.packed, limits.packed)
        return written


def unpack_tar(archive: Path, into: Path, *, below: str = "", max_files: int, max_bytes: int) -> None:
    """Unpack what the tar file of a source distribution holds below a folder of its only top folder.

    Files are executable where the archive says so.

    Args:
        archive: A tar file, packed or not.
        into: An existing empty folder.
        below: Path under the top folder; only what is below it is written, all else is only checked.
        max_files: More entries are refused.
        max_bytes: More unpacked bytes are refused.

    Raises:
        DownloadError: The archive is damaged, or holds anything but plain files and folders with safe names.
        OSError: The disk is full, or a file cannot be written.
    """
    prefix = PurePosixPath(below).parts
    tops: set[str] = set()

    def place(entry: Entry, parts: Parts) -> tuple[Parts, int]:
        if entry.kind == "link" or entry.name.partition("/")[0] == ".":
            raise UnsafeError(f"{shown(entry.name)} is not a plain file or folder of a source distribution")
        tops.add(parts[0])
        if len(tops) > 1:
            raise UnsafeError(f"{shown(entry.name)} is outside the top folder")
        inner = parts[1 + len(prefix) :] if parts[1 : 1 + len(prefix)] == prefix else ()
        return inner, 0o755 if entry.executable else 0o644

    with _refusals(archive), archive.open("rb") as file:
        limits = Limits(max_files, max_bytes, _RATIO, os.fstat(file.fileno()).st_size)
        _unpack(_contents(file, limits), Output(into), place, _ticker(file, limits.packed, None, None))


def _unpack(
    contents: Contents,
    output: Output,
    place: Callable[[Entry, Parts], tuple[Parts, int]],
    tick: Callable[[Iterator[bytes]], Iterator[bytes]],
) -> list[Path]:
    """Write each entry where ``place`` says, with the mode it says; nowhere when that is an empty path."""
    written: list[Path] = []
    files: set[Parts] = set()
    links: dict[Parts, str] = {}
    wanted: dict[Parts, Parts] = {}
    for entry, parts, pieces in contents:
        inner, mode = place(entry, parts)
        pieces = tick(pieces)
        if entry.kind == "link":
            links[parts] = b"".join(pieces).decode()
            if inner:
                wanted[inner] = parts
            continue
        if entry.kind == "file":
            files.add(parts)
            if inner:
                written.append(output.file(inner, pieces, mode))
        elif inner:
            output.folder(inner)
        for _ in pieces:  # What is not written has its checksum verified all the same.
            pass
    # Last, so that nothing can be written through them.
    check_links(links, files)
    written.extend(output.link(inner, links[parts]) for inner, parts in wanted.items())
    return written


def _contents(file: BinaryIO, limits: Limits) -> Contents:
    start = file.read(_START)
    file.seek(0)
    ledger = Ledger(limits)
    if is_zip(start):
        return read_zip(file, limits, ledger.admit)
    if start.startswith((GZIP_MAGIC, XZ_MAGIC)) or is_tar(start):
        return read_tar(tar_stream(file, start, limits), limits, ledger.admit)
    raise DamagedError("it is neither a zip nor a tar file")


def _ticker(
    file: BinaryIO, size: int, on_progress: Progress | None, cancelled: Callable[[], bool] | None
) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """Tells how far it is, and asks whether to go on, after each piece and each entry."""

    def tick() -> None:
        if cancelled is not None and cancelled():
            raise UnpackCancelledError
        if on_progress is not None:
            on_progress(file.tell(), size)

    def ticking(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            tick()
        tick()

    return ticking


@contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    """Turns what the readers find wrong into the error of this package."""
    try:
        yield
    except (DamagedError, EOFError, UnicodeError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as exc:
        raise _refused(archive, f"is damaged: {exc}") from exc
    except UnsafeError as exc:
        raise _refused(archive, f"is not safe to unpack: {exc}") from exc


def _refused(archive: Path, why: str) -> DownloadError:
    return DownloadError(
        f"The archive {archive.name} {why.rstrip('.')}.",
        hint="Download it once more; if it is refused again, it was published so.",
        details={"archive": archive.name, "reason": "archive"},
    )
