"""The machine as macOS describes it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeAlias

from ._reading import Reading
from ._values import believable_bytes, clean_text
from .snapshot import Gpu

Sysctl: TypeAlias = Callable[[str], bytes | None]
"""The raw value of a name of the kernel's, or None where there is none."""


def read_macos(read: Sysctl, *, memory: tuple[int | None, int | None], release: str) -> Reading:
    """Everything that needs no driver.

    Args:
        read: Asks the kernel.
        memory: Total and available bytes.
        release: Version of the system, such as ``14.5``.
    """
    cpu = _text(read("machdep.cpu.brand_string"))
    apple = _number(read("hw.optional.arm64")) == 1
    chip = Gpu("apple", cpu, None, None, f"macOS {release}" if release else None, unified_memory=True)
    return Reading(
        system=f"macOS {release}".strip(),
        cpu=cpu,
        cores=_number(read("hw.physicalcpu")),
        threads=_number(read("hw.logicalcpu")),
        ram_total=memory[0] or believable_bytes(_number(read("hw.memsize"))),
        ram_available=memory[1],
        gpus=(chip,) if apple else (),
        problems=() if apple else ("graphics cards of Macs with an Intel processor are not looked for",),
    )


def system_facts(read: Sysctl) -> list[str | None]:
    """What tells one machine and version of the system from another."""
    names = (
        "machdep.cpu.brand_string",
        "hw.model",
        "kern.osproductversion",
        "kern.osversion",
        "machdep.cpu.features",
    )
    return [_text(read(name)) for name in names]


def is_translated(read: Sysctl) -> bool:
    """Whether this process was made for Intel and runs on Apple's processor."""
    return _number(read("sysctl.proc_translated")) == 1


def _text(value: bytes | None) -> str | None:
    return clean_text(value.rstrip(b"\0")) if value is not None else None


def _number(value: bytes | None) -> int | None:
    # These are integers of the kernel's, of four bytes or eight.
    return int.from_bytes(value, "little") if value is not None and len(value) in {4, 8} else None


def sysctl(name: str) -> bytes | None:
    """The raw value of a name of this kernel's, or None where there is none."""
    try:
        function = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError):
        return None
    size = ctypes.c_size_t(4096)
    buffer = ctypes.create_string_buffer(size.value)
    if function(name.encode("ascii"), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return None
    return buffer.raw[: size.value]
