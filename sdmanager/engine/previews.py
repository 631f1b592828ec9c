"""The picture while it forms: a watcher that publishes only whole pictures, and only the newest one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

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
    """

    def __init__(
        self,
        path: Path,
        options: PreviewOptions,
        steps: int,
        publish: Callable[[int, int, int, ImageData], None],
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
            data = await self._read_whole()
            if data is None:
                continue
            self._due = False
            try:
                picture = await asyncio.to_thread(
                    encode_preview, data, self._options.format, self._options.max_size
                )
            except (OSError, ValueError, SyntaxError) as exc:
                _log.debug("preview of step %d dropped: %s", step, exc)
                continue
            self._publish(step, total_steps, image, picture)

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
            except OSError as exc:
                _log.debug("preview unreadable: %s", exc)
                return None
            await asyncio.sleep(_RETRY_SECONDS)
        return None
