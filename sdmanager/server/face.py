"""What the routes need of the manager behind them, and where they find it."""

from __future__ import annotations

from dataclasses import dataclass
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
        check_images: Decodes the pictures of a request before it is accepted; raises InputImageError.
    """

    service: GenerationService
    info: Callable[[], ServerInfo]
    check_images: Callable[[ImageRequest], Awaitable[None]]


FACE: Final = web.AppKey("face", Face)
