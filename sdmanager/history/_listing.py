"""Reading a gallery: its pages, and single images. Blocking; one call at a time."""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import ImageNotFoundError, InvalidRequestError

from ._database import limited
from ._files import located
from ._words import query, storable
from .images import HistoryImage, HistoryPage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_COLUMNS: Final = (
    "images.number, images.id, images.generation_id, images.position, images.created_at, images.completed_at,"
    " images.path, images.format, images.width, images.height, images.seed, images.model, images.variant,"
    " images.time_taken, images.timings, images.request, images.version"
)
_PAGE_SECONDS: Final = 2.0
_TIMING_MAX: Final = 1e9
_NUMBER_BYTES: Final = 8
_NUMBER_MAX: Final = 2**63 - 1


class Listing:
    """Reads a gallery.

    Args:
        folder: Its folder.
        connection: To read with.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self._folder = folder
        self._db = connection

    def page(self, search: str, model: str | None, limit: int, before: int | None) -> HistoryPage:
        """A page, newest first.

        Args:
            search: As it was typed.
            model: Only of this model.
            limit: Images on it at most.
            before: Only images of lower numbers.

        Raises:
            InvalidRequestError: It would take too long to find.
        """
        try:
            return self._page(search, model, limit, before)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
        raise InvalidRequestError(
            "This search takes too long.", hint="Search for fewer words.", details={"fields": ["search"]}
        )

    def _page(self, search: str, model: str | None, limit: int, before: int | None) -> HistoryPage:
        source, wanted = "images", list[str]()
        values: list[str | int] = []
        asked = query(search, model)
        if asked is not None:
            source = "words JOIN images ON images.number = words.rowid"
            wanted, values = ["words MATCH ?"], [asked]
        elif model is not None:
            wanted, values = ["images.model = ?"], [storable(model)]
        # Of the index alone where it is asked: it knows how many there are without looking at one image.
        counted = "words" if asked is not None else "images"
        order = "words.rowid" if asked is not None else "images.number"
        with self._db, limited(self._db, _PAGE_SECONDS):
            self._db.execute("BEGIN")  # so that both see the same
            (total,) = self._db.execute(
                f"SELECT count(*) FROM {counted}{_where(wanted)}",  # noqa: S608
                values,
            ).fetchone()
            if before is not None:
                wanted, values = [*wanted, f"{order} < ?"], [*values, before]
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM {source}{_where(wanted)} ORDER BY {order} DESC LIMIT ?",  # noqa: S608
                [*values, limit + 1],
            ).fetchall()
        shown = rows[:limit]
        after = cursor_of(shown[-1][0]) if len(rows) > limit else None
        return HistoryPage(tuple(self._image(row) for row in shown), total, after)

    def image(self, image_id: str) -> HistoryImage:
        """One image.

        Raises:
            ImageNotFoundError: There is none of this id.
        """
        asked = f"SELECT {_COLUMNS} FROM images WHERE id = ?"  # noqa: S608
        row = self._db.execute(asked, (storable(image_id),)).fetchone()
        if row is None:
            raise ImageNotFoundError("The gallery has no image of this id.")
        return self._image(row)

    def _image(self, row: tuple[Any, ...]) -> HistoryImage:
        (_, name, generation_id, position, created_at, completed_at, path, kind, width, height, seed, model,
         variant, time_taken, timings, request, version) = row  # fmt: skip
        return HistoryImage(
            id=name,
            generation_id=generation_id,
            index=position,
            created_at=created_at,
            completed_at=completed_at,
            path=located(self._folder, path),
            format=kind,
            width=width,
            height=height,
            seed=seed,
            model=model,
            variant=variant,
            time_taken=time_taken,
            timings={
                stage: seconds
                for stage, seconds in _object(timings).items()
                if isinstance(seconds, int | float) and 0 <= seconds < _TIMING_MAX
            },
            request=_object(request),
            version=version,
        )


def cursor_of(number: int) -> str:
    """What stands for an image in ``after``; nobody should read anything from it."""
    return base64.urlsafe_b64encode(number.to_bytes(_NUMBER_BYTES, "big")).rstrip(b"=").decode("ascii")


def number_of(cursor: str) -> int:
    """The number that it stands for.

    Raises:
        InvalidRequestError: It is none of ours.
    """
    try:
        data = base64.b64decode(cursor.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        data = b""
    number = int.from_bytes(data, "big")
    if len(data) != _NUMBER_BYTES or number > _NUMBER_MAX:
        raise InvalidRequestError(
            "The place to go on from is none that this gallery gave.",
            hint="Give 'after' as the last page had it, or leave it out for the first page.",
            details={"fields": ["after"]},
        )
    return number


def _object(text: object) -> Mapping[str, Any]:
    """What a column holds; empty where it is damaged: one image must not keep all others from being seen."""
    try:
        value = json.loads(text, parse_constant=_refuse) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and the like are no JSON


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
