"""What a server did and what its engine printed: the latest in memory, and a file that stays small."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from filelock import FileLock, Timeout

from sdmanager.errors import InvalidRequestError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import TextIOWrapper
    from pathlib import Path

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

ENGINE: Final = "engine"

_log = logging.getLogger("sdmanager.logbook")

_NUMBERS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CAPACITY: Final = 1000
_LINE_LIMIT: Final = 2000
_CARRY_LIMIT: Final = 4096  # bytes; the engine cuts its own lines there
_FILE_BYTES: Final = 1 << 20
_OLDER_FILES: Final = 2
_NAMES_MAX: Final = 16
_FRAMES_MAX: Final = 20
_CAUSES_MAX: Final = 5

# The engine ends a bar with an escape code, and with a line break only the last one.
_LINE_END: Final = re.compile(rb"[\r\n]+|\x1b\[K")
_BAR: Final = re.compile(r"\s*\|[=># ]*\| *(\d+)/(\d+)\b")
_TAG: Final = re.compile(r"\[(DEBUG|INFO|WARN|ERROR) *\]")
_LEVEL_OF_TAG: Final[dict[str, Level]] = {
    "DEBUG": "debug",
    "INFO": "info",
    "WARN": "warning",
    "ERROR": "error",
}

# A prompt is echoed as it came: nothing in it may act on the terminal that shows the log, or look like a line of it.
_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])?|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]"
)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing that happened.

    Attributes:
        time: Seconds since the epoch.
        level: How much it matters.
        source: Who says so: ``engine``, or a part of this package.
        message: What; further lines, such as where an exception came from, are indented.
    """

    time: float
    level: Level
    source: str
    message: str

    def __str__(self) -> str:
        """One line, as in the file: time in UTC, level, source, message."""
        at = datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        return f"{at}Z {self.level.upper():<7} {self.source}: {self.message}"


class LogBook:
    """The last 1,000 entries in memory, and while it records, a file of at most 1 MiB and two older ones.

    What the engine prints may hold prompts and paths: it is kept in memory, and written to the file only at the
    level ``debug``. May be used from any thread.

    Args:
        folder: Where the file is, ``server.log``; made at need. Of several books at once, in whatever
            processes, the second one writes ``server-2.log``, and so on.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._level: Level = "info"
        self._clock = clock
        self._entries: deque[LogEntry] = deque(maxlen=_CAPACITY)
        self._carry: dict[str, bytes] = {}
        self._ends_in_bar = False
        self._file: _File | None = None
        # Reentrant: a failing file is reported through the logger, which may be written into this very book.
        self._lock = threading.RLock()

    @property
    def path(self) -> Path | None:
        """The file that is being written, or None."""
        file = self._file
        return file.path if file is not None else None

    @contextlib.contextmanager
    def capture(self, level: str = "info") -> Iterator[None]:
        """Within the block: write the file, and take in what the logger ``sdmanager`` and those below it are given.

        The level of that logger is left as the application has it. Several books may capture at once; each takes in
        everything. A file that cannot be written costs the file and one warning, nothing else.

        Args:
            level: What goes to the file: ``debug``, ``info``, ``warning`` or ``error``, and what matters more.

        Raises:
            InvalidRequestError: There is no such level.
        """
        self._level = check_level(level)
        handler = _IntoBook(self)
        logger = logging.getLogger("sdmanager")
        logger.addHandler(handler)
        try:
            self._open_file()
            yield
        finally:
            logger.removeHandler(handler)
            with self._lock:
                file, self._file = self._file, None
            if file is not None:
                file.close()

    def write(self, level: Level, source: str, message: str) -> None:
        """Add an entry.

        Args:
            level: How much it matters.
            source: Who says so.
            message: What happened; above ``debug`` it must hold no prompt and no path of the user's.
        """
        entry = LogEntry(self._clock(), level, source, _indented(message))
        with self._lock:
            self._entries.append(entry)
            self._ends_in_bar = False
            to_file = _NUMBERS[level] >= _NUMBERS[self._level]
            broken = self._write_to_file(entry) if to_file else None
        self._give_up(broken)

    def write_output(self, stream: str, data: bytes) -> None:
        """Add what the engine printed; of a progress bar only the latest state stays.

        Args:
            stream: ``stdout`` or ``stderr``.
            data: Any piece of it; where it is cut does not matter. A last line without a line break is added
                once one follows: give ``b"\\n"`` when the engine has ended.
        """
        broken = None
        with self._lock:
            *lines, rest = _LINE_END.split(self._carry.get(stream, b"") + data)
            if len(rest) > _CARRY_LIMIT:
                lines.append(rest)
                rest = b""
            self._carry[stream] = rest
            in_full = self._file is not None and self._level == "debug"
            for line in lines if in_full else lines[-_CAPACITY:]:
                text = _cleaned(line.decode("utf-8", "replace"))
                if text.strip():
                    broken = self._add_line(text, to_file=in_full) or broken
        self._give_up(broken)

    def entries(self, n: int = 100) -> list[LogEntry]:
        """The last ``n`` entries, the oldest first."""
        with self._lock:
            entries = list(self._entries)
        return entries[-n:] if n > 0 else []

    def lines(self, n: int = 100) -> list[str]:
        """The last ``n`` entries as text, the oldest first."""
        return [str(entry) for entry in self.entries(n)]

    def clear(self) -> None:
        """Forget all entries, and empty the file and remove the older ones.

        Raises:
            StorageError: The files cannot be changed.
        """
        with self._lock:
            self._entries.clear()
            self._carry.clear()
            self._ends_in_bar = False
            try:
                if self._file is not None:
                    self._file.clear()
                elif self._folder.is_dir():
                    with contextlib.closing(_File(self._folder)) as file:
                        file.clear()
            except OSError as exc:
                raise StorageError(f"The log file cannot be emptied: {exc.strerror or exc}.") from exc

    def take(self, record: logging.LogRecord) -> None:
        """Add a record of a logger."""
        source = record.name.removeprefix("sdmanager.")
        self.write(level_of(record), source, message_of(record, in_full=self._level == "debug"))

    def _add_line(self, text: str, *, to_file: bool) -> _File | None:
        bar = _BAR.match(text)
        tag = _TAG.match(text)
        level: Level = _LEVEL_OF_TAG[tag[1]] if tag else "debug" if bar else "info"
        if bar and self._ends_in_bar:
            self._entries.pop()
        entry = LogEntry(self._clock(), level, ENGINE, text[:_LINE_LIMIT])
        self._entries.append(entry)
        self._ends_in_bar = bar is not None
        is_passing = bar is not None and bar[1] != bar[2]
        return self._write_to_file(entry) if to_file and not is_passing else None

    def _open_file(self) -> None:
        try:
            file = _File(self._folder)
        except (OSError, NotImplementedError) as exc:  # the latter: a file system without locks
            self._warn(getattr(exc, "strerror", None) or str(exc))
            return
        with self._lock:
            self._file = file

    def _write_to_file(self, entry: LogEntry) -> _File | None:
        """Write to the file if there is one; gives it back once it has failed."""
        file = self._file
        if file is None or file.write(str(entry)):
            return None
        self._file = None
        return file

    def _give_up(self, broken: _File | None) -> None:
        # Outside of the lock: the warning goes to handlers, which have locks of their own.
        if broken is not None:
            broken.close()
            self._warn(broken.failure)

    @staticmethod
    def _warn(reason: str) -> None:
        _log.warning("The log file cannot be written, and the server goes on without it: %s", reason)


def check_level(level: str) -> Level:
    """The level of this name.

    Raises:
        InvalidRequestError: There is none.
    """
    for known in _NUMBERS:
        if known == level:
            return known
    raise InvalidRequestError("There is no such log level.", hint=f"Use one of: {', '.join(_NUMBERS)}.")


def level_of(record: logging.LogRecord) -> Level:
    """The level of a record, in our own terms."""
    return next(
        (level for level in ("error", "warning", "info") if record.levelno >= _NUMBERS[level]), "debug"
    )


def message_of(record: logging.LogRecord, *, in_full: bool = False) -> str:
    """What a record says, and where its exception came from.

    Args:
        record: The record.
        in_full: With a whole traceback. Without, the exceptions' own words are left out: they may hold what was
            asked for, or a path.
    """
    message = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return message
    told = "".join(traceback.format_exception(error)) if in_full else "\n".join(_causes(error))
    return f"{message}\n{told.rstrip()}"


def _causes(error: BaseException) -> Iterator[str]:
    """A line for an exception and for each one behind it: its type, and the way to where it was raised."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return
        frames = [(f.f_globals.get("__name__"), n, f) for f, n in traceback.walk_tb(cause.__traceback__)]
        way = " > ".join(f"{name}:{line} {f.f_code.co_name}" for name, line, f in frames[-_FRAMES_MAX:])
        yield f"{type(cause).__qualname__}: {way}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _cleaned(text: str) -> str:
    return _ESCAPE.sub(lambda match: "" if match[0][0] == "\x1b" else "\ufffd", text)


