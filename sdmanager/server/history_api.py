"""The gallery over HTTP: its pages, its images, and how they go. A client names ids, never paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from sdmanager.errors import GalleryOffError, InvalidRequestError
from sdmanager.threads import in_thread

from .face import FACE
from .pictures import Picture
from .responses import json_response
from .wire import milliseconds

if TYPE_CHECKING:
    from sdmanager.history import History, HistoryImage

HISTORY: Final = "/v1/history"

_DIGITS: Final = re.compile(r"[0-9]{1,6}")
_LIMIT: Final = 50
_FILTERS: Final = frozenset({"search", "model", "limit", "after"})
_YEAR_SECONDS: Final = 365 * 24 * 3600


def add_history_routes(app: web.Application) -> None:
    """Add the routes; the application holds a ``Face`` under ``FACE``."""
    app.add_routes(
        [
            web.get(HISTORY, _list),
            web.delete(HISTORY, _clear),
            web.get(f"{HISTORY}/{{id}}", _get),
            web.delete(f"{HISTORY}/{{id}}", _delete),
            web.get(f"{HISTORY}/{{id}}/image", _image),
        ]
    )


def history_body(image: HistoryImage) -> dict[str, object]:
    """An image as it goes over the wire; what is unknown is missing."""
    whole = image.completed_at is not None
    known = {
        "completedAt": image.completed_at,
        "seed": image.seed,
        "model": image.model,
        "variant": image.variant,
        "timeTaken": milliseconds(image.time_taken) if image.time_taken is not None else None,
        "timings": {stage: milliseconds(seconds) for stage, seconds in image.timings.items()} or None,
    }
    return {
        "id": image.id,
        "generationId": image.generation_id,
        "index": image.index,
        "status": "complete" if whole else "forming",
        "createdAt": image.created_at,
        "url": f"{HISTORY}/{image.id}/image?n={image.version}",
        "format": image.format,
        "width": image.width,
        "height": image.height,
        **{name: value for name, value in known.items() if value is not None},
        "request": image.request,
    }


async def _list(request: web.Request) -> web.StreamResponse:
    history, asked = _history(request), request.query
    page = await history.list(
        search=asked.get("search", ""),
        model=asked.get("model") or None,
        limit=_limit(asked.get("limit")),
        after=asked.get("after") or None,
    )
    body: dict[str, object] = {
        "images": [history_body(image) for image in page.images],
        "total": page.total,
    }
    if page.after is not None:
        body["after"] = page.after
    return json_response(body)


async def _get(request: web.Request) -> web.StreamResponse:
    return json_response(history_body(await _history(request).get(request.match_info["id"])))


async def _image(request: web.Request) -> web.StreamResponse:
    image, path = await _history(request).picture(request.match_info["id"])
    if image.completed_at is not None:
        kept = f"private, max-age={_YEAR_SECONDS}, immutable"
        return Picture(path, headers={hdrs.CONTENT_TYPE: "image/png", hdrs.CACHE_CONTROL: kept})
    try:
        data = await in_thread(path.read_bytes)
    except FileNotFoundError:  # it has become whole in between, or was cancelled
        return await _image(request)
    headers = {hdrs.ETAG: f'"{image.version}"', hdrs.CACHE_CONTROL: "private, no-cache"}
    if any(known.value in {str(image.version), "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=data, headers={**headers, hdrs.CONTENT_TYPE: f"image/{image.format}"})


async def _delete(request: web.Request) -> web.StreamResponse:
    name = request.match_info["id"]
    await _history(request).delete(name)
    return json_response({"id": name, "deleted": True})


async def _clear(request: web.Request) -> web.StreamResponse:
    history, asked = _history(request), request.query
    # A filter would be taken for one, and a deletion of one image for one of all where its id is empty.
    if asked.get("all") != "true" or asked.keys() & _FILTERS:
        raise InvalidRequestError(
            "This deletes all images of the gallery, and must say so.",
            hint=f"Send DELETE {HISTORY}?all=true and nothing else, or name one image: DELETE {HISTORY}/ID.",
            details={"fields": ["all"]},
        )
    return json_response({"deleted": await history.clear()})


def _history(request: web.Request) -> History:
    history = request.app[FACE].history
    if history is None:
        raise GalleryOffError("This server keeps no gallery.")
    return history


def _limit(text: str | None) -> int:
    if text is None:
        return _LIMIT
    if not _DIGITS.fullmatch(text):
        raise InvalidRequestError(
            "The limit is no whole number.", hint="Give 1 to 500.", details={"fields": ["limit"]}
        )
    return int(text)
