"""Everything that happens, over one WebSocket: JSON, and the bytes of previews in binary frames."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Final

from aiohttp import WSCloseCode, WSMsgType, web

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import Cancelled, Completed, Failed, Preview, StageChanged
from sdmanager.jobs import last_event

from .face import FACE
from .streams import OPEN_STREAMS
from .wire import generation_body
from .words import NativeWords, end_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import Event
    from sdmanager.jobs import Feed, FeedItem, Generation, GenerationService

    from .streams import Worded

# Big-endian, as ComfyUI has them: the event (1: a preview) and the format of the image.
_PREVIEW: Final = 1
_FORMATS: Final = {"jpeg": 1, "png": 2, "webp": 3}

_MESSAGE_MAX: Final = 4096
_CLOSE_SECONDS: Final = 0.3  # for the client's own close frame


def add_socket_route(app: web.Application) -> None:
    """Add the route; ``add_stream_routes`` does it."""
    app.router.add_get("/ws", _socket, allow_head=False)


async def _socket(request: web.Request) -> web.StreamResponse:
    service, streams = request.app[FACE].service, request.app[OPEN_STREAMS]
    wanted = request.query.get("id")
    only = service.get(wanted) if wanted is not None else None
    socket = web.WebSocketResponse(
        heartbeat=streams.times.ping, timeout=_CLOSE_SECONDS, max_msg_size=_MESSAGE_MAX, compress=False
    )
    if not socket.can_prepare(request):
        raise InvalidRequestError("This path is for WebSockets.", hint="Connect with a WebSocket client.")
    sender = _Sender(request, socket, only)
    try:
        await socket.prepare(request)
    except ConnectionError:  # gone already
        return socket
    sending, listening = asyncio.create_task(sender.run()), asyncio.create_task(_listen(socket))
    try:
        await asyncio.wait([sending, listening], return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await _close(request, socket, sending.result())
    finally:
        sending.cancel()
        listening.cancel()
        await asyncio.wait([sending, listening])
    return socket


async def _listen(socket: web.WebSocketResponse) -> None:
    """Until the client is gone. What it says is not used; reading answers its pings, and takes its pongs."""
    async for _message in socket:
        pass


async def _close(request: web.Request, socket: web.WebSocketResponse, code: WSCloseCode) -> None:
    try:
        async with asyncio.timeout(2 * _CLOSE_SECONDS):
            await socket.close(code=code)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()  # it takes nothing more


class _Sender:
    """One reader: a cursor into a feed, and no queue."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, only: Generation | None) -> None:
        self._request = request
        self._socket = socket
        self._service = request.app[FACE].service
        self._streams = request.app[OPEN_STREAMS]
        self._words = NativeWords(self._service, inline=False)
        self._feed: Feed | None = self._service.hub if only is None else self._service.feed(only.id)
        self._only = only
        # Before anything is awaited: what comes meanwhile is after the cursor.
        self._cursor = self._feed.last_number if self._feed is not None else 0
        self._preview = self._feed.preview if self._feed is not None else None
        self._first = [_encode("status", _status(self._service, only))]
        if self._feed is None and only is not None:
            self._first.append(_encode(*end_words(last_event(only))))

    async def run(self) -> WSCloseCode:
        """Send until there is nothing more to come; the code to close with."""
        try:
            for message in self._first:
                await self._send(message)
            if self._feed is not None:
                if self._preview is not None:
                    await self._tell(self._preview, self._feed)
                await self._follow(self._feed)
        except (ConnectionError, TimeoutError):
            self._streams.drop(self._request)
        going = self._only is None or self._streams.closing
        return WSCloseCode.GOING_AWAY if going else WSCloseCode.OK

    async def _follow(self, feed: Feed) -> None:
        while True:
            for item in feed.since(self._cursor):
                self._cursor = item.number
                await self._tell(item, feed)
            if feed.closed and feed.last_number <= self._cursor:
                return
            async with self._streams.within(None):
                await feed.wait(self._cursor)

    async def _tell(self, item: FeedItem, feed: Feed) -> None:
        event, shared = item.event, item.rendered
        if event is None:  # a newer preview has taken its place
            return
        if "ws" not in shared:
            worded = self._word(event, item.number, feed)
            shared["ws"] = _encode(*worded) if worded is not None else b""
            if isinstance(event, Preview):
                shared["ws-image"] = (
                    struct.pack(">II", _PREVIEW, _FORMATS[event.image.format]) + event.image.data
                )
        text, image = shared["ws"], shared.get("ws-image")
        if text:
            await self._send(text)
        if image is not None:
            await self._send(image, WSMsgType.BINARY)

    async def _send(self, data: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
        async with self._streams.within(self._streams.times.patience):
            await self._socket.send_frame(data, kind)

    def _word(self, event: Event, number: int, feed: Feed) -> Worded | None:
        match event:
            case StageChanged():
                return "stage", {"id": event.generation_id, "stage": event.stage.value}
            case Completed() | Failed() | Cancelled():
                return end_words(event)
            case _:
                return self._words.word(event, number, feed)


def _status(service: GenerationService, only: Generation | None) -> dict[str, object]:
    known = service.registry.list() if only is None else (only,)
    generations = [generation_body(generation) for generation in known if not generation.status.is_terminal]
    return {"busy": service.busy, "waiting": service.waiting, "generations": generations}


def _encode(kind: str, data: Mapping[str, object]) -> bytes:
    return json.dumps({"type": kind, "data": data}, separators=(",", ":")).encode()
