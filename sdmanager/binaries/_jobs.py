"""How many compilers may run at once: as many as there are processors, and as fit into memory."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def parallel_jobs(job_bytes: int) -> int:
    """How many compilers to run on this machine, each taking so much memory."""
    return jobs(available_processors(), available_memory(), job_bytes)


def jobs(processors: float, memory: int, job_bytes: int) -> int:
    """How many compilers to run, at least one."""
    return max(1, min(math.ceil(processors), memory // job_bytes))


def available_processors(cgroup: Path = _CGROUP) -> float:
    """Processors that this process may use, by its affinity and by the limit of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        count = min(count, int(quota) / int(period))
    return count


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that can be used without swapping, by the machine and by the limit of its container."""
    available = psutil.virtual_memory().available
    limit, used = _read(cgroup / "memory.max"), _read(cgroup / "memory.current")
    if limit.isdecimal() and used.isdecimal():
        available = min(available, max(0, int(limit) - int(used)))
    return available


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
