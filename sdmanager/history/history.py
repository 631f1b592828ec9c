"""``History``: the one object through which the gallery is written and read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import ImageNotFoundError, InvalidRequestError, SDManagerError, StorageError
from sdmanager.generation import Cancelled, Failed, Preview
from sdmanager.threads import in_thread

from ._database import Lane, connect, deadline, explained, inspect, open_database
from ._files import FORMING, IMAGES, is_there, make_folder
from ._forming import Frames
from ._gallery import Begun, Gallery
from ._listing import Listing, number_of
from ._owners import Owner, alone, living

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdmanager.generation import Event, GenerationResult, ImageRequest

    from .images import HistoryImage, HistoryPage

_log = logging.getLogger("sdmanager.history")

LIMIT_MAX: Final = 500


class History:
    """A folder with pictures and an index of them, which several servers may have open at once.

    All methods belong to one event loop; files and the index are handled in threads. Also the ``Recorder`` of a
    ``GenerationService``: ``begin`` makes a frame for each image, ``take`` shows the newest previews in them, and
    ``keep`` makes images of them, or nothing does.

    Args:
        folder: Made if it is not there.
        wall: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._wall = wall
        self._held = contextlib.ExitStack()
        self._opened: _Opened | None = None
        self._frames: dict[str, Frames] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Make or open it, and clear away what processes that were killed left half done.

        If cancelled, or where it fails, ``aclose`` gives back what it took.

        Raises:
            StorageError: The folder cannot be written, its database is damaged or of a newer version, or what is in
                it is not ours; nothing is changed then.
        """
        if self._opened is None:
            self._opened = await in_thread(_open, self.folder, self._held)

    async def aclose(self) -> None:
        """Finish what is being written, and remove the frames that are left; idempotent."""
        for frames in tuple(self._frames.values()):
            self._end(frames)
        while self._ending:
            await asyncio.wait(tuple(self._ending))
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.writer.aclose()
            await opened.reader.aclose()
        await in_thread(self._held.close)

    def begin(self, generation_id: str, request: ImageRequest) -> None:
        """See ``Recorder``."""
        opened = self._there()
        begun = Begun(generation_id, request, round(self._wall() * 1000))
        self._frames[generation_id] = Frames(begun, opened.gallery, opened.writer)

    def take(self, event: Event) -> None:
        """See ``Recorder``. Of several previews that come while one is being written, the newest is next."""
        frames = self._frames.get(event.generation_id)
        if frames is None:
            return
        if isinstance(event, Preview):
            frames.show(event.image_index - 1, event.image)
        elif isinstance(event, Failed | Cancelled):
            self._end(frames)

    async def keep(self, generation_id: str, result: GenerationResult) -> None:
        """See ``Recorder``. When this returns, all of its pictures are in the gallery, whole.

        If cancelled, what has begun is finished all the same.

        Raises:
            StorageError: They could not be written, and none of them is in the gallery.
            ValueError: Nothing of this id has begun.
        """
        opened, frames = self._there(), self._frames.get(generation_id)
        if frames is None:
            raise ValueError("no generation of this id has begun")
        until = deadline()  # one for all: a database that stays busy delays a generation once
        await frames.stop()
        try:
            await opened.writer.run(opened.gallery.keep, frames.begun, result, self._wall(), until)
        except Exception:  # where this is cancelled, aclose() sees to them
            self._end(frames)
            raise
        del self._frames[generation_id]

    async def list(
        self, *, search: str = "", model: str | None = None, limit: int = 50, after: str | None = None
    ) -> HistoryPage:
        """Images and frames, newest first: in the order in which their drawing began, whatever the clock said.

        Args:
            search: Words that all stand in the prompt or the negative prompt; the last may be the start of one. Case,
                accents and punctuation do not matter. Without a word in it, everything is found.
            model: Only of this model.
            limit: At most so many, 1 to 500.
            after: Of an earlier page: what is new since does not move what follows it.

        Raises:
            InvalidRequestError: ``after`` is none of ours, ``limit`` is out of its range, or the search takes too
                long.
            StorageError: The database cannot be read.
        """
        opened = self._there()
        if not 1 <= limit <= LIMIT_MAX:
            raise InvalidRequestError(
                f"The limit must be 1 to {LIMIT_MAX}.",
                hint="Ask for more with 'after'.",
                details={"fields": ["limit"]},
            )
        before = number_of(after) if after is not None else None
        return await opened.reader.run(opened.listing.page, search, model, limit, before)

    async def get(self, image_id: str) -> HistoryImage:
        """One image.

        Raises:
            ImageNotFoundError: There is none of this id.
            StorageError: The database cannot be read.
        """
        opened = self._there()
        return await opened.reader.run(opened.listing.image, image_id)

    async def picture(self, image_id: str) -> tuple[HistoryImage, Path]:
        """One image, and its file, which was seen to be there; one whose file somebody has deleted is forgotten.

        Links are not followed.

        Raises:
            ImageNotFoundError: There is none of this id, or no picture of it, or not yet.
            StorageError: The database cannot be read.
        """
        image = await self.get(image_id)
        while image.path is None or not await in_thread(is_there, self.folder, image.path):
            before, image = image, await self.get(image_id)
            if image.version == before.version:  # else it has become another meanwhile
                await self._forget_lost(image)
                raise ImageNotFoundError("The gallery has no picture of this image, or not yet.")
        return image, image.path

    async def delete(self, image_id: str) -> None:
        """Delete an image and its file.

        Raises:
            ImageNotFoundError: There is none of this id.
            ImageFormingError: It still forms.
            StorageError: The database cannot be written.
        """
        opened = self._there()
        await opened.writer.run(opened.gallery.delete, image_id, deadline())

    async def clear(self) -> int:
        """Delete all that is whole when this is called; how many.

        If cancelled, what is left stays.

        Raises:
            StorageError: The database cannot be written; some may be deleted.
        """
        opened = self._there()
        last, forming = await opened.writer.run(opened.gallery.so_far, deadline())
        deleted, more = 0, True
        while more:
            some, more = await opened.writer.run(opened.gallery.delete_some, last, forming, deadline())
            deleted += some
        return deleted

    def _there(self) -> _Opened:
        if self._opened is None:
            raise StorageError("The gallery is not open.", hint="Start the server first.")
        return self._opened

    def _end(self, frames: Frames) -> None:
        self._frames.pop(frames.begun.generation_id, None)
        ending = asyncio.create_task(frames.drop(), name="sdmanager-history-end")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _forget_lost(self, image: HistoryImage) -> None:
        """Not where its folder is gone, too: then a disk is away, and may come back."""
        if image.completed_at is None or image.path is None or not await in_thread(_is_lost, image.path):
            return
        _log.info("an image is forgotten: somebody has deleted its file")
        with contextlib.suppress(SDManagerError):
            await self.delete(image.id)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What there is while a gallery is open: a connection for writers, and one for readers, who never wait for them."""

    gallery: Gallery
    writer: Lane
    listing: Listing
    reader: Lane


def _is_lost(path: Path) -> bool:
    return path.parent.is_dir() and not os.path.lexists(path)


def _open(folder: Path, held: contextlib.ExitStack) -> _Opened:
    forming = folder / FORMING
    try:
        inspect(folder)  # first: a folder that is not ours gets nothing
        for needed in (forming, folder / IMAGES):
            if needed.is_symlink():
                raise StorageError(
                    f"The folder {needed.name!r} of the gallery is a link.",
                    hint="Move the whole gallery, and name its new folder.",
                )
            make_folder(needed)
        with explained(), alone(forming):
            writing = open_database(folder)
            held.callback(writing.close)
            reading = connect(folder, read_only=True)
            held.callback(reading.close)
            others = living(forming)
            owner = Owner(forming)
            held.callback(owner.release)
            gallery = Gallery(folder, writing, owner.name)
            gallery.sweep(others, deadline())
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(
            f"The folder of the gallery cannot be used: {exc.strerror or exc}.",
            hint="Check that it is a folder, is writable and has free space, or name another.",
            details={"path": str(folder), "errno": exc.errno},
        ) from exc
    return _Opened(gallery, Lane(writing), Listing(folder, reading), Lane(reading))
