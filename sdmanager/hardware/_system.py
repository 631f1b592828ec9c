"""Which system this is, and where its facts come from."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

from ._reading import Reading

if TYPE_CHECKING:
    from ._tree import Tree

_MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_NARROW = {"x64": "x86", "arm64": "arm"}


def current_platform() -> str:
    """The name of this system and processor: ``linux-x64``, ``win32-arm64``, ``darwin-arm64`` and so on."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        from ._macos import is_translated, sysctl

        machine = "arm64" if is_translated(sysctl) else machine
    return platform_name(sys.platform, machine, narrow=sys.maxsize < 1 << 32)


def platform_name(system: str, machine: str, *, narrow: bool = False) -> str:
    """The name from what Python says.

    Args:
        system: As ``sys.platform`` has it.
        machine: As ``platform.machine()`` has it.
        narrow: Whether this process has 32 bits, which on Linux its libraries have, too.
    """
    known = _MACHINES.get(machine.lower(), machine.lower() or "unknown")
    if narrow and system == "linux":
        known = _NARROW.get(known, known)
    return f"{system}-{known}"


def glibc_version() -> str | None:
    """The version of the C library where that is glibc."""
    try:
        name, _, version = (getattr(os, "confstr")("CS_GNU_LIBC_VERSION") or "").partition(" ")  # noqa: B009
    except (AttributeError, OSError, ValueError):
        return None
    return version.strip() or None if name == "glibc" else None


def read_this_system(tree: Tree) -> Reading:
    """What this system tells of itself; no driver is asked."""
    if sys.platform == "win32":
        from ._windows import read_windows
        from ._windows_registry import SystemRegistry

        return read_windows(SystemRegistry(), memory=_memory(), cores=_cores(), release=platform.version())
    if sys.platform == "darwin":
        from ._macos import read_macos, sysctl

        return read_macos(sysctl, memory=_memory(), release=platform.mac_ver()[0])
    if sys.platform.startswith("linux"):
        from ._linux import read_linux

        return read_linux(tree)
    total, available = _memory()
    return Reading(
        system=f"{platform.system()} {platform.release()}".strip(),
        threads=os.cpu_count(),
        ram_total=total,
        ram_available=available,
        problems=("graphics cards are not looked for on this system",),
    )


def ram_now() -> tuple[int | None, int | None]:
    """Bytes of RAM, all and what can be had, with what control groups allow; no driver is asked."""
    if sys.platform.startswith("linux"):
        from ._linux_memory import read_memory
        from ._tree import Tree

        return read_memory(Tree())
    return _memory()


def _memory() -> tuple[int | None, int | None]:
    import psutil

    try:
        found = psutil.virtual_memory()
    except (OSError, RuntimeError, psutil.Error):
        return None, None
    return found.total or None, found.available


def _cores() -> int | None:
    import psutil

    try:
        return psutil.cpu_count(logical=False)
    except (OSError, RuntimeError, psutil.Error):
        return None
