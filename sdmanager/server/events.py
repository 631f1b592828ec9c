"""The native routes that push: the events of a generation, and its newest preview."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from sdmanager.generation import Preview

from .face import FACE
from .jobs_api import add_job_routes
from .streams import OPEN_STREAMS, OpenStreams, StreamTimes, event_stream
from .wire import GENERATIONS
from .words import NativeWords
from .ws import add_socket_route

_MEDIA_TYPES: Final = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def add_stream_routes(app: web.Application, times: StreamTimes | None = None) -> None:
    """Add everything that pushes; the application holds a ``Face`` under ``FACE``.

    Args:
        app: Not yet frozen. When it shuts down, all open streams end at once.
        times: Of heartbeats and of patience.
    """
    streams = app[OPEN_STREAMS] = OpenStreams(times or StreamTimes())

    async def end_streams(_app: web.Application) -> None:
        streams.close()

    app.on_shutdown.append(end_streams)
    app.router.add_get(f"{GENERATIONS}/{{id}}/events", _events, allow_head=False)
    app.router.add_get(f"{GENERATIONS}/{{id}}/preview", _preview)
    add_job_routes(app)
    add_socket_route(app)


async def _events(request: web.Request) -> web.StreamResponse:
    inline = request.query.get("previews") != "url"
    return await event_stream(request, NativeWords(request.app[FACE].service, inline=inline))


async def _preview(request: web.Request) -> web.StreamResponse:
    service = request.app[FACE].service
    generation = service.get(request.match_info["id"])
    feed = service.feed(generation.id)
    item = feed.preview if feed is not None else None
    if item is None or not isinstance(item.event, Preview):
        return web.Response(status=204)
    preview, tag = item.event, str(item.number)
    headers: dict[str, str] = {
        "X-Preview-Step": f"{preview.step}/{preview.total_steps}",
        hdrs.ETAG: f'"{tag}"',
        hdrs.CACHE_CONTROL: "no-cache",  # kept, and asked for again with its tag
    }
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers[hdrs.CONTENT_TYPE] = _MEDIA_TYPES[preview.image.format]
    return web.Response(body=preview.image.data, headers=headers)
