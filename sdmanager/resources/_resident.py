"""What processes hold of RAM. Blocking, for a thread."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_FILE_PAGES: Final = re.compile(r"^RssFile:\s+(\d+) kB$", re.MULTILINE)


def ram_held(pid: int, *, locked: bool) -> int | None:
    """What ending a process and its children gives back to the system, in bytes; None: unknown.

    Pages of files, such as a model that is mapped, count as free memory already, unless they are locked. Only Linux
    tells them apart; elsewhere they are counted.

    Args:
        pid: Of the process.
        locked: Whether it locks its files.
    """
    import psutil

    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    held = [size for member in members if (size := _held_by(member, locked=locked)) is not None]
    return sum(held) if held else None


def _held_by(member: psutil.Process, *, locked: bool) -> int | None:
    import psutil

    try:
        resident = member.memory_info().rss
    except (psutil.Error, OSError):
        return None
    return max(resident - (0 if locked else _of_files(member.pid)), 0)


def _of_files(pid: int) -> int:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        if found := _FILE_PAGES.search(status):
            return int(found[1]) * 1024
    return 0
