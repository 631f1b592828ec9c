"""How much RAM this process can have on Linux: the machine's, and what its control groups allow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._values import believable_bytes, parse_number

if TYPE_CHECKING:
    from ._tree import Tree

_CACHE_V1 = ("total_inactive_file", "total_active_file")
_CACHE_V2 = ("inactive_file", "active_file")


@dataclass(frozen=True, slots=True)
class _Mount:
    """Where a hierarchy of control groups is visible.

    Attributes:
        version: 1 or 2.
        root: The group that lies at the mount point.
        point: The mount point.
    """

    version: int
    root: str
    point: str


def read_memory(tree: Tree) -> tuple[int | None, int | None]:
    """Total and available bytes."""
    machine = _numbers(tree, "/proc/meminfo")
    total = believable_bytes(machine.get("MemTotal", 0) * 1024)
    available = machine["MemAvailable"] * 1024 if "MemAvailable" in machine else None
    if total is None or available is None or available > total:
        available = None
    limits = [total] if total is not None else []
    for version, folder in _groups(tree):
        limit, free = _read_group(tree, version, folder)
        # Version 1 says that there is no limit by one that is far above the machine's RAM.
        if limit is None or (total is not None and limit >= total):
            continue
        limits.append(limit)
        if free is not None and available is not None:
            available = min(available, free)
    total = min(limits, default=None)
    return total, available if available is None or total is None else min(available, total)


def _read_group(tree: Tree, version: int, folder: str) -> tuple[int | None, int | None]:
    """The limit of one group, and how much of it can still be had."""
    if version == 1:
        limits, usage, cache = ["memory.limit_in_bytes"], "memory.usage_in_bytes", _CACHE_V1
    else:
        # Above memory.high nothing is refused, but what allocates is slowed down until nothing moves.
        limits, usage, cache = ["memory.max", "memory.high"], "memory.current", _CACHE_V2
    found = [limit for name in limits if (limit := believable_bytes(tree.number(f"{folder}/{name}")))]
    used = tree.number(f"{folder}/{usage}")
    if not found or used is None or used < 0:
        return min(found, default=None), None
    statistics = _numbers(tree, f"{folder}/memory.stat")
    reclaimable = min(sum(statistics.get(name, 0) for name in cache), used)
    return min(found), max(min(found) - used + reclaimable, 0)


def _groups(tree: Tree) -> list[tuple[int, str]]:
    """The folders of this process's groups, each with all groups above it that can be seen."""
    mounts = _mounts(tree)
    found = []
    for line in tree.lines("/proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or (controllers and "memory" not in controllers.split(",")):
            continue
        version = 1 if controllers else 2
        for mount in mounts:
            if mount.version == version:
                found += [(version, folder) for folder in _levels(mount, path)]
    return found


def _levels(mount: _Mount, path: str) -> list[str]:
    """From a group's folder up to the mount point; this alone where the group lies outside of what is mounted."""
    root = mount.root.rstrip("/")
    inside = path[len(root) :] if path == root or path.startswith(f"{root}/") else ""
    names = [name for name in inside.split("/") if name]
    if ".." in names or len(names) > 100:
        names = []
    return ["/".join([mount.point.rstrip("/"), *names[:depth]]) for depth in range(len(names), -1, -1)]


def _mounts(tree: Tree) -> list[_Mount]:
    found = []
    for line in tree.lines("/proc/self/mountinfo", 1 << 20):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(kind) < 3:
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if kind[0] == "cgroup2":
            found.append(_Mount(2, root, point))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.append(_Mount(1, root, point))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _numbers(tree: Tree, path: str) -> dict[str, int]:
    """Lines of a name and a number that is not negative."""
    found: dict[str, int] = {}
    for line in tree.lines(path):
        match line.replace(":", " ").split():
            case [name, text, *_] if (number := parse_number(text)) is not None and number >= 0:
                found.setdefault(name, number)
    return found
