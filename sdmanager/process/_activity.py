from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Activity:
    """What a child and everything it started have done so far.

    Attributes:
        cpu_seconds: Of all of them together.
        read_bytes: What they read, from files or from the disk below a memory map; None where that is unknown.
        waits_for_disk: Whether one of them is in an uninterruptible wait just now.
    """

    cpu_seconds: float
    read_bytes: int | None
    waits_for_disk: bool


def activity(pid: int) -> Activity | None:
    """What a process and its descendants have done so far; None when it is gone.

    A descendant that ends takes its figures with it, so they may also fall.
    """
    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    cpu_seconds, waits_for_disk = 0.0, False
    read_bytes: int | None = 0
    for member in members:
        try:
            with member.oneshot():
                times = member.cpu_times()
                cpu_seconds += times.user + times.system
                waits_for_disk |= member.status() == psutil.STATUS_DISK_SLEEP
            read = _read_bytes(member)
            read_bytes = None if read is None or read_bytes is None else read_bytes + read
        except psutil.Error:
            continue
    return Activity(cpu_seconds, read_bytes, waits_for_disk)


def _read_bytes(member: psutil.Process) -> int | None:
    try:
        counters = member.io_counters()
    except psutil.NoSuchProcess:
        return 0
    except (AttributeError, psutil.Error, OSError):  # macOS has none; a container may forbid it
        return None
    # read_chars does not know of pages that come in through a memory map, read_bytes not of the page cache.
    return counters.read_bytes + int(getattr(counters, "read_chars", 0))
