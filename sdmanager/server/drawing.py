"""For APIs whose answer is the picture: have it drawn while the client waits, and stop when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import AlreadyTerminalError, GenerationCancelledError, GenerationNotFoundError
from sdmanager.jobs import Status

from .face import FACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sdmanager.generation import GenerationResult
    from sdmanager.jobs import Generation

# aiohttp tells no handler that its client has gone: it has to look this often.
LOOK_SECONDS: Final = 0.25


class Waiters:
    """How many requests wait for each generation: the last one that leaves takes it along.

    Attributes:
        counts: By the id of the generation; those that nobody waits for are not in it.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()


WAITERS: Final = web.AppKey("waiters", Waiters)


@contextlib.asynccontextmanager
async def waiting(request: web.Request, generation_id: str, *, joined: bool = False) -> AsyncIterator[None]:
    """A block in which a request waits for a generation, which is cancelled with the last one that leaves before it
    has ended.

    Its key goes with it: a client that comes again with it has the same drawn anew.

    Args:
        request: Of the client.
        generation_id: Just accepted; nothing may have been awaited since.
        joined: Whether another request asked for it first. Where that one does not wait, but comes for it later, it is
            not cancelled.
    """
    counts = request.app[WAITERS].counts
    if joined and generation_id not in counts:
        yield
        return
    counts[generation_id] += 1
    try:
        yield
    finally:
        counts[generation_id] -= 1
        if not counts[generation_id]:
            del counts[generation_id]
            await asyncio.shield(_abandon(request, generation_id))


async def outcome(request: web.Request, generation_id: str, *, joined: bool = False) -> GenerationResult:
    """Wait for the pictures of a generation, for as long as the client does; see ``waiting``.

    Raises:
        ConnectionResetError: The client has gone.
        GenerationCancelledError: It was cancelled.
        SDManagerError: What it failed with.

    Cancelling the task counts as the client's leaving.
    """
    async with waiting(request, generation_id, joined=joined):
        ending = asyncio.ensure_future(request.app[FACE].service.wait(generation_id))
        try:
            while not ending.done():
                await asyncio.wait([ending], timeout=LOOK_SECONDS)
                if not ending.done():
                    see_that_it_is_there(request)
        finally:
            ending.cancel()
    return result_of(ending.result())


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


def see_that_it_is_there(request: web.Request) -> None:
    """See whether the client still waits.

    Raises:
        ConnectionResetError: It has gone.
    """
    if is_gone(request):
        raise ConnectionResetError("The client has gone.")


async def cancel(request: web.Request, generation_id: str) -> None:
    """Cancel a generation, if it has not ended."""
    with contextlib.suppress(AlreadyTerminalError, GenerationNotFoundError):
        await request.app[FACE].service.cancel(generation_id)


async def _abandon(request: web.Request, generation_id: str) -> None:
    # The key first: who comes again with it, as the SDKs do by themselves, is not to be told of this end.
    with contextlib.suppress(AlreadyTerminalError, GenerationNotFoundError):
        request.app[FACE].service.registry.update(generation_id, keyless=True)
    await cancel(request, generation_id)
