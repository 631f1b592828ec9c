"""What the checks before a build share: the probe they ask, what they collect, how versions compare."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class ToolProbe(Protocol):
    """What the checks ask of a machine."""

    def find(self, program: str) -> Path | None:
        """The program in PATH, or at the absolute path given."""

    def read(self, path: Path) -> str | None:
        """A text file, or None where it cannot be read."""

    def free_bytes(self, folder: Path) -> int | None:
        """Free space where the folder is or would be, or None where that is unknown."""

    async def output(self, argv: Sequence[str | Path]) -> str | None:
        """What a program prints, or None where it fails or cannot run."""

    async def compile(self, argv: Sequence[str | Path], suffix: str, program: str) -> str | None:
        """Why a program cannot be compiled and linked, or None where it can."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Where the build runs.

    Attributes:
        system: As ``sys.platform`` has it.
        environ: The environment of the build.
        python: The interpreter that runs pip.
        bundled_pip: The pip that the interpreter carries for its ``ensurepip``, if it does.
    """

    system: str
    environ: Mapping[str, str]
    python: Path | None
    bundled_pip: Path | None = None


@dataclass(frozen=True, slots=True)
class Shortcoming:
    """Something that is missing or too old.

    Attributes:
        what: Completes a sentence: "g++ 8.3.0 is too old (9 or newer is needed)".
        packages: Debian packages with it.
        advice: What to do where those packages are not the answer.
    """

    what: str
    packages: tuple[str, ...] = ()
    advice: str | None = None


@dataclass(slots=True)
class Findings:
    """What the checks collect: what is wrong, and what the build must know of what is right."""

    shortcomings: list[Shortcoming] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def miss(self, what: str, *packages: str, advice: str | None = None) -> None:
        """Note something missing or too old."""
        self.shortcomings.append(Shortcoming(what, packages, advice))


@dataclass(frozen=True, slots=True)
class BuildTools:
    """What the build uses.

    Attributes:
        python: The interpreter that runs pip.
        bundled_pip: A wheel of pip to unpack first, where the interpreter has no pip.
        cmake: In PATH, or None where it must be fetched.
        ninja: In PATH, or None where it must be fetched.
        options: CMake options that make the build use exactly what was checked.
        environment: Variables with the same purpose.
        notes: Tools and versions, for the log.
    """

    python: Path
    bundled_pip: Path | None
    cmake: Path | None
    ninja: Path | None
    options: Mapping[str, str]
    environment: Mapping[str, str]
    notes: tuple[str, ...]


def version_of(text: str | None) -> str | None:
    """The first version in a text; packagers' own, in parentheses, do not count."""
    match = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", re.sub(r"\([^)]*\)", "", text or ""))
    return match[1] if match else None


def older(version: str, minimum: str) -> bool:
    """Whether a version is below the minimum, number by number."""
    return _numbers(version) < _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
