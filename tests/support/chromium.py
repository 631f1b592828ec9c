"""A real Chromium, and the way from it to a server: one that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Page, async_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.asynccontextmanager
async def chromium(folder: Path):
    """An empty page of a browser that knows nothing, with its data in this folder."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch_persistent_context(
            str(folder), executable_path=CHROMIUM, args=list(ARGUMENTS), chromium_sandbox=False
        )
        try:
            yield browser.pages[0] if browser.pages else await browser.new_page()
        finally:
            await browser.close()


async def until(page: Page, expression: str, seconds: float = 120.0) -> None:
    """Wait until something holds in the page."""
    await page.wait_for_function(expression, timeout=seconds * 1000)


@dataclass
class CuttingProxy:
    """Serves a page at ``/`` and passes everything else on to a server, under the origin of the page.

    Attributes:
        cuts: Of the first, second, … stream of events: after how many events it is cut.
        asked: Path and ``Last-Event-ID`` of each request that was passed on.
    """

    page: bytes
    target: int
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut all that is open now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which carries one request."""
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1]
            if path in {"/", "/favicon.ico"}:
                header = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                writer.write(f"{header}Content-Length: {len(self.page)}\r\n\r\n".encode() + self.page)
                await writer.drain()
            else:
                await self._pass_on(path, head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass_on(self, path, head, reader, writer) -> None:
        seen = re.search(r"^last-event-id: *(.*)\r$", head, re.IGNORECASE | re.MULTILINE)
        self.asked.append((path, seen[1] if seen else None))
        head = re.sub(r"(?im)^host:.*\r$", f"Host: 127.0.0.1:{self.target}\r", head)
        if "upgrade: websocket" not in head.lower():
            head = re.sub(r"(?im)^connection:.*\r$", "Connection: close\r", head)
        streams = path.partition("?")[0].endswith(("/events", "/stream"))
        cut = self.cuts.pop(0) if streams and self.cuts else None
        above, up = await asyncio.open_connection("127.0.0.1", self.target)
        self._open.add(up)
        try:
            up.write(head.encode("latin-1"))
            sending = asyncio.create_task(self._pump(reader, up, None))
            await self._pump(above, writer, cut)
            sending.cancel()
            await asyncio.wait([sending])
        finally:
            self._open.discard(up)
            up.transport.abort()

    async def _pump(self, reader, writer, cut: int | None) -> None:
        told = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                told += data
                if cut is not None and (end := _end_of_event(told, cut)) is not None:
                    writer.write(data[: len(data) - len(told) + end])
                    await writer.drain()
                    await asyncio.sleep(0.2)  # what was sent is to arrive
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()


def _end_of_event(told: bytes, number: int) -> int | None:
    """Where the event of this number, from 1, ends in what a stream has sent; None before that."""
    end = 0
    for block in told.split(b"\n\n")[:-1]:
        end += len(block) + 2
        number -= b"event: " in block
        if number == 0:
            return end
    return None


@contextlib.asynccontextmanager
async def cutting_proxy(page: Path):
    """A proxy on a free port; ``target`` is to be set before anything is passed on."""
    proxy = CuttingProxy(page.read_bytes(), 0)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
