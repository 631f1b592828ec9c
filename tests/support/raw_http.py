"""A client that sends exactly the bytes it is told to, and reads what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

WAIT = 60.0  # only where a server that hangs is the failure


@dataclass(frozen=True, slots=True)
class RawReply:
    """What a server answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return ", ".join(values) if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        return self.json["error"]["code"]


def request_bytes(
    method: str,
    target: str = "/",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    *,
    version: str = "1.1",
) -> bytes:
    """A request with these headers and a Content-Length where there is a body."""
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


class RawConnection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> RawReply | None:
        """The next answer, or None if the connection ends first."""
        async with asyncio.timeout(WAIT):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = [
                (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
            ]
            reply = RawReply(int(first.split(" ")[1]), headers)
            length = int(reply.get("Content-Length") or 0)
            return RawReply(reply.status, headers, await self.reader.readexactly(length))

    async def ended(self) -> bytes:
        """Wait until the server has closed; what came until then."""
        async with asyncio.timeout(WAIT):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawConnection]:
    """A connection to a port of this machine, for the length of a block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(port: int, data: bytes) -> RawReply | None:
    """One answer on a connection of its own, or None if it ends without one."""
    async with connected(port) as connection:
        connection.send(data)
        return await connection.reply()
