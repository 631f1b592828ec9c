"""The stream of this API: partial images while the picture forms, then the picture."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import GenerationCancelledError, SDManagerError, ServerNotRunningError
from sdmanager.generation import Cancelled, Completed, Failed, Preview
from sdmanager.jobs import last_event
from sdmanager.server.drawing import cancel, is_gone
from sdmanager.server.face import FACE
from sdmanager.server.streams import KEEP_ALIVE, OPEN_STREAMS, STREAM_HEADERS
from sdmanager.threads import in_thread

from .answers import completed_event, frame, partial_event
from .errors import REQUEST_ID, openai_failure
from .partials import Partials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.jobs import Feed
    from sdmanager.server.streams import End

    from .draft import Draft

_log = logging.getLogger("sdmanager.server")

_LOOK_SECONDS: Final = 0.25  # aiohttp tells no handler that its client has gone
_LAST_WORD_SECONDS: Final = 1.0


async def stream_images(
    request: web.Request, draft: Draft, generation_id: str, headers: Mapping[str, str], *, owned: bool
) -> web.StreamResponse:
    """Answer with the events of a generation until it has ended, or nobody reads any more.

    Args:
        request: Of the client.
        draft: What is drawn for it.
        generation_id: The generation, which has just been accepted.
        headers: More headers.
        owned: Whether the generation is for this client alone: it is cancelled when the client goes away.

    Cancelling the task cancels the generation likewise.
    """
    stream = _Stream(request, draft, generation_id, headers)
    try:
        await stream.run()
    except (ConnectionError, TimeoutError):
        await stream.leave()
        request.app[OPEN_STREAMS].drop(request)
    finally:
        if owned:
            await asyncio.shield(cancel(request, generation_id))
    return stream.response


class _Stream:
    """One reader, which takes from the feed what becomes a partial image."""

    def __init__(
        self, request: web.Request, draft: Draft, generation_id: str, headers: Mapping[str, str]
    ) -> None:
        self._request = request
        self._draft = draft
        self._id = generation_id
        self._open = request.app[OPEN_STREAMS]
        self._partials = Partials(draft.order.partial_images)
        self._clock = asyncio.get_running_loop().time
        self._said = self._clock()
        self._whole = False  # whether what was written ends with a frame
        self.response = web.StreamResponse(headers={**STREAM_HEADERS, REQUEST_ID: generation_id, **headers})

    async def run(self) -> None:
        """Write all of it.

        Raises:
            ConnectionError: The client has gone.
            TimeoutError: It reads nothing, or the server stops.
        """
        service = self._request.app[FACE].service
        feed = service.feed(self._id)
        await self.response.prepare(self._request)
        self._whole = True
        end = await self._follow(feed) if feed is not None else None
        async with self._open.ending():
            await self._tell_end(end or last_event(service.get(self._id)))

    async def leave(self) -> None:
        """Say that the server stops, if that is why, so that the end of a stream is not taken for that of the work."""
        if self._open.closing and self._whole and not is_gone(self._request):
            failure = openai_failure(ServerNotRunningError("The server is stopping."))
            try:
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await self.response.write(frame({"error": failure}))
            except (ConnectionError, TimeoutError):
                pass

    async def _follow(self, feed: Feed) -> End | None:
        """Tell of partial images until the generation has ended; None where its feed no longer knows how."""
        cursor = 0
        while True:
            for item in feed.since(cursor):
                cursor = item.number
                match item.event:
                    case Preview() as preview:
                        await self._tell_preview(preview)
                    case Completed() | Failed() | Cancelled() as end:
                        return end
                    case _:
                        pass
            if feed.closed and feed.last_number <= cursor:
                return None
            await self._wait(feed, cursor)

    async def _wait(self, feed: Feed, cursor: int) -> None:
        """Wait for news, and meanwhile see that the client is there, and let it see that we are."""
        heartbeat = self._open.times.heartbeat
        async with self._open.within(None):
            news = await feed.wait(cursor, min(_LOOK_SECONDS, heartbeat))
        if is_gone(self._request):
            raise ConnectionResetError("The client has gone.")
        if not news and self._clock() - self._said >= heartbeat:
            await self._write(KEEP_ALIVE)

    async def _tell_preview(self, preview: Preview) -> None:
        index = self._partials.take(preview.image_index, preview.step, preview.total_steps)
        if index is None:
            return
        which = {"partial_image_index": index}
        if self._draft.order.fields.get("count") != 1:
            which["image_index"] = preview.image_index - 1
        order, size = self._draft.order, self._draft.size
        try:
            event = await in_thread(partial_event, order, preview.image, size, which)
        except (OSError, SyntaxError, ValueError) as exc:  # a preview never breaks a generation
            _log.debug("partial image of step %d dropped: %r", preview.step, exc)
        else:
            await self._write(event)

    async def _tell_end(self, end: End) -> None:
        try:
            match end:
                case Completed(result=result):
                    for index in range(len(result.images)):
                        await self._write(await in_thread(completed_event, self._draft.order, result, index))
                case Failed(error=error):
                    raise error
                case Cancelled():
                    raise GenerationCancelledError("The generation was cancelled.")
        except SDManagerError as exc:
            await self._write(frame({"error": openai_failure(exc)}))

    async def _write(self, data: bytes) -> None:
        self._whole = False
        await self._open.write(self.response, data)
        self._whole, self._said = True, self._clock()
