"""Running the tools of a build: everything they print goes into the log, the last lines are kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmanager import process
from sdmanager.errors import BuildFailedError, StorageError

from .progress import LineReader, first_error, ran_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_KEPT_LINES = 5000
_KEPT_OF_A_LINE = 2000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a tool ended, and the last lines it printed on either stream."""

    ok: bool
    lines: Sequence[str]


class Steps:
    """Runs one tool after the other in one environment, with one log file.

    Attributes:
        environ: Of every tool; may be changed between steps.
        log: The file with everything that was printed.
    """

    def __init__(
        self, log: Path, staging: Path, environ: dict[str, str], guard: Sequence[str] | None
    ) -> None:
        """Empty the log.

        Raises:
            StorageError: It cannot be written.
        """
        self.log = log
        self.environ = environ
        self._staging = staging
        self._guard = guard
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"")
        except OSError as exc:
            raise StorageError(f"The log {log} cannot be written: {exc.strerror or exc}.") from exc

    def note(self, text: str) -> None:
        """Write a line of our own into the log."""
        self._append(f"{text}\n".encode())

    async def run(
        self,
        argv: Sequence[str | Path],
        *,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Run a tool to its end.

        Args:
            argv: The program and its arguments.
            environ: Variables for this tool alone.
            on_line: Called with every line, on the event loop.

        Raises:
            BuildFailedError: It cannot be started.

        If cancelled, the tool and all it started are dead when the exception arrives.
        """
        self.note(f"$ {' '.join(map(str, argv))}")
        lines: deque[str] = deque(maxlen=_KEPT_LINES)

        def reader() -> Callable[[bytes], None]:
            split = LineReader()
            readers.append(split)

            def receive(chunk: bytes) -> None:
                self._append(chunk)
                for line in split.feed(chunk):
                    lines.append(line[:_KEPT_OF_A_LINE])
                    if on_line is not None:
                        on_line(line)

            return receive

        readers: list[LineReader] = []
        try:
            async with process.spawn(
                argv,
                env=self.environ | dict(environ or {}),
                on_stdout=reader(),
                on_stderr=reader(),
                guard=self._guard,
            ) as child:
                status = await child.wait()
        except OSError as exc:
            raise self.failed(f"{argv[0]} cannot be run ({exc.strerror or exc})") from exc
        for split in readers:
            lines.extend(line[:_KEPT_OF_A_LINE] for line in split.close())
        return Outcome(status.ok, lines)

    def failed(self, what: str, lines: Sequence[str] = ()) -> BuildFailedError:
        """The error for a tool that did not do its work, with the first reason it gave."""
        lines = list(lines)
        log_hint = f"Everything that was printed is in {self.log}."
        details: dict[str, object] = {"log": str(self.log)}
        if ran_out_of_memory(lines):
            return BuildFailedError(
                f"The engine was not built: {what}: the compiler was killed, probably for want of memory.",
                hint=f"Close other programs and run the command again. {log_hint}",
                details=details | {"reason": "memory", "passing": True},
            )
        reason = first_error(lines) or next((line.strip() for line in reversed(lines) if line.strip()), None)
        if reason and "No space left on device" in reason:
            details |= {"passing": True}
        because = f": {reason.replace(f'{self._staging}/', '')[:500]}" if reason else ""
        return BuildFailedError(f"The engine was not built: {what}{because}", hint=log_hint, details=details)

    def _append(self, data: bytes) -> None:
        try:
            with self.log.open("ab") as file:
                file.write(data)
        except OSError:
            # A log on a full disk must not hide why the build itself failed.
            return
