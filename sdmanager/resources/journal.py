"""What is aside, on the disk: one file for each program, so that a crash of this process loses none.

An entry is written, and is on the disk, before its program is asked for anything, and goes once the program is back.
Whose owner is dead may be claimed by another process: by one of those that try at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import sync_folder, write_json
from sdmanager.process import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from .offloadable import State

_LOG = logging.getLogger("sdmanager.resources")

_FORMAT: Final = 1
_BYTES_MAX: Final = 1 << 20
_ENTRIES_MAX: Final = 1000
_ID: Final = re.compile(r"[0-9a-f]{16}")
_LOCK_PATIENCE: Final = 5.0

# What a killed writer left is nobody's after this time.
_PART_SECONDS: Final = 3600.0


class Phase(StrEnum):
    """How far it is.

    Attributes:
        ABOUT_TO: It is being put aside, or was to be: it may still hold all, some, or nothing.
        ASIDE: It has let go.
        RESTORING: It is being brought back.
    """

    ABOUT_TO = "about-to"
    ASIDE = "aside"
    RESTORING = "restoring"


@dataclass(frozen=True, slots=True)
class Entry:
    """One program that is aside, or on its way there or back.

    Attributes:
        name: Of the program, ``Offloadable.name``.
        what: It held, for people.
        state: How it is restored.
        owner: The process that is to bring it back; None: nobody any more.
        since: When it was put aside, in seconds since the epoch.
        phase: How far it is.
        attempts: To bring it back that were begun.
        id: By which its file is named.
    """

    name: str
    what: str
    state: State
    owner: ProcessRecord | None
    since: float
    phase: Phase = Phase.ABOUT_TO
    attempts: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def to_json(self) -> dict[str, object]:
        """Plain values that ``json.dumps`` takes, as far as the state is such."""
        return {
            "format": _FORMAT,
            "id": self.id,
            "name": self.name,
            "what": self.what,
            "phase": self.phase.value,
            "attempts": self.attempts,
            "since": self.since,
            "owner": self.owner.to_json() if self.owner else None,
            "state": dict(self.state),
        }

    @classmethod
    def from_json(cls, data: object) -> Entry | None:
        """Read what ``to_json`` gave; None when it is malformed."""
        match data:
            case {
                "format": 1,
                "id": str() as name_of_file,
                "name": str() as name,
                "what": str() as what,
                "phase": "about-to" | "aside" | "restoring" as phase,
                "attempts": int() as attempts,
                "since": int() | float() as since,
                "owner": owner,
                "state": dict() as state,
            } if _ID.fullmatch(name_of_file) and name and attempts >= 0 and 0 <= since < 1e11:
                # An owner that cannot be read cannot be running either, as far as anybody could tell.
                return cls(
                    name,
                    what,
                    state,
                    ProcessRecord.from_json(owner),
                    since,
                    Phase(phase),
                    attempts,
                    name_of_file,
                )
        return None

    @property
    def is_orphan(self) -> bool:
        """Whether nobody is left who would bring it back."""
        return self.owner is None or not self.owner.is_running()


class _UnknownError(Exception):
    """Whether a file holds an entry cannot be told: not just now, or not by this version."""


class Journal:
    """The files of one folder; every method is blocking, and safe from threads and processes.

    Args:
        folder: Where; made at need.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.owner = ProcessRecord.of(os.getpid())

    def write(self, entry: Entry) -> None:
        """Put an entry on the disk; when this returns it survives a power cut.

        Raises:
            StorageError: It cannot be written, or what was written could not be read: its state is no plain JSON
                data, it is longer than 1 MiB, or a field has no value that it may have.
        """
        _check_readable(entry)
        made = not self._folder.exists()
        self._put(entry, durable=True)
        sync_folder(self._folder)
        if made:
            sync_folder(self._folder.parent)

    def note(self, entry: Entry) -> None:
        """Write down how an entry stands now; where that cannot be done, what it said before is good enough."""
        try:
            self._put(entry, durable=False)
        except StorageError as exc:
            _LOG.warning("that %s is %s is not written down: %s", entry.name, entry.phase, exc)

    def remove(self, *entries: Entry) -> None:
        """Their programs are back. Where a file cannot be removed, that is restored once more at the next start."""
        for entry in entries:
            try:
                self._path(entry.id).unlink(missing_ok=True)
            except OSError as exc:
                _LOG.warning("the entry of %s in the journal cannot be removed: %s", entry.name, exc.strerror)

    def entries(self) -> list[Entry]:
        """All that can be read, the oldest first; nothing is changed."""
        found = []
        for path in self._files():
            with contextlib.suppress(_UnknownError):
                found.append(_read(path))
        return sorted(filter(None, found), key=lambda entry: (entry.since, entry.id))

    def elsewhere(self, ours: Collection[str]) -> set[str]:
        """Names of programs that others who live have put aside.

        Args:
            ours: Entries, by id, that are the caller's own.
        """
        return {entry.name for entry in self.entries() if entry.id not in ours and not entry.is_orphan}

    def claim(self, wanted: Callable[[Entry], bool], claimed: list[Entry] | None = None) -> list[Entry]:
        """Become the owner of entries whose owner is dead; of several processes that try at once, one does.

        Of several of one program the last is taken, and the others go. Files that hold no entry are set aside, with a
        warning.

        Args:
            wanted: Whether to take an entry.
            claimed: Takes each as soon as it is ours, for callers that may not be there any more in the end.

        Returns:
            What is ours from here on, the oldest first; nothing where the folder cannot be used.
        """
        claimed = [] if claimed is None else claimed
        if not self._folder.is_dir():
            return claimed
        with self._locked() as locked:
            if not locked:
                return claimed
            self._sweep()
            found = [entry for entry in self.entries() if entry.is_orphan and wanted(entry)]
            last = {entry.name: entry for entry in found}
            for entry in found:
                if last[entry.name] is entry:
                    claimed.append(replace(entry, owner=self.owner))
                    # On a full disk it is restored all the same: that can be done twice.
                    self.note(claimed[-1])
                else:
                    self.remove(entry)
        return claimed

    def release(self, *entries: Entry) -> None:
        """Leave entries to whoever starts next, this process included."""
        for entry in entries:
            self.note(replace(entry, owner=None))

    def _put(self, entry: Entry, *, durable: bool) -> None:
        try:
            write_json(self._path(entry.id), entry.to_json(), durable=durable)
        except (TypeError, ValueError, RecursionError) as exc:
            raise _not_json(entry) from exc

    def _path(self, entry_id: str) -> Path:
        return self._folder / f"{entry_id}.json"

    def _files(self) -> Iterator[Path]:
        try:
            found = [path for path in self._folder.iterdir() if path.suffix == ".json"]
        except OSError:
            return
        yield from sorted(found)[:_ENTRIES_MAX]

    def _sweep(self) -> None:
        for path in self._files():
            try:
                entry = _read(path)
            except _UnknownError:
                continue
            if entry is None or entry.id != path.stem:
                _LOG.warning("%s in the journal of offloads holds no entry, and is set aside", path.name)
                with contextlib.suppress(OSError):
                    path.replace(path.with_suffix(".broken"))
        oldest = time.time() - _PART_SECONDS
        for path in self._folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        from filelock import FileLock, Timeout

        lock = FileLock(self._folder / ".lock", thread_local=False)
        try:
            lock.acquire(timeout=_LOCK_PATIENCE, poll_interval=0.01)
        except (Timeout, OSError, NotImplementedError) as exc:
            _LOG.warning(
                "the journal of offloads cannot be locked, and is left alone: %s", type(exc).__name__
            )
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _read(path: Path) -> Entry | None:
    """The entry in a file; None: it holds none.

    Raises:
        _UnknownError: It cannot be read just now, or is of a newer format.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None  # none of ours; a pipe would be waited for
        with path.open("rb") as file:
            text = file.read(_BYTES_MAX + 1)
    except OSError as exc:
        raise _UnknownError from exc
    if len(text) > _BYTES_MAX:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > _FORMAT:
        raise _UnknownError
    return Entry.from_json(data)


def _check_readable(entry: Entry) -> None:
    """See that an entry can be read once it is written."""
    try:
        text = json.dumps(entry.to_json(), indent=1)
        fits = len(text) <= _BYTES_MAX and Entry.from_json(json.loads(text)) is not None
    except (TypeError, ValueError, RecursionError) as exc:
        raise _not_json(entry) from exc
    if not fits:
        raise StorageError(
            f"How {entry.name or 'a program without a name'} is brought back cannot be written down: "
            "it could not be read again."
        )


def _not_json(entry: Entry) -> StorageError:
    return StorageError(f"How {entry.name} is brought back cannot be written down: it is no plain JSON data.")
