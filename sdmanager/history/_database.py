"""The database of a gallery: its schema, its connections, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import time
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from sdmanager.errors import StorageError
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_P = ParamSpec("_P")
_T = TypeVar("_T")

NAME: Final = "gallery.sqlite3"

# Another program may be busy with it: a backup, a viewer of databases. What only shows waits less than what is kept.
_PATIENCE_SECONDS: Final = 10.0
_BRIEF_SECONDS: Final = 1.0
NOW: Final = 0.0

# So many steps of a statement pass between two looks at the clock.
_STEPS_UNSEEN: Final = 1000

_OURS: Final = 0x73646D67  # "sdmg"

# What leads from each version of the schema to the next; never changed once released.
_STEPS: Final = (
    (
        # The number counts up and is never used again: it is the order, whatever the clock says.
        """CREATE TABLE images (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            generation_id TEXT NOT NULL,
            position INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            completed_at INTEGER,
            owner TEXT,
            version INTEGER NOT NULL DEFAULT 0,
            path TEXT,
            format TEXT NOT NULL DEFAULT 'png',
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            seed INTEGER,
            model TEXT,
            variant TEXT,
            time_taken REAL,
            timings TEXT NOT NULL DEFAULT '{}',
            request TEXT NOT NULL
        )""",
        "CREATE INDEX images_of_model ON images (model)",
        "CREATE INDEX frames ON images (generation_id) WHERE completed_at IS NULL",
        # Files that must go unless they become those of an image: written down before they are made.
        "CREATE TABLE doomed (path TEXT PRIMARY KEY, owner TEXT NOT NULL)",
        # Words are made in _words.py and split at spaces alone.
        """CREATE VIRTUAL TABLE words USING fts5 (
            prompt, negative, model, tokenize = 'ascii', prefix = '1 2 3'
        )""",
    ),
)
VERSION: Final = len(_STEPS)


def deadline(*, brief: bool = False) -> float:
    """Until when who asks now waits for another program, on the monotonic clock.

    Args:
        brief: For what nobody misses.
    """
    return time.monotonic() + (_BRIEF_SECONDS if brief else _PATIENCE_SECONDS)


def inspect(folder: Path) -> None:
    """See that the database of a folder is ours, where there is one; nothing is made or changed.

    Raises:
        StorageError: It is damaged, of another program or of a newer version, or cannot be read.
        OSError: It cannot be looked for.
    """
    path = folder.absolute() / NAME
    if not _has_bytes(path):
        return
    # Without a log nobody writes, and the file alone is all of it. With one, that must be read, too.
    alone = "" if _has_bytes(path.with_name(f"{NAME}-wal")) else "&immutable=1"
    with explained():
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro{alone}", uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None
        )
        with contextlib.closing(connection):
            _check(connection)


def open_database(folder: Path) -> sqlite3.Connection:
    """The database of a folder, which is made where there is none; what is not ours is not touched.

    Raises:
        StorageError: It is damaged, of another program or of a newer version, or cannot be written.
    """
    with explained():
        connection = connect(folder)
        try:
            version = _check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            if version < VERSION:
                _migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def connect(folder: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """One more connection to it, for one call at a time, in whatever thread.

    Raises:
        sqlite3.Error: There is no such folder, or it may not be used.
    """
    connection = sqlite3.connect(
        folder / NAME, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # What a killed process wrote is there all the same; a power cut may take what was not written durably.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def writing(connection: sqlite3.Connection, until: float, *, durable: bool = False) -> Iterator[None]:
    """All that is written in the block, or nothing of it.

    Args:
        connection: To write with.
        until: How long another program that writes is waited for, as ``deadline`` says it.
        durable: Whether it is on the disk when the block has ended, and survives a power cut.
    """
    patience = max(0, round(1000 * (until - time.monotonic())))
    connection.execute(f"PRAGMA busy_timeout = {patience}")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def limited(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Break off what takes longer in the block: SQLITE_INTERRUPT is the error of that statement, then."""
    until = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_UNSEEN)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Tell errors of the database in our words.

    Raises:
        StorageError: There was one.
    """
    try:
        yield
    except sqlite3.Error as exc:
        raise _explain(exc) from exc


class Lane:
    """A connection, and the calls that want it, one at a time in a thread.

    Args:
        connection: Closed by ``aclose``.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call it in a thread when its turn comes; if cancelled then, it is waited for all the same.

        Raises:
            StorageError: The database could not do it.
        """
        async with self._turn:
            return await in_thread(_called, functools.partial(function, *args, **kwargs))

    async def aclose(self) -> None:
        """Close the connection once nothing uses it; idempotent."""
        async with self._turn:
            await in_thread(self._connection.close)


def _called(function: Callable[[], _T]) -> _T:
    with explained():
        return function()


def _check(connection: sqlite3.Connection) -> int:
    """The version of the schema; 0 of a database that is empty."""
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not version:
        return 0
    if owner != _OURS:
        raise StorageError(
            f"The file {NAME!r} in the folder of the gallery is the database of another program.",
            hint="Name another folder.",
        )
    if version > VERSION:
        raise StorageError(
            "The gallery was made by a newer version of sdmanager.",
            hint="Update sdmanager, or name another folder.",
            details={"version": version, "known": VERSION},
        )
    return int(version)


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _migrate(connection: sqlite3.Connection) -> None:
    with writing(connection, deadline()):
        version = _check(connection)  # again: another process may have come first
        for step in _STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_OURS}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _explain(error: sqlite3.Error) -> StorageError:
    # The low byte is the kind of error, the others say more of it.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            what, hint = "is in use by another program", "Close what has it open, and try again."
        case sqlite3.SQLITE_FULL:
            what, hint = "cannot be written: the disk is full", "Make room on the disk of the gallery."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            what, hint = "cannot be written", "Check who owns the folder of the gallery, and its rights."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            what = "is damaged"
            hint = (
                f"Restore {NAME!r} from a backup, or move it away to begin anew; pictures stay in 'images'."
            )
        case _:
            what, hint = f"cannot be used: {error}", "Check the disk of the gallery."
    return StorageError(f"The database of the gallery {what}.", hint=hint)