def _indented(message: str) -> str:
    first, *further = _cleaned(message).split("\n")
    return "\n".join([first[:_LINE_LIMIT], *(f"    {line[:_LINE_LIMIT]}" for line in further)])


class _IntoBook(logging.Handler):
    def __init__(self, book: LogBook) -> None:
        super().__init__()
        self._book = book

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._book.take(record)
        except Exception:  # noqa: BLE001 - a record that cannot be written may stop nobody
            self.handleError(record)


class _File:
    """The log file, which no other process writes at the same time.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self.path = _free_name(folder)
        try:
            self._handler = _Rotating(
                self.path, maxBytes=_FILE_BYTES, backupCount=_OLDER_FILES, encoding="utf-8", errors="replace"
            )
        except BaseException:
            self._lock.release()
            raise

    @property
    def failure(self) -> str:
        """Why it cannot be written any more."""
        return self._handler.failure or "unknown"

    def write(self, line: str) -> bool:
        """Write a line; False when that failed."""
        self._handler.handle(logging.makeLogRecord({"msg": line}))
        return self._handler.failure is None

    def clear(self) -> None:
        if self._handler.stream is not None:
            self._handler.stream.truncate(0)
        for number in range(1, _OLDER_FILES + 1):
            self.path.with_name(f"{self.path.name}.{number}").unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take
            self._handler.close()
        self._lock.release()


class _Rotating(RotatingFileHandler):
    """Readable by its owner only, and quiet about its failures."""

    failure: str | None = None

    def _open(self) -> TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        del record
        error = sys.exc_info()[1]
        self.failure = getattr(error, "strerror", None) or type(error).__name__


def _free_name(folder: Path) -> tuple[FileLock, Path]:
    """The first name that nobody writes, and the lock that says so."""
    for number in range(1, _NAMES_MAX + 1):
        name = "server.log" if number == 1 else f"server-{number}.log"
        lock = FileLock(folder / f".{name}.lock", timeout=0, thread_local=False)
        with contextlib.suppress(Timeout):
            lock.acquire()
            return lock, folder / name
    raise OSError(f"{_NAMES_MAX} servers write their logs there already")
