"""The stream of this API: partial images while the picture forms, then the picture."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from aiohttp import web

from sdmanager.errors import GenerationCancelledError, SDManagerError, ServerNotRunningError
from sdmanager.generation import Cancelled, Completed, Failed, Preview
from sdmanager.jobs import last_event
from sdmanager.server.drawing import LOOK_SECONDS, is_gone, see_that_it_is_there, waiting
from sdmanager.server.face import FACE
from sdmanager.server.streams import KEEP_ALIVE, OPEN_STREAMS, STREAM_HEADERS, End
from sdmanager.threads import in_thread

from .answers import completed_event, frame, partial_event
from .errors import REQUEST_ID, ending, openai_failure
from .partials import Partials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import Event, GenerationResult
    from sdmanager.jobs import Feed

    from .draft import Draft

_log = logging.getLogger("sdmanager.server")

_LAST_WORD_SECONDS: Final = 1.0


async def stream_images(
    request: web.Request, draft: Draft, generation_id: str, headers: Mapping[str, str], *, joined: bool
) -> web.StreamResponse:
    """Answer with the events of a generation until it has ended, or nobody reads any more.

    Args:
        request: Of the client.
        draft: What is drawn for it.
        generation_id: The generation, which has just been accepted.
        headers: More headers.
        joined: Whether another request asked for it first; see ``waiting``, which says what the client's leaving does.

    Cancelling the task counts as that.
    """
    stream = _Stream(request, draft, generation_id, headers)
    async with waiting(request, generation_id, joined=joined):
        try:
            await stream.run()
        except (ConnectionError, TimeoutError):
            await stream.leave()
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
        # Few, and small: the feed itself keeps the newest alone, and encoding one takes longer than some steps.
        self._due: deque[tuple[int, Preview]] = deque()
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
        if feed is not None:
            if feed.preview is not None and feed.preview.event is not None:
                self._take(feed.preview.event)
            feed.listeners.add(self._take)
        try:
            await self.response.prepare(self._request)
            self._whole = True
            end = await self._follow(feed) if feed is not None else None
        finally:
            if feed is not None:
                feed.listeners.discard(self._take)
        async with self._open.ending():
            await self._tell_end(end)

    async def leave(self) -> None:
        """Let go of the client. It is told if the server stops, so that this is not taken for the end of the work."""
        if self._open.closing and self._whole and not is_gone(self._request):
            failure = openai_failure(ServerNotRunningError("The server is stopping."))
            try:
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await self.response.write(frame({"error": failure}))
            except (ConnectionError, TimeoutError):
                self._whole = False
        self._open.drop(self._request, whole=self._whole)

    async def _follow(self, feed: Feed) -> End | None:
        """Tell of partial images until the generation has ended; None where its feed no longer knows how."""
        cursor, end = 0, None
        while True:
            for item in feed.since(cursor):
                cursor = item.number
                if isinstance(item.event, End):
                    end = item.event
            while self._due:
                await self._tell_preview(*self._due.popleft())
            if end is not None:
                return end
            if feed.closed and feed.last_number <= cursor:
                return None
            await self._wait(feed, cursor)

    async def _wait(self, feed: Feed, cursor: int) -> None:
        """Wait for news, and meanwhile see that the client is there, and let it see that we are."""
        heartbeat = self._open.times.heartbeat
        async with self._open.within(None):
            await feed.wait(cursor, min(LOOK_SECONDS, heartbeat))
        see_that_it_is_there(self._request)
        if self._clock() - self._said >= heartbeat:  # also where there is news, of which nothing is told here
            await self._write(KEEP_ALIVE)

    def _take(self, event: Event) -> None:
        """Keep a preview that becomes a partial image."""
        if isinstance(event, Preview):
            index = self._partials.take(event.image_index, event.step, event.total_steps)
            if index is not None:
                self._due.append((index, event))

    async def _tell_preview(self, index: int, preview: Preview) -> None:
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

    async def _tell_end(self, end: End | None) -> None:
        try:
            match end or last_event(self._request.app[FACE].service.get(self._id)):
                case Completed(result=result):
                    for index in range(len(result.images)):
                        await self._write(await self._completed(result, index))
                case Failed(error=error):
                    raise error
                case Cancelled():
                    raise GenerationCancelledError("The generation was cancelled.")
        except SDManagerError as exc:
            await self._write(frame({"error": openai_failure(exc)}))

    async def _completed(self, result: GenerationResult, index: int) -> bytes:
        with ending(self._id):
            return await in_thread(completed_event, self._draft.order, result, index)

    async def _write(self, data: bytes) -> None:
        if self._open.closing:  # nothing is begun that could not be ended
            raise TimeoutError
        self._whole = False
        await self._open.write(self.response, data)
        self._whole, self._said = True, self._clock()
