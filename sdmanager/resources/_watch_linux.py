"""The memory of an engine below its guard, from ``/proc``."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final, final

# The kernel's own peak. Some kernels that are imitations (gVisor) have no VmHWM.
_PEAK: Final = re.compile(rb"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
_NOW: Final = re.compile(rb"^VmRSS:\s*(\d+) kB$", re.MULTILINE)

# A wrapper may start the engine later on.
_LOOK_AGAIN: Final = 8


def is_usable() -> bool:
    """Whether this system tells of processes what is needed here."""
    return os.path.exists("/proc/thread-self/children")  # noqa: PTH110 - Path would cost more than the look


@final
class Sampler:
    """Looks at the processes below a guard. A look takes some ten microseconds, and misses no spike but the last.

    Args:
        pid: Of the guard.
    """

    is_quick: Final = True

    def __init__(self, pid: int) -> None:
        self.peak: int | None = None
        self._pid = pid
        self._guard = _program(pid)
        self._files: dict[int, int] = {}
        self._looks = 0

    def sample(self) -> None:
        """Look once."""
        if not self._files or self._looks % _LOOK_AGAIN == 0:
            self._find()
        self._looks += 1
        for pid, descriptor in list(self._files.items()):
            size = _size(descriptor)
            if size is None:
                os.close(self._files.pop(pid))
            else:
                self.peak = max(self.peak or 0, size)

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _find(self) -> None:
        for pid in _descendants(self._pid):
            # The guard's own forks are as small as it is; one of them becomes the engine.
            if pid not in self._files and _program(pid) != self._guard:
                with suppress(OSError):
                    # An open file stays this process's, even where its number is given to another.
                    self._files[pid] = os.open(f"/proc/{pid}/status", os.O_RDONLY)


def _descendants(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        with suppress(OSError):
            descriptor = os.open(f"/proc/{parent}/task/{parent}/children", os.O_RDONLY)
            try:
                children = [int(text) for text in os.read(descriptor, 1 << 16).split()]
            finally:
                os.close(descriptor)
            found += children
            waiting += children
    return found


def _program(pid: int) -> str | None:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - likewise
    return None


def _size(descriptor: int) -> int | None:
    """Bytes; None where the process has ended."""
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, 1 << 13)
        if match := _PEAK.search(text) or _NOW.search(text):
            return int(match[1]) << 10
    return None
