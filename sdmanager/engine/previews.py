"""The picture while it forms: a watcher that publishes only whole pictures, and only the newest one."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from sdmanager.generation import PreviewTimings
from sdmanager.threads import beside

from .images import encode_preview
from .png import is_whole_png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdmanager.generation import ImageData, PreviewOptions

_log = logging.getLogger("sdmanager.engine")

# The engines that are known write a preview just before they print the step's bar, so that a step is the moment
# to look. A torn file is then the next one being written, and an old file an engine that writes it after the bar:
# look again after this many seconds.
_RETRY_SECONDS: Final = 0.005
_RETRIES: Final = 10


class PreviewWatcher:
    """Publishes the engine's preview file after the steps that the caller wants to see.

    A preview that cannot be read or encoded is dropped: previews never break a generation. While one is being
    encoded only the newest of those that follow waits.

    Args:
        path: The file that the engine rewrites.
        options: What the caller wants.
        steps: Sampling steps per image.
        publish: Called on the event loop with step, total steps, image (from 1) and the picture.
        clock: Seconds from any moment on.
    """

    def __init__(
        self,
        path: Path,
        options: PreviewOptions,
        steps: int,
        publish: Callable[[int, int, int, ImageData], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._options = options
        self._stride = options.effective_stride(steps)
        self._publish = publish
        self._skip = options.skip_first
        self._due = False
        self._seen: tuple[int, int] | None = None
        self._waiting: tuple[int, int, int] | None = None
        self._wake = asyncio.Event()
        self._clock = clock
        self._count = 0
        self._first: float | None = None
        self._reading = 0.0
        self._encoding = 0.0

    def timings(self, began: float) -> PreviewTimings:
        """What the previews took so far.

        Args:
            began: When the generation did, by the clock of this watcher.
        """
        first = self._first - began if self._first is not None else None
        return PreviewTimings(self._count, first, self._reading, self._encoding)

    def on_step(self, step: int, total_steps: int, image: int) -> None:
        """A step is done: its preview, if it is one of those wanted, is in the file."""
        # The engine's own --preview-interval is not honoured by every build, so the stride is kept here too. One
        # that is due stays due until a new picture is seen: builds differ in the step that they write after.
        if step % self._stride == 0 or step == total_steps:
            if self._skip > 0:
                self._skip -= 1
            else:
                self._due = True
        if self._due:
            self._waiting = (step, total_steps, image)
            self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._waiting is None:
                continue
            (step, total_steps, image), self._waiting = self._waiting, None
            try:
                picture = await self._take()
            except Exception as exc:  # noqa: BLE001 - whatever it is, it costs a preview and no generation
                _log.debug("preview of step %d dropped: %r", step, exc)
                continue
            if picture is None:
                continue
            if self._first is None:
                self._first = self._clock()
            self._count += 1
            self._publish(step, total_steps, image, picture)

    async def _take(self) -> ImageData | None:
        """The picture as the caller wants it, or None where the engine writes no new one in time."""
        began = self._clock()
        data = await self._read_whole()
        read = self._clock()
        self._reading += read - began
        if data is None:
            return None
        self._due = False
        try:
            return await beside(encode_preview, data, self._options.format, self._options.max_size)
        finally:
            self._encoding += self._clock() - read

    async def _read_whole(self) -> bytes | None:
        """The file once it is new and whole, or None where it does not become so in time."""
        for _ in range(_RETRIES):
            try:
                stat = self._path.stat()
                signature = (stat.st_mtime_ns, stat.st_size)
                if signature != self._seen:
                    data = self._path.read_bytes()
                    if is_whole_png(data):
                        self._seen = signature
                        return data
            except FileNotFoundError:
                pass
            await asyncio.sleep(_RETRY_SECONDS)
        return None
