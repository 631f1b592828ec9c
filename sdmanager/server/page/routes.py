"""The route of the page."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from sdmanager.threads import in_thread

from .document import document

_HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache",  # kept, and asked for again with its tag
    hdrs.VARY: hdrs.ACCEPT_ENCODING,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def add_page_route(app: web.Application) -> None:
    """Add ``GET /``. The page is a static file without secrets: who may use the API is asked there."""
    app.router.add_get("/", _page)


async def _page(request: web.Request) -> web.StreamResponse:
    page = await in_thread(document)
    gzipped = _takes_gzip(request)
    tag = f"{page.tag}-gz" if gzipped else page.tag
    headers = {**_HEADERS, hdrs.ETAG: f'"{tag}"', "Content-Security-Policy": page.policy}
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    if gzipped:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=page.gzipped if gzipped else page.html, headers=headers)


def _takes_gzip(request: web.Request) -> bool:
    """Whether gzip is named among what the client takes, and not refused with a weight of nothing."""
    for each in request.headers.get(hdrs.ACCEPT_ENCODING, "").split(","):
        name, _, parameter = each.partition(";")
        if name.strip().lower() == "gzip":
            weight = parameter.strip().lower().removeprefix("q=").strip()
            return not weight or weight.strip("0.") != ""
    return False
