from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

STDOUT = 1
STDERR = 2

OnOutput: TypeAlias = Callable[[int, bytes], None]
"""Called with STDOUT or STDERR and a chunk; an empty chunk is the end of that stream."""
OnExit: TypeAlias = Callable[[], None]


class StopOutcome(StrEnum):
    """How far stopping had to go.

    Attributes:
        EXITED: It ended without our doing.
        TERMINATED: It ended within the grace after the polite stop.
        KILLED: It had to be killed.
    """

    EXITED = "exited"
    TERMINATED = "terminated"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a child ended.

    Attributes:
        code: The exit code, or None if a signal ended it.
        signal: The number of the signal that ended it, or None if it exited.
        outcome: How far stopping had to go.

    Both `code` and `signal` are None when another part of the host took the status away, which a
    `waitpid(-1)` or an ignored SIGCHLD does.
    """

    code: int | None
    signal: int | None
    outcome: StopOutcome

    @property
    def ok(self) -> bool:
        """Whether it exited with code 0."""
        return self.code == 0


@dataclass(frozen=True, slots=True)
class Completed:
    """What `run` returns: the last bytes of both streams and how the child ended."""

    stdout: bytes
    stderr: bytes
    status: ExitStatus


class Process(Protocol):
    """What `_child` needs from a platform: one child and everything it started."""

    pid: int

    def has_exited(self) -> bool:
        """Whether the leader ended, noticed or not."""

    def terminate(self) -> bool:
        """Ask the whole group to end; False where the platform has no such request."""

    def kill(self) -> None:
        """Kill the whole group."""

    def reap(self) -> bool:
        """Reap what ended; whether nothing of the group is left. Only after the leader's exit."""

    def close(self) -> tuple[int | None, int | None]:
        """Give back every handle and return exit code and signal. No callback comes afterwards."""
