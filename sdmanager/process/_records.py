from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from ._platform import kill_group

# psutil computes start times from the wall clock's idea of the boot time, which moves when the clock is set.
_START_TOLERANCE = 2.0
_LAST_TIME = 1e11  # neither infinite nor too large to be compared


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """Enough about a process to recognise it later: never kill on a pid alone.

    Attributes:
        pid: The process id.
        start_time: When it started, in seconds since the epoch.
        executable: The file that it runs.
    """

    pid: int
    start_time: float
    executable: str

    @classmethod
    def of(cls, pid: int) -> ProcessRecord | None:
        """Describe a process that runs now.

        Returns:
            The record, or None when there is no such process, it is a zombie, or it is another user's.
        """
        try:
            process = psutil.Process(pid)
            executable = process.exe()
            if not executable or process.status() == psutil.STATUS_ZOMBIE:
                return None
            return cls(pid, process.create_time(), executable)
        except (psutil.Error, ValueError, OverflowError):
            return None

    def is_running(self) -> bool:
        """Whether a process with this id, start time and executable runs now."""
        now = ProcessRecord.of(self.pid)
        return (
            now is not None
            and now.executable == self.executable
            and abs(now.start_time - self.start_time) <= _START_TOLERANCE
        )

    def kill_group(self) -> bool:
        """Kill the process and its group, if it is still the one recorded and leads a group of its own.

        Returns:
            Whether it was killed. It may take the system a moment to end.
        """
        return self.is_running() and kill_group(self.pid)

    def to_json(self) -> dict[str, object]:
        """Return plain values that `json.dumps` takes."""
        return {"pid": self.pid, "start_time": self.start_time, "executable": self.executable}

    @classmethod
    def from_json(cls, data: object) -> ProcessRecord | None:
        """Read what `to_json` gave; None when it is malformed."""
        if not isinstance(data, Mapping):
            return None
        pid, start_time, executable = data.get("pid"), data.get("start_time"), data.get("executable")
        if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0:
            return None
        if not isinstance(start_time, int | float) or isinstance(start_time, bool):
            return None
        if not isinstance(executable, str) or not executable or not 0 <= start_time < _LAST_TIME:
            return None
        return cls(pid, float(start_time), executable)
