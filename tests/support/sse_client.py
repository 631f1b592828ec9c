"""A reader of Server-Sent Events over a real connection, which it can cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

import aiohttp
from serving import GENERATIONS, Served

from sdmanager.server.streams import OPEN_STREAMS, StreamTimes

SECONDS = 120.0  # only where hanging is the failure


@dataclass(frozen=True)
class Told:
    """One event; ``id`` is what the reader would come back with after it."""

    name: str
    data: dict
    id: str


@dataclass
class SseReader:
    """What a stream has sent so far."""

    response: aiohttp.ClientResponse
    comments: list[str] = field(default_factory=list)
    retry: str | None = None
    last_id: str = ""
    sizes: list[int] = field(default_factory=list)
    _buffer: bytes = b""

    async def next(self) -> Told | None:
        """The next event; None at the end of the stream."""
        while True:
            while b"\n\n" not in self._buffer:
                piece = await self.response.content.readany()
                if not piece:
                    assert self._buffer == b"", "the stream ended within an event"
                    return None
                self._buffer += piece
            block, self._buffer = self._buffer.split(b"\n\n", 1)
            told = self._take(block.decode())
            if told is not None:
                return told

    async def until(self, *names: str) -> list[Told]:
        """Events up to the first of this name; fails where the stream ends before."""
        seen: list[Told] = []
        while not seen or seen[-1].name not in names:
            told = await self.next()
            assert told is not None, f"the stream ended after {[event.name for event in seen]}"
            seen.append(told)
        return seen

    async def rest(self) -> list[Told]:
        """Everything up to the end of the stream."""
        seen = []
        while (told := await self.next()) is not None:
            seen.append(told)
        return seen

    async def heartbeat(self) -> str:
        """The next comment after those seen so far; no event may come before it."""
        known = len(self.comments)
        while len(self.comments) == known:
            while b"\n\n" not in self._buffer:
                piece = await self.response.content.readany()
                assert piece, "the stream ended"
                self._buffer += piece
            block, self._buffer = self._buffer.split(b"\n\n", 1)
            assert self._take(block.decode()) is None
        return self.comments[-1]

    def cut(self) -> None:
        """Drop the connection without a word."""
        connection = self.response.connection
        if connection is not None:  # None once all has come
            connection.transport.abort()

    def _take(self, block: str) -> Told | None:
        name, data = "message", []
        for line in block.split("\n"):
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match key:
                case "":
                    self.comments.append(value)
                case "event":
                    name = value
                case "data":
                    data.append(value)
                case "id":
                    self.last_id = value
                case "retry":
                    self.retry = value
                case _:
                    raise AssertionError(f"no such field: {key}")
        if not data:
            return None
        self.sizes.append(len(block))
        return Told(name, json.loads("\n".join(data)), self.last_id)


@contextlib.asynccontextmanager
async def sse(client: aiohttp.ClientSession, path: str, last_event_id: str | None = None):
    """Open a stream."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with asyncio.timeout(SECONDS), client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield SseReader(response)


def events_of(generation_id: str, query: str = "") -> str:
    """Where the events of a generation are."""
    return f"{GENERATIONS}/{generation_id}/events{query}"


def names(told: list[Told]) -> list[str]:
    return [event.name for event in told]


def set_times(served: Served, **times: float) -> None:
    """Give the streams of a running server other times."""
    served.server._runner.app[OPEN_STREAMS].times = StreamTimes(**times)


def peers(served: Served) -> set[int]:
    """The ports at the other ends of the server's connections."""
    transports = [connection.transport for connection in served.server._runner.server.connections]
    return {transport.get_extra_info("peername")[1] for transport in transports if transport is not None}


def port_of(response: aiohttp.ClientResponse) -> int:
    """This end of the connection of a response that is still coming."""
    return response.connection.transport.get_extra_info("sockname")[1]


async def soon(condition) -> None:
    """Wait until something holds that nothing tells of."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
