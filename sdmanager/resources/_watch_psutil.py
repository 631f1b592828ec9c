"""The memory of an engine below its guard, where there is no ``/proc``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import psutil

# Finding them reads the table of all processes.
_LOOK_AGAIN: Final = 16


@final
class Sampler:
    """Looks at the processes below a guard, or on Windows at the process itself, which has none.

    A look may take milliseconds: not on an event loop.

    Args:
        pid: Of the guard.
    """

    is_quick: Final = False

    def __init__(self, pid: int) -> None:
        self.peak: int | None = None
        self._pid = pid
        self._looks = 0
        self._found: dict[int, psutil.Process] = {}

    def sample(self) -> None:
        """Look once."""
        import psutil

        if not self._found or self._looks % _LOOK_AGAIN == 0:
            with suppress(psutil.Error):
                self._find()
        self._looks += 1
        for pid, member in list(self._found.items()):
            try:
                memory = member.memory_info()
            except psutil.Error:
                del self._found[pid]
                continue
            # Windows keeps the peak itself.
            size = int(getattr(memory, "peak_wset", memory.rss))
            if size:
                self.peak = max(self.peak or 0, size)

    def close(self) -> None:
        """Let go of the processes."""
        self._found.clear()

    def _find(self) -> None:
        import psutil

        leader = psutil.Process(self._pid)
        guard = None if psutil.WINDOWS else _program(leader)
        members = [leader] if psutil.WINDOWS else []
        members += leader.children(recursive=True)
        for member in members:
            # The guard's own forks are as small as it is; one of them becomes the engine.
            if member.pid not in self._found and (guard is None or _program(member) != guard):
                self._found[member.pid] = member


def _program(process: psutil.Process) -> str | None:
    import psutil

    with suppress(psutil.Error, OSError):
        return process.exe()
    return None
