"""The files of a gallery: what they are called, and how they come and go.

A name from the database is used only where it is one that was made here: a folder may come from somebody else.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import remove_parts, sync_folder, write_whole

if TYPE_CHECKING:
    from sdmanager.generation import GeneratedImage

IMAGES: Final = "images"
FORMING: Final = ".forming"

_ID: Final = "[a-z0-9][a-z0-9_-]{0,79}"
_OWN: Final = re.compile(
    rf"{IMAGES}/\d{{4}}-\d\d/[0-9_-]+_{_ID}\.png|{re.escape(FORMING)}/[0-9a-f]{{16}}/{_ID}\.(?:png|jpeg|webp)"
)


def image_name(image_id: str, seed: int, wall: float) -> str:
    """Where a picture goes: by month, with the local time, its seed and its id in the name.

    Args:
        image_id: Of the image.
        seed: That drew it.
        wall: When it was whole, in seconds since the epoch.
    """
    then = time.localtime(wall)
    month, moment = time.strftime("%Y-%m", then), time.strftime("%Y-%m-%d_%H-%M-%S", then)
    return f"{IMAGES}/{month}/{moment}_{seed}_{image_id}.png"


def preview_name(owner: str, image_id: str, suffix: str) -> str:
    """Where the newest preview of an image is."""
    return f"{FORMING}/{owner}/{image_id}.{suffix}"


def located(folder: Path, name: str | None) -> Path | None:
    """The file of that name; None where that is none of ours."""
    return folder / name if name is not None and _OWN.fullmatch(name) else None


def own_path(folder: Path, name: str) -> Path:
    """The file of a name that was made here.

    Raises:
        ValueError: It is none: an id that nobody makes went into it.
    """
    path = located(folder, name)
    if path is None:
        raise ValueError("not the name of a file of the gallery")
    return path


def place(image: GeneratedImage, target: Path) -> None:
    """Have a picture at a place of its own, its bytes on the disk; its name is once ``sync_folder`` was called.

    A hard link where that can be: the server's own file may go then, and no byte is copied.

    Raises:
        StorageError: The picture is not there any more, or cannot be written.
    """
    try:
        make_folder(target.parent)
    except OSError as exc:
        raise StorageError(
            f"The folder {target.parent.name!r} of the gallery cannot be made: {exc.strerror or exc}."
        ) from exc
    if isinstance(image.source, Path) and _linked(image.source, target):
        return
    write_whole(target, image.png)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none, so that a power cut does not take them.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def is_there(folder: Path, path: Path) -> bool:
    """Whether a file is there and is the gallery's own: no link, nor reached by one, which may lead anywhere.

    Args:
        folder: Of the gallery.
        path: As ``located`` gave it.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.parent.resolve().is_relative_to(folder.resolve())
    except OSError:
        return False


def write_preview(path: Path, data: bytes) -> None:
    """Write a preview in the place of an older one, which stays whole until then.

    Raises:
        StorageError: It cannot be written.
    """
    write_whole(path, data, durable=False)


def remove(path: Path, *, parts: bool = False) -> bool:
    """Remove a file; whether it is gone.

    Args:
        path: Of ours.
        parts: Also what a process that was killed while it wrote has left of it.
    """
    try:
        path.unlink(missing_ok=True)
        if parts:
            remove_parts(path)
    except OSError:
        return False
    return True


def _linked(source: Path, target: Path) -> bool:
    """Not between disks, nor on every file system."""
    try:
        os.link(source, target)
        descriptor = os.open(target, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, NotImplementedError):
        return False
    return True
