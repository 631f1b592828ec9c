"""How the getting of an engine tells what it is doing, and reading that out of what tools print. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EnginePhase: TypeAlias = Literal[
    "choosing", "rejected", "waiting", "downloading", "unpacking", "preparing", "fetching", "configuring",
    "compiling", "proving", "installing",
]  # fmt: skip
"""``downloading`` and ``unpacking`` count bytes; ``rejected`` says which engine does not work here, and why."""


@dataclass(frozen=True, slots=True)
class EngineProgress:
    """One step on the way to an engine.

    Attributes:
        phase: What is going on.
        step: How much of this phase is done.
        total: Of how much; 0 where that is unknown.
        message: The same for people.
    """

    phase: EnginePhase
    step: int
    total: int
    message: str


OnProgress: TypeAlias = "Callable[[EngineProgress], None]"

_STEP = re.compile(r"^\[(\d+)/(\d+)\]\s*(.*)$")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST_LINE = 1 << 16
_ERROR = re.compile(
    r"\b[Ee]rror: |\berror [A-Z]+\d+: |\bnvcc (?:fatal|error) +:|undefined reference to|cannot find -l"
    r"|No space left on device|CMake Error"
)
_KILLED = re.compile(
    r"Killed signal terminated program|\bKilled$|out of memory allocating|cannot allocate memory", re.I
)


class LineReader:
    """Lines out of chunks, without escape codes; a line without end is cut, so memory is bounded."""

    def __init__(self) -> None:
        """Start at the beginning of a line."""
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [_ESCAPE.sub("", line.decode("utf-8", "replace")) for line in lines]

    def close(self) -> list[str]:
        """The last line, where it has no newline."""
        return self.feed(b"\n") if self._rest else []


def compile_step(line: str) -> EngineProgress | None:
    """The progress in a line such as ``[3/57] Building CXX object src/x.cpp.o``."""
    match = _STEP.match(line)
    # Before the build, ninja counts what it does to its own files: "[0/2] Re-checking globbed directories".
    if match is None or match[3].startswith("Re-"):
        return None
    return EngineProgress("compiling", int(match[1]), int(match[2]), match[3])


def first_error(lines: Sequence[str]) -> str | None:
    """What went wrong first, in the tool's own words, or None where nothing looks like an error.

    CMake puts its reason on the lines after the one that says ``CMake Error``.
    """
    for place, line in enumerate(lines):
        if _ERROR.search(line) is None or _STEP.match(line):
            continue
        reason = [line.strip()]
        if "CMake Error" in line:
            following = (text.strip() for text in lines[place + 1 : place + 12])
            reason += [text for text in following if text][:3]
        return " ".join(reason)
    return None


def ran_out_of_memory(lines: Sequence[str]) -> bool:
    """Whether a compiler was killed, which on a machine of one user means that memory ran out."""
    return any(_KILLED.search(line) for line in lines)
