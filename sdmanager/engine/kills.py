"""What the kernel says about having ended processes because RAM ran out, where it says anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

# The machine's own count, and that of this process's control group (kernel: Documentation/admin-guide/cgroup-v2.rst,
# memory.events), which the engine is in as well. A container sees its own group at the mount point.
_MACHINE: Final = Path("/proc/vmstat")
_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUP: Final = Path("/proc/self/cgroup")
_EVENTS: Final = "memory.events"
_LIMIT: Final = "memory.max"
_COUNT: Final = re.compile(r"^oom_kill (\d{1,18})$", re.MULTILINE)
_NUMBER: Final = re.compile(r"\d{1,20}\s*")


class Killed(StrEnum):
    """Where the kernel ended something for want of RAM."""

    GROUP = "group"
    """In the control group of this process."""

    MACHINE = "machine"
    """Somewhere on the machine: any container's process."""

    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Kills:
    """Counts so far, each with the file that it stands in; None: nothing says, or it is not to be believed."""

    group: tuple[Path, int] | None
    machine: tuple[Path, int] | None


def count_kills(machine: Path = _MACHINE, groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> Kills:
    """How many processes the kernel has ended so far for want of RAM.

    Where the own group says and has a limit, or a group above it, the machine is not asked: it counts the kills of
    every container.
    """
    own = groups / _own_group(own_group).lstrip("/")
    for folder in (own, groups):
        group = _counted(folder / _EVENTS)
        if group is not None:
            is_limited = any(
                _is_limited(level) for level in (folder, *folder.parents) if level.is_relative_to(groups)
            )
            return Kills(group, None if is_limited else _counted(machine))
    return Kills(None, _counted(machine))


def kills_since(before: Kills) -> Killed | None:
    """Where there were more since; None: nothing says."""
    found: Killed | None = None
    for counted, where in ((before.group, Killed.GROUP), (before.machine, Killed.MACHINE)):
        after = _counted(counted[0]) if counted is not None else None
        if counted is None or after is None:
            continue
        if after[1] > counted[1]:
            return where
        found = Killed.NOTHING
    return found


def _own_group(path: Path) -> str:
    """The group of version 2 that this process is in."""
    lines = _read(path).splitlines()
    return next((line[3:] for line in lines if line.startswith("0::/") and ".." not in line), "")


def _counted(path: Path) -> tuple[Path, int] | None:
    found = _COUNT.search(_read(path))
    return (path, int(found[1])) if found else None


def _is_limited(folder: Path) -> bool:
    return _NUMBER.fullmatch(_read(folder / _LIMIT)) is not None  # without a limit it is the word max


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
