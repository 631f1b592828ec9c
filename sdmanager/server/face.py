"""What the routes need of the manager behind them, and where they find it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sdmanager.generation import ImageRequest
    from sdmanager.jobs import GenerationService

    from .schemas import ServerInfo


@dataclass(frozen=True, slots=True)
class Face:
    """What a server shows.

    Attributes:
        service: Takes, draws and remembers generations.
        info: What ``/v1/info`` says now.
        check: Called with each request before it is accepted; raises what is wrong with its pictures, or what the
            engine and the model cannot do. It may take its time.
        decoding: Held while pictures are decoded: one request at a time, so that no number of them takes all
            threads, or more memory than one.
    """

    service: GenerationService
    info: Callable[[], ServerInfo]
    check: Callable[[ImageRequest], Awaitable[None]]
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


FACE: Final = web.AppKey("face", Face)
