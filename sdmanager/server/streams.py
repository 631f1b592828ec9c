"""Server-Sent Events over a feed: one writer, whatever the events are called and made of."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from sdmanager.generation import Cancelled, Completed, Failed, Queued
from sdmanager.jobs import last_event

from .face import FACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sdmanager.generation import Event
    from sdmanager.jobs import Feed, FeedItem, Generation

END_ID: Final = "end"

_HELLO: Final = b"retry: 2000\n\n: connected\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_PIECE: Final = 64 * 1024
_PATIENCES: Final = 5  # for the end as a whole
_DIGITS_MAX: Final = 18

Worded = tuple[str, "Mapping[str, object]"]
End = Completed | Failed | Cancelled


class Dialect(Protocol):
    """How one face of the server words what happens: the name of an event, and its data."""

    @property
    def name(self) -> str:
        """Under which encodings are shared."""
        ...

    def word(self, event: Event, number: int, feed: Feed) -> Worded | None:
        """An event that is not the end, with its number in the feed; None: nothing that this face tells."""
        ...

    async def end(self, event: End) -> bytes:
        """The end of a generation, encoded: it may be large."""
        ...


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds.

    Attributes:
        heartbeat: Silence after which a stream of events sends a comment, and so sees whether its reader is there.
        ping: Silence after which a WebSocket is asked for a sign of life.
        patience: For how long a reader may take nothing of what is sent before it is given up.
    """

    heartbeat: float = 15.0
    ping: float = 30.0
    patience: float = 60.0


class OpenStreams:
    """What is open, so that a server that stops can end all of it at once.

    Args:
        times: How long to wait for what.
    """

    def __init__(self, times: StreamTimes) -> None:
        self.times = times
        self.closing = False
        self._limits: set[asyncio.Timeout] = set()

    @contextlib.asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[None]:
        """A time limit, which is over at once when the server stops.

        Raises:
            TimeoutError: It was over; ``closing`` says whether for that reason.
        """
        if self.closing:
            raise TimeoutError
        async with asyncio.timeout(seconds) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    async def write(self, response: web.StreamResponse, data: bytes) -> None:
        """Write in pieces, so that a slow reader of something big is told from one that reads nothing.

        Raises:
            TimeoutError: Nothing was taken for too long, or the server stops.
            ConnectionError: Nobody is there any more.
        """
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            async with self.within(self.times.patience):
                await response.write(view[start : start + _PIECE])

    def ending(self) -> asyncio.Timeout:
        """A time limit for the end of a stream as a whole, however many pieces it has."""
        return asyncio.timeout(_PATIENCES * self.times.patience)

    def drop(self, request: web.Request, *, whole: bool = True) -> None:
        """Let go of a reader that is gone or stuck. When the server stops, who keeps up gets a proper end instead.

        Args:
            request: Of the reader.
            whole: Whether what it got ends with an event: half of one must not have a proper end.
        """
        transport = request.transport
        if transport is not None and not (self.closing and whole and transport.get_write_buffer_size() == 0):
            transport.abort()

    def close(self) -> None:
        """End all that is open, and all that may still come."""
        self.closing = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)


OPEN_STREAMS: Final = web.AppKey("open_streams", OpenStreams)


async def event_stream(request: web.Request, dialect: Dialect) -> web.StreamResponse:
    """Answer with the events of the generation that the path names, until it has ended or nobody reads any more.

    A new reader first gets how things stand; one that comes back with the id of the last event that it saw gets what
    it has missed, as far as that is kept. Who has seen the end gets 204, so that a browser's EventSource does not
    ask again.

    Raises:
        GenerationNotFoundError: There is no such generation.
    """
    service = request.app[FACE].service
    generation = service.get(request.match_info["id"])
    feed = service.feed(generation.id)
    seen = _last_event_id(request)
    if feed is None and seen == END_ID:
        return web.Response(status=204)
    stream = _Stream(request, dialect)
    # All of this before anything is awaited: what comes meanwhile is after the cursor.
    cursor = _number(seen, feed) if feed is not None else None
    start = [_HELLO]
    if feed is not None and cursor is None:
        start += _standing(generation, feed, dialect)
        cursor = feed.last_number
    try:
        await stream.begin(b"".join(start))
        if feed is None or cursor is None:
            await stream.end(last_event(generation))
        else:
            await stream.follow(feed, cursor)
    except (ConnectionError, TimeoutError):
        request.app[OPEN_STREAMS].drop(request)
    return stream.response


class _Stream:
    """One reader: a cursor into the feed, and no queue."""

    def __init__(self, request: web.Request, dialect: Dialect) -> None:
        self._request = request
        self._dialect = dialect
        self._open = request.app[OPEN_STREAMS]
        self.response = web.StreamResponse(headers=STREAM_HEADERS)

    async def begin(self, data: bytes) -> None:
        await self.response.prepare(self._request)
        await self.write(data)

    async def write(self, data: bytes) -> None:
        await self._open.write(self.response, data)

    async def end(self, event: End) -> None:
        frame = await self._dialect.end(event)
        async with self._open.ending():
            await self.write(b"id: " + END_ID.encode() + b"\n")
            await self.write(frame)

    async def follow(self, feed: Feed, cursor: int) -> None:
        """Write what comes after the cursor, to the generation's end or the server's."""
        while True:
            for item in feed.since(cursor):
                cursor = item.number
                if isinstance(item.event, End):
                    return await self.end(item.event)
                if frame := rendered(item, feed, self._dialect):
                    await self.write(b"id: %d\n" % item.number + frame)
            if feed.closed and feed.last_number <= cursor:
                return None
            async with self._open.within(None):
                news = await feed.wait(cursor, self._open.times.heartbeat)
            if not news:
                await self.write(KEEP_ALIVE)


def rendered(item: FeedItem, feed: Feed, dialect: Dialect) -> bytes:
    """The item as this dialect says it, encoded once for all readers; empty where there is nothing to say.

    Also where a newer preview has taken the place of this one since the reader looked.
    """
    if item.event is None:
        return b""
    frame = item.rendered.get(dialect.name)
    if frame is None:
        worded = dialect.word(item.event, item.number, feed)
        frame = item.rendered[dialect.name] = b"" if worded is None else encode(*worded)
    return frame


def encode(name: str, data: Mapping[str, object]) -> bytes:
    """One event as it goes over the wire, without its id."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _standing(generation: Generation, feed: Feed, dialect: Dialect) -> list[bytes]:
    """How things stand. Only the last event has an id: who is cut off before it gets all of this once more."""
    number = feed.last_number
    events: list[Event] = []
    if generation.position is not None:
        position = generation.position
        events.append(Queued(generation_id=generation.id, sequence=0, elapsed=0.0, position=position))
    if generation.progress is not None:
        events.append(generation.progress)
    worded = [dialect.word(event, number, feed) for event in events]
    frames = [encode(*event) for event in worded if event is not None]
    if feed.preview is not None:
        frames.append(rendered(feed.preview, feed, dialect))
    if frames:
        frames[-1] = b"id: %d\n" % number + frames[-1]
    return frames


def _last_event_id(request: web.Request) -> str | None:
    """The header is that of a reader that comes back by itself, and newer than what stands in its address."""
    query = request.query
    return request.headers.get("Last-Event-ID") or query.get("last_event_id") or query.get("lastEventId")


def _number(seen: str | None, feed: Feed) -> int | None:
    """The number of an event that this feed has had, or None."""
    if seen is None or not (seen.isascii() and seen.isdigit()) or len(seen) > _DIGITS_MAX:
        return None
    number = int(seen)
    return number if number <= feed.last_number else None
