"""The files and the index of a gallery together, so that neither has what the other has not.

Blocking; one call at a time; ``until`` is how long another program is waited for. The order is what counts: a file is
doomed in the index before it is made, and no longer doomed in the transaction that makes it an image's; an image is
doomed in the transaction that deletes it. So whatever a killed process leaves is either whole, or known to be rubbish.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from sdmanager.errors import ImageFormingError, ImageNotFoundError, StorageError
from sdmanager.files import sync_folder
from sdmanager.generation import settings_of

from . import _files
from ._database import NAME, NOW, writing
from ._owners import alone, living
from ._words import indexed, indexed_model, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sdmanager.generation import GenerationResult, ImageData, ImageRequest

_log = logging.getLogger("sdmanager.history")

_BATCH: Final = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A generation that is being drawn.

    Attributes:
        generation_id: Of the server.
        request: As it was when drawing began.
        created_at: When that was, in milliseconds since the epoch.
    """

    generation_id: str
    request: ImageRequest
    created_at: int

    def image_id(self, index: int) -> str:
        """Of the image at that place, from 0."""
        return f"{self.generation_id}-{index}"


class Gallery:
    """Writes to a gallery.

    Args:
        folder: Its folder, with what ``open_database`` made.
        connection: To write with.
        owner: Name of who has the frames that are made here.

    Raises:
        OSError: The folder is not there any more.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, owner: str) -> None:
        self._folder = folder
        self._db = connection
        self._owner = owner
        self._identity = _identity(folder / NAME)
        self._previews: dict[str, set[Path]] = {}
        self._stuck: set[str] = set()  # ended, and their frames could not be removed

    def begin(self, begun: Begun, until: float) -> None:
        """Make a frame for each image that is to come."""
        self._check_there()
        for generation_id in tuple(self._stuck):
            self._remove_frames(generation_id, until)
        self._sweep_killed(until)
        with writing(self._db, until):
            for index in range(begun.request.count):
                self._add_frame(begun, index)

    def show(self, begun: Begun, previews: Mapping[int, ImageData], until: float) -> None:
        """Point frames at newer previews.

        Args:
            begun: Whose.
            previews: By the place of the image, from 0.
            until: See above.
        """
        self._check_there()
        shown = []
        for index, preview in previews.items():
            image_id = begun.image_id(index)
            name = _files.preview_name(self._owner, image_id, preview.format)
            path = _files.own_path(self._folder, name)
            self._previews.setdefault(begun.generation_id, set()).add(path)
            _files.write_preview(path, preview.data)
            shown.append((name, preview.format, image_id))
        with writing(self._db, until):
            self._db.executemany(
                "UPDATE images SET path = ?, format = ?, version = version + 1"
                " WHERE id = ? AND completed_at IS NULL",
                shown,
            )

    def keep(self, begun: Begun, result: GenerationResult, now: float, until: float) -> None:
        """Make images of the frames, all of them or none; a power cut does not take them either.

        Args:
            begun: Whose frames; those that are missing are made.
            result: What was drawn.
            now: Seconds since the epoch.
            until: See above.
        """
        try:
            self._keep(begun, result, now, until)
        except BaseException:
            self.drop(begun.generation_id, NOW)
            raise
        self._remove_previews(begun.generation_id)

    def _keep(self, begun: Begun, result: GenerationResult, now: float, until: float) -> None:
        self._check_there()
        names = [
            _files.image_name(begun.image_id(index), image.seed, now)
            for index, image in enumerate(result.images)
        ]
        paths = [_files.own_path(self._folder, name) for name in names]
        with writing(self._db, until, durable=True):
            self._doom(names)
        try:
            for image, path in zip(result.images, paths, strict=True):
                _files.place(image, path)
            for folder in {path.parent for path in paths}:
                sync_folder(folder)
            with writing(self._db, until, durable=True):
                self._complete(begun, result, names, max(round(now * 1000), begun.created_at))
        except BaseException:
            self._remove_doomed(names, until)
            raise

    def drop(self, generation_id: str, until: float) -> None:
        """Remove what is left of frames and previews; what cannot be removed goes with the next, or the next start."""
        self._remove_previews(generation_id)
        self._stuck.add(generation_id)
        with contextlib.suppress(sqlite3.Error):
            self._remove_frames(generation_id, until)

    def delete(self, image_id: str, until: float) -> None:
        """Delete an image and its file, or only the image where the file is gone already; or what a server left.

        Raises:
            ImageNotFoundError: There is none of this id.
            ImageFormingError: It still forms.
        """
        with writing(self._db, until):
            row = self._found(image_id)
            if row is None:
                raise ImageNotFoundError("The gallery has no image of this id.")
            if row[1] is not None:
                self._delete_rows([row])
        if row[1] is not None:
            self._remove_doomed([row[2]], until)
            return
        self._sweep_killed(until)
        if self._found(image_id) is not None:
            raise ImageFormingError("The image still forms.")

    def so_far(self, until: float) -> tuple[int, list[int]]:
        """The number of the newest image, and the numbers of those that form."""
        self._sweep_killed(until)
        rows = self._db.execute(
            "SELECT max(number), NULL FROM images UNION ALL"
            " SELECT NULL, number FROM images WHERE completed_at IS NULL"
        ).fetchall()
        return rows[0][0] or 0, [number for _, number in rows[1:]]

    def delete_some(self, last: int, spared: Sequence[int], until: float) -> tuple[int, bool]:
        """Delete some images that are whole.

        Args:
            last: Up to this number.
            spared: Numbers of images that stay, whole or not.
            until: See above.

        Returns:
            How many, and whether there may be more.
        """
        stay = f"number NOT IN ({', '.join('?' * len(spared))})"
        with writing(self._db, until):
            rows = self._db.execute(
                f"SELECT number, completed_at, path FROM images WHERE {stay}"  # noqa: S608
                " AND number <= ? AND completed_at IS NOT NULL LIMIT ?",
                (*spared, last, _BATCH),
            ).fetchall()
            self._delete_rows(rows)
        self._remove_doomed([path for _, _, path in rows], until)
        return len(rows), len(rows) == _BATCH

    def sweep(self, living: Iterable[str], until: float) -> None:
        """Remove what those who live no more have left half done.

        Args:
            living: Names of owners.
            until: See above.
        """
        alive = [self._owner, *living]
        others = f"owner NOT IN ({', '.join('?' * len(alive))})"
        left = self._db.execute(f"SELECT path FROM doomed WHERE {others}", alive).fetchall()  # noqa: S608
        self._remove_doomed([path for (path,) in left], until, parts=True)
        with writing(self._db, until):
            self._delete_frames(others, alive)

    def _sweep_killed(self, until: float) -> None:
        """What a server leaves that is killed while this one lives; nothing while somebody opens the gallery."""
        strangers = "SELECT 1 FROM images WHERE completed_at IS NULL AND owner IS NOT ? LIMIT 1"
        if self._db.execute(strangers, (self._owner,)).fetchone() is None:
            return
        forming = self._folder / _files.FORMING
        with contextlib.suppress(OSError, sqlite3.Error), alone(forming, seconds=0):
            self.sweep(living(forming), until)

    def _found(self, image_id: str) -> tuple[int, int | None, str | None] | None:
        """Number, when it was whole, and path."""
        row: tuple[int, int | None, str | None] | None = self._db.execute(
            "SELECT number, completed_at, path FROM images WHERE id = ?", (storable(image_id),)
        ).fetchone()
        return row

    def _check_there(self) -> None:
        """A database whose folder was removed would go on taking what nobody will ever see."""
        try:
            same = _identity(self._folder / NAME) == self._identity
        except OSError:
            same = False
        if not same:
            raise StorageError(
                "The folder of the gallery was removed or replaced while the server ran.",
                hint="Start the server again.",
            )

    def _add_frame(self, begun: Begun, index: int) -> None:
        request = begun.request
        fields = (
            begun.image_id(index), begun.generation_id, index, begun.created_at, self._owner,
            request.width, request.height, _known_seed(request, index), _name(request.model_id), _json_of(request),
        )  # fmt: skip
        added = self._db.execute(
            "INSERT INTO images"
            " (id, generation_id, position, created_at, owner, width, height, seed, model, request)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            fields,
        )
        if added.rowcount:
            self._db.execute(
                "INSERT INTO words (rowid, prompt, negative, model) VALUES (?, ?, ?, ?)",
                (
                    added.lastrowid,
                    indexed(request.prompt),
                    indexed(request.negative_prompt),
                    indexed_model(request.model_id),
                ),
            )

    def _complete(self, begun: Begun, result: GenerationResult, names: list[str], now: int) -> None:
        request = result.request or begun.request
        model = _name(result.model)
        timings = json.dumps(dataclasses.asdict(result.timings))
        for index, (image, name) in enumerate(zip(result.images, names, strict=True)):
            self._add_frame(begun, index)  # if it is not there
            image_id = begun.image_id(index)
            self._db.execute(
                "UPDATE images SET completed_at = ?, owner = NULL, version = version + 1, path = ?, format = 'png',"
                " width = ?, height = ?, seed = ?, model = ?, variant = ?, time_taken = ?, timings = ?, request = ?"
                " WHERE id = ?",
                (
                    now, name, image.width, image.height, image.seed, model, _name(result.variant),
                    result.time_taken, timings, _json_of(request), image_id,
                ),
            )  # fmt: skip
            self._db.execute(
                "UPDATE words SET model = ? WHERE rowid = (SELECT number FROM images WHERE id = ?)",
                (indexed_model(result.model), image_id),
            )
        self._db.executemany("DELETE FROM doomed WHERE path = ?", [(name,) for name in names])
        self._delete_frames(
            "generation_id = ?", [begun.generation_id]
        )  # where fewer were drawn than asked for

    def _remove_frames(self, generation_id: str, until: float) -> None:
        with writing(self._db, until):
            self._delete_frames("generation_id = ?", [generation_id])
        self._stuck.discard(generation_id)

    def _remove_previews(self, generation_id: str) -> None:
        for path in self._previews.pop(generation_id, ()):
            _files.remove(path)

    def _delete_frames(self, whose: str, values: Sequence[str]) -> None:
        frames = f"completed_at IS NULL AND {whose}"
        self._db.execute(
            f"DELETE FROM words WHERE rowid IN (SELECT number FROM images WHERE {frames})",  # noqa: S608
            values,
        )
        self._db.execute(f"DELETE FROM images WHERE {frames}", values)  # noqa: S608

    def _delete_rows(self, rows: Iterable[tuple[int, int | None, str | None]]) -> None:
        numbers = [(number,) for number, _, _ in rows]
        self._db.executemany("DELETE FROM words WHERE rowid = ?", numbers)
        self._db.executemany("DELETE FROM images WHERE number = ?", numbers)
        self._doom(path for _, _, path in rows if path is not None)

    def _doom(self, names: Iterable[str]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO doomed (path, owner) VALUES (?, ?)",
            [(name, self._owner) for name in names],
        )

    def _remove_doomed(self, names: Iterable[str | None], until: float, *, parts: bool = False) -> None:
        """Remove files, and forget those that are gone; others are left to the next start."""
        gone = []
        for name in names:
            path = _files.located(self._folder, name)
            if path is None or _files.remove(path, parts=parts):
                gone.append((name,))
            else:
                _log.warning("a file of the gallery cannot be removed now")
        with contextlib.suppress(sqlite3.Error), writing(self._db, until):
            self._db.executemany("DELETE FROM doomed WHERE path = ?", gone)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _known_seed(request: ImageRequest, index: int) -> int | None:
    return request.seed + index if request.seed is not None and request.seed >= 0 else None


def _name(text: str | None) -> str | None:
    return None if text is None else storable(text)


def _json_of(request: ImageRequest) -> str:
    # ASCII only, and not pydantic's own JSON: a prompt may hold bytes that are no text.
    return json.dumps(settings_of(request))
