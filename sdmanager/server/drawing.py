"""For APIs whose answer is the picture: have it drawn while the client waits, and stop when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from sdmanager.errors import AlreadyTerminalError, GenerationCancelledError, GenerationNotFoundError
from sdmanager.jobs import Status

from .face import FACE

if TYPE_CHECKING:
    from aiohttp import web

    from sdmanager.generation import GenerationResult
    from sdmanager.jobs import Generation

# aiohttp tells no handler that its client has gone: it has to look.
_LOOK_SECONDS: Final = 0.25


async def outcome(request: web.Request, generation_id: str) -> GenerationResult:
    """Wait for the pictures of a generation that this request alone waits for.

    Raises:
        ConnectionResetError: The client has gone, and the generation was cancelled for it.
        GenerationCancelledError: It was cancelled.
        SDManagerError: What it failed with.

    Cancelling the task cancels the generation.
    """
    service = request.app[FACE].service
    waiting = asyncio.ensure_future(service.wait(generation_id))
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=_LOOK_SECONDS)
            if not waiting.done() and is_gone(request):
                raise ConnectionResetError("The client has gone.")
    except BaseException:
        waiting.cancel()
        await asyncio.shield(cancel(request, generation_id))
        raise
    return result_of(waiting.result())


def result_of(generation: Generation) -> GenerationResult:
    """The result of a generation that has ended.

    Raises:
        GenerationCancelledError: It was cancelled.
        SDManagerError: What it failed with.
    """
    if generation.result is not None:
        return generation.result
    if generation.error is not None:
        raise generation.error.to_error()
    assert generation.status is Status.CANCELLED, generation.status  # noqa: S101 - the caller waited for the end
    raise GenerationCancelledError("The generation was cancelled.")


def is_gone(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


async def cancel(request: web.Request, generation_id: str) -> None:
    """Cancel a generation, if it has not ended."""
    with contextlib.suppress(AlreadyTerminalError, GenerationNotFoundError):
        await request.app[FACE].service.cancel(generation_id)
