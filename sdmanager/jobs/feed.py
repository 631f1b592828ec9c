"""What happens, for any number of readers who come, lag behind and go, without anybody waiting for them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sdmanager.generation import Cancelled, Completed, Failed, Preview

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from sdmanager.generation import Event

_CAPACITY: Final = 512


@dataclass(slots=True)
class FeedItem:
    """One event in a feed.

    Attributes:
        number: Counts from 1 within the feed.
        event: What happened; None once a newer preview has taken the place of this one.
        rendered: What the faces of a server made of it, by name, so that many readers share one encoding.
    """

    number: int
    event: Event | None
    rendered: dict[str, bytes] = field(default_factory=dict)


class Feed:
    """The last events of one generation, or of all of them.

    A reader keeps the number of the last item that it has taken and asks for those after it. The feed holds no
    queue per reader: who lags behind by more than the capacity misses events, and of all previews only the newest
    is ever kept. All methods belong to the event loop.

    Args:
        capacity: Events that are kept for readers who lag behind.

    Attributes:
        closed: Whether no more will come.
        listeners: Called with each event as it is published, for who may miss none; must not block or raise.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._items: deque[FeedItem] = deque(maxlen=capacity)
        self._number = 0
        self._preview: FeedItem | None = None
        self._changed: asyncio.Future[None] | None = None
        self.closed = False
        self.listeners: set[Callable[[Event], None]] = set()

    @property
    def last_number(self) -> int:
        """Number of the newest item; 0 before the first."""
        return self._number

    @property
    def preview(self) -> FeedItem | None:
        """The newest preview; None before the first, and once the picture itself is there."""
        return self._preview

    def publish(self, event: Event) -> None:
        """Add an event. A preview takes the place of the one before; the end of a generation, of its last preview."""
        self._number += 1
        item = FeedItem(self._number, event)
        shown = self._preview.event if self._preview is not None else None
        is_end = isinstance(event, Completed | Failed | Cancelled)
        if isinstance(event, Preview):
            self._drop_preview()
            self._preview = item
        elif is_end and shown is not None and shown.generation_id == event.generation_id:
            self._drop_preview()
        self._items.append(item)
        for listen in tuple(self.listeners):
            listen(event)
        self._wake()

    def close(self) -> None:
        """No more will come; readers take what is left and end."""
        self.closed = True
        self._drop_preview()
        self._wake()

    def since(self, number: int) -> list[FeedItem]:
        """What came after this number and is still there, oldest first."""
        found: list[FeedItem] = []
        for item in reversed(self._items):
            if item.number <= number:
                break
            if item.event is not None:
                found.append(item)
        return found[::-1]

    async def wait(self, number: int, seconds: float | None = None) -> bool:
        """Wait until there is something after this number, or the feed is closed.

        Returns:
            False when the time was over first.
        """
        while self._number <= number and not self.closed:
            if self._changed is None:
                self._changed = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait([self._changed], timeout=seconds)
            if not done:
                return False
        return True

    async def follow(self, number: int = 0) -> AsyncGenerator[Event, None]:
        """Each event after this number until the feed is closed; of previews, who lags behind gets the newest."""
        while True:
            for item in self.since(number):
                number = item.number
                if item.event is not None:
                    yield item.event
            if self.closed and not self.since(number):
                return
            await self.wait(number)

    def _drop_preview(self) -> None:
        if self._preview is not None:
            self._preview.event = None
            self._preview.rendered.clear()
            self._preview = None

    def _wake(self) -> None:
        if self._changed is not None:
            if not self._changed.done():
                self._changed.set_result(None)
            self._changed = None
