"""One life of a llama-server's process: what it prints, what it holds, and its end."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sdmanager.process import spawn
from sdmanager.threads import outlast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdmanager.process import Child, ExitStatus
    from sdmanager.settings import Settings

_LINES_MAX: Final = 1000
_LINE_LIMIT: Final = 2000
_WORDS_LIMIT: Final = 300
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TELLING: Final = re.compile(r"error|fail|unable|couldn't|cannot|invalid|out of memory", re.IGNORECASE)
_CONCLUSION: Final = re.compile(r"exiting due to|cleaning up before exit", re.IGNORECASE)
_QUOTED_PATH: Final = re.compile(r"'[^'\n]*[\\/]([^'\n\\/]+)'")
_FOLDERS: Final = re.compile(r"(?<![\w:/\\.-])(?:[A-Za-z]:)?(?:[\\/][^\s'\"\\/]+)*[\\/](?=[^\s'\"\\/])")


class Lines:
    """The latest lines of both streams, without what acts on a terminal and without a secret.

    Args:
        secret: Shown as stars wherever it appears.
    """

    def __init__(self, secret: str | None = None) -> None:
        self._secret = secret
        self._kept: deque[str] = deque(maxlen=_LINES_MAX)
        self._streams = (_Splitter(), _Splitter())

    def add_stdout(self, chunk: bytes) -> None:
        """A piece of the standard output."""
        self._add(self._streams[0].feed(chunk))

    def add_stderr(self, chunk: bytes) -> None:
        """A piece of the other stream."""
        self._add(self._streams[1].feed(chunk))

    def end(self) -> None:
        """Take what has no line break at its end."""
        for stream in self._streams:
            self._add(stream.feed(b"\n"))

    def last(self, count: int) -> list[str]:
        """The latest lines, oldest first."""
        return list(self._kept)[-count:] if count > 0 else []

    def last_words(self) -> str:
        """The line that most likely says why it ended, without folders; ``""`` where it said nothing."""
        lines = [line for line in self._kept if not _CONCLUSION.search(line)]
        telling = next((line for line in reversed(lines) if _TELLING.search(line)), None)
        words = telling or (lines[-1] if lines else "")
        words = _FOLDERS.sub("", _QUOTED_PATH.sub(r"'\1'", words)).rstrip(".: ")
        return words if len(words) <= _WORDS_LIMIT else f"{words[:_WORDS_LIMIT]}…"

    def _add(self, lines: list[str]) -> None:
        for raw in lines:
            line = _CONTROL.sub("", raw)
            if self._secret:
                line = line.replace(self._secret, "***")
            if line := line.strip():
                self._kept.append(line[:_LINE_LIMIT])


class _Splitter:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._carry = ""

    def feed(self, chunk: bytes) -> list[str]:
        *lines, carry = re.split(r"[\r\n]+", self._carry + self._decoder.decode(chunk))
        # Longer than any line that is kept, so that a secret in a line is never cut in two.
        self._carry = carry[: 4 * _LINE_LIMIT]
        return lines


class LlamaProcess:
    """A process from its start to its end, owned by a task of its own.

    Attributes:
        lines: What it printed.
        ended: Done when its process is dead and collected.

    Args:
        argv: The program and its arguments.
        env: Its whole environment.
        lines: Where its output goes.
        settings: For the guard and the time for the last output.
        grace: Seconds between asking it to end and killing it.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], lines: Lines, settings: Settings, grace: float
    ) -> None:
        self.lines = lines
        self._argv, self._env, self._settings, self._grace = argv, env, settings, grace
        self._child: Child | None = None
        self._status: ExitStatus | None = None
        self.ended: asyncio.Task[None] = asyncio.create_task(self._live(), name="sdmanager-llama-server")
        self.ended.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def pid(self) -> int | None:
        """That of the guard above it, where there is one; None before it was started."""
        return self._child.pid if self._child is not None else None

    @property
    def failure(self) -> OSError | None:
        """Why it could not be started at all; None: it was, or is still being."""
        if not self.ended.done() or self.ended.cancelled():
            return None
        error = self.ended.exception()
        return error if isinstance(error, OSError) else None

    def how_it_ended(self) -> str:
        """Such as ``with exit code 1``."""
        status = self._status
        if status is None or (status.code is None and status.signal is None):
            return "in an unknown way"
        return f"by signal {status.signal}" if status.code is None else f"with exit code {status.code}"

    async def stop(self) -> None:
        """End it; when this returns or raises, it and all that it started are dead and collected."""
        self.ended.cancel()
        await outlast(self.ended)

    async def _live(self) -> None:
        try:
            async with spawn(
                self._argv,
                env=self._env,
                on_stdout=self.lines.add_stdout,
                on_stderr=self.lines.add_stderr,
                grace=self._grace,
                backstop=self._settings.pipe_backstop,
                guard=self._settings.guard,
            ) as child:
                self._child = child
                self._status = await child.wait()
        finally:
            self.lines.end()


def listens(pid: int, port: int) -> bool | None:
    """Whether a process or one of its children listens on a port; None: unknown. For a thread."""
    import psutil

    try:
        leader = psutil.Process(pid)
        members = [leader, *leader.children(recursive=True)]
        # Its older name says a warning in later releases.
        found = [getattr(member, "net_connections", None) or member.connections for member in members]
        sockets: list[Any] = [sock for ask in found for sock in ask(kind="tcp")]
    except (psutil.Error, OSError):
        return None
    return any(sock.status == psutil.CONN_LISTEN and sock.laddr[1] == port for sock in sockets)
