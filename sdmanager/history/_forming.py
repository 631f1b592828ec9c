"""The frames of one generation while it is drawn: made at once, filled with the newest previews, then removed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ParamSpec

from sdmanager.errors import StorageError

from ._database import NOW, deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.generation import ImageData

    from ._database import Lane
    from ._gallery import Begun, Gallery

_P = ParamSpec("_P")

_log = logging.getLogger("sdmanager.history")


class Frames:
    """Writes in a task of its own, so that who tells of previews never waits; at most the newest of each image waits.

    Args:
        begun: The generation.
        gallery: Where the frames are.
        lane: In which it is written.
    """

    def __init__(self, begun: Begun, gallery: Gallery, lane: Lane) -> None:
        self.begun = begun
        self._gallery = gallery
        self._lane = lane
        self._newest: dict[int, ImageData] = {}
        self._over = self._complained = False
        self._changed = asyncio.Event()
        self._writing = asyncio.create_task(self._write(), name="sdmanager-history")

    def show(self, index: int, preview: ImageData) -> None:
        """Have a preview shown, unless a newer one of the same image comes first.

        Args:
            index: Which image, from 0.
            preview: Of it.
        """
        self._newest[index] = preview
        self._changed.set()

    async def stop(self) -> None:
        """Write nothing more, and wait until what is being written is there."""
        self._over = True
        self._changed.set()
        await asyncio.wait([self._writing])

    async def drop(self) -> None:
        """Stop, and remove the frames and their previews; whoever is busy with the database is not waited for."""
        await self.stop()
        await self._try(self._gallery.drop, self.begun.generation_id, NOW)

    async def _write(self) -> None:
        await self._try(self._gallery.begin, self.begun, deadline(brief=True))
        while not self._over:
            await self._changed.wait()
            self._changed.clear()
            if self._newest and not self._over:
                previews, self._newest = self._newest, {}
                await self._try(self._gallery.show, self.begun, previews, deadline(brief=True))

    async def _try(self, function: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """What cannot be shown meanwhile may be kept at the end all the same; so nothing ends the task that writes."""
        try:
            await self._lane.run(function, *args, **kwargs)
        except StorageError as exc:
            level = logging.DEBUG if self._complained else logging.WARNING
            _log.log(level, "what is being drawn cannot be shown in the gallery: %s", exc.message)
            self._complained = True
        except Exception as exc:  # noqa: BLE001 - logged, and no reason to show nothing more
            _log.error("what is being drawn cannot be shown in the gallery", exc_info=exc)
