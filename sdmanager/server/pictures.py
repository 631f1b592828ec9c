"""Pictures that are files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

_SECONDS: Final = 300.0


class Picture(web.FileResponse):
    """A file, or the range of it that was asked for; with ``ETag`` and ``Last-Modified``, and what is asked by them."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it, within a time limit: the kernel sends the file, and waits forever for who does not read."""
        transport = request.transport
        try:
            async with asyncio.timeout(_SECONDS):
                return await super().prepare(request)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("The picture was not read.") from None
