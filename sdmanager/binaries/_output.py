"""Writing what was unpacked, below one folder: nothing that is there is replaced, and no link is followed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ._entries import UnsafeError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ._entries import Parts

# The last three are not everywhere; with O_EXCL a link is not followed anywhere.
_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Output:
    """Files, folders and links below one folder. Whoever uses it has checked the names."""

    def __init__(self, into: Path) -> None:
        self._into = into
        self._folders: set[Path] = set()

    def folder(self, parts: Parts) -> Path:
        """Make a folder, and those that it is in, where they are not there."""
        path = self._into
        for part in parts:
            path /= part
            if path not in self._folders:
                try:
                    path.mkdir()
                except FileExistsError:
                    _check_folder(path)
                self._folders.add(path)
        return path

    def file(self, parts: Parts, pieces: Iterable[bytes], mode: int) -> Path:
        """Write a file that is not there yet."""
        path = self.folder(parts[:-1]) / parts[-1]
        try:
            descriptor = os.open(path, _FLAGS, 0o600)
        except FileExistsError:
            raise UnsafeError(f"{shown(path.name)} is there already") from None
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
        return path

    def link(self, parts: Parts, target: str) -> Path:
        """Make a symbolic link that is not there yet."""
        path = self.folder(parts[:-1]) / parts[-1]
        try:
            path.symlink_to(target)
        except FileExistsError:
            raise UnsafeError(f"{shown(path.name)} is there already") from None
        return path


def _check_folder(path: Path) -> None:
    """Something is there: a folder will do, a link to one will not, nor what Windows calls a junction."""
    found = path.lstat()
    is_junction = getattr(found, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT
    if not stat.S_ISDIR(found.st_mode) or is_junction:
        raise UnsafeError(f"{shown(path.name)} is there already, and is no folder")
