"""The probe of the preflight that looks at the real machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager import process
from sdmanager.files import free_bytes
from sdmanager.threads import beside

from ._checks import Platform
from .progress import first_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIME_LIMIT = 60.0


class MachineProbe:
    """Runs the tools of this machine."""

    def __init__(self, environ: Mapping[str, str], guard: Sequence[str] | None = None) -> None:
        """Use this environment for every tool, and this guard."""
        self._environ = environ
        self._guard = guard

    def find(self, program: str) -> Path | None:
        """The program in PATH, or at the absolute path given."""
        found = shutil.which(program, path=self._environ.get("PATH"))
        return Path(found) if found else None

    def read(self, path: Path) -> str | None:
        """A text file, or None where it cannot be read."""
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def free_bytes(self, folder: Path) -> int | None:
        """Free space where the folder is or would be, or None where that is unknown."""
        return free_bytes(folder)

    async def output(self, argv: Sequence[str | Path]) -> str | None:
        """What a program prints, or None where it fails or cannot run."""
        done = await self._run(argv)
        return done.stdout.decode("utf-8", "replace") if done and done.status.ok else None

    async def compile(self, argv: Sequence[str | Path], suffix: str, program: str) -> str | None:
        """Why a program cannot be compiled and linked, or None where it can."""
        with tempfile.TemporaryDirectory(prefix="sdmanager-probe-") as folder:
            source, binary = Path(folder, f"probe{suffix}"), Path(folder, "probe")
            await beside(source.write_text, program, encoding="utf-8")
            # Libraries count only after the file that needs them.
            libraries = [part for part in argv if str(part).startswith("-l")]
            rest = [part for part in argv if part not in libraries]
            done = await self._run([*rest, source, "-o", binary, *libraries])
        if done is None:
            return "it cannot be run"
        if done.status.ok:
            return None
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").replace(f"{folder}{os.sep}", "")
        return first_error(lines.splitlines()) or "no reason given"

    async def _run(self, argv: Sequence[str | Path]) -> process.Completed | None:
        try:
            return await process.run(argv, env=self._environ, timeout=_TIME_LIMIT, guard=self._guard)
        except (OSError, TimeoutError):
            return None


def this_platform(environ: Mapping[str, str]) -> Platform:
    """What is known of this machine without running anything."""
    return Platform(
        system=sys.platform,
        environ=environ,
        python=Path(sys.executable) if sys.executable else None,
        bundled_pip=_bundled_pip(),
    )


def _bundled_pip() -> Path | None:
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    # Some distributions keep the wheels elsewhere; without them there the interpreter's pip is a package.
    return max(Path(spec.origin).parent.glob("_bundled/pip-*.whl"), default=None)
