"""A local server that speaks what huggingface_hub asks of a hub, faults included.

HEAD and GET of ``/ORG/REPO/resolve/REVISION/PATH``; large files are redirected to a path of a "CDN" on this server,
with a signed query that must never be seen elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "Signature=s3cret-of-a-signed-url"
PIECE = 65_536


@dataclass
class HubFile:
    """A file of a repository, and what goes wrong with it; each knob is for the CDN unless said otherwise."""

    data: bytes
    etag: str = ""
    size: int | None = None  # that the hub names, where it is not the real one
    served: bytes | None = None  # what comes instead
    cut_after: int | None = None  # bytes, of each reply
    cuts: int = 1 << 30  # how many replies are cut
    stall_after: int | None = None  # bytes, of each reply
    hold: threading.Event | None = None  # the reply goes on after `held_after` when it is set
    held_after: int = 0
    reached: threading.Event = field(default_factory=threading.Event)  # the reply stalls, or holds
    rate: float | None = None  # bytes a second
    ignore_range: bool = False
    plain: bool = False  # small, and sent by the hub itself
    head_status: list[int] = field(default_factory=list)  # of the next HEADs
    get_status: list[int] = field(default_factory=list)  # of the next GETs
    stall_head: bool = False

    def __post_init__(self) -> None:
        self.etag = self.etag or hashlib.sha256(self.data).hexdigest()


@dataclass
class Repo:
    """A repository with one commit."""

    files: dict[str, HubFile]
    commit: str = COMMIT
    gated: bool = False  # with a good token only
    private: bool = False


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    authorization: str | None
    range: str | None
    sent: int = 0


class HubServer:
    """The server, in threads of this process.

    Attributes:
        repos: By name, ``ORG/REPO``.
        tokens: Those that are good; the first opens gated repositories.
        is_hub: Whether it answers like a hub.
        asked: All requests.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens = ["hf_good", "hf_unagreed"]
        self.is_hub = True
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def transfers(self) -> list[Asked]:
        """Requests for the bytes of files."""
        return [each for each in self.asked if each.method == "GET"]

    def sent(self) -> int:
        """Bytes of files that were sent."""
        return sum(each.sent for each in self.asked)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def serving_hub() -> Iterator[HubServer]:
    server = HubServer()
    server.start()
    try:
        yield server
    finally:
        server.close()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve()

        def do_GET(self) -> None:
            self._serve()

        def _serve(self) -> None:
            asked = Asked(self.command, self.path, self.headers["Authorization"], self.headers["Range"])
            hub.asked.append(asked)
            self.close_connection = True
            with contextlib.suppress(OSError):
                _answer(hub, self, asked)

    return Handler


def _answer(hub: HubServer, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    parts = urlsplit(asked.path)
    if not hub.is_hub:
        return _reply(handler, 200, b"<html>Please log in</html>", **{"Content-Type": "text/html"})
    if match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", unquote(parts.path)):
        if parts.query != SIGNATURE or asked.authorization:
            return _reply(handler, 403)
        return _send(hub, handler, asked, hub.repos[match[1]].files[match[2]])
    match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(parts.path))
    if match is None:
        return _reply(handler, 404)
    name, revision, path = match.groups()
    repo = hub.repos.get(name)
    token = (asked.authorization or "").removeprefix("Bearer ")
    if token and token not in hub.tokens:
        return _reply(handler, 401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
    if repo is None or (repo.private and not token):
        return _reply(handler, 404 if token else 401, **{"X-Error-Code": "RepoNotFound"})
    if repo.gated and token != hub.tokens[0]:
        return _reply(handler, 403 if token else 401, **{"X-Error-Code": "GatedRepo"})
    if revision not in {"main", repo.commit}:
        return _reply(handler, 404, **{"X-Error-Code": "RevisionNotFound"})
    file = repo.files.get(path)
    if file is None:
        return _reply(handler, 404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
    if asked.method == "HEAD":
        if file.head_status:
            return _reply(handler, file.head_status.pop(0))
        if file.stall_head:
            return _stall(hub, handler, file)
    size = len(file.data) if file.size is None else file.size
    common = {"X-Repo-Commit": repo.commit, "ETag": f'"{file.etag}"'}
    if file.plain:
        if asked.method == "HEAD":
            return _reply(handler, 200, **{**common, "Content-Length": str(size)})
        return _send(hub, handler, asked, file)
    place = f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{name}/{path}?{SIGNATURE}"
    return _reply(
        handler,
        302,
        **{**common, "X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(size), "Location": place},
    )


def _reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _send(hub: HubServer, handler: BaseHTTPRequestHandler, asked: Asked, file: HubFile) -> None:
    if file.get_status:
        return _reply(handler, file.get_status.pop(0))
    data = file.data if file.served is None else file.served
    match = re.fullmatch(r"bytes=(\d+)-", asked.range or "")
    first = int(match[1]) if match and not file.ignore_range else 0
    headers = {"Content-Length": str(len(data) - first), "ETag": f'"{file.etag}"'}
    if first:
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
    handler.send_response(206 if first else 200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    cut = None
    if file.cut_after is not None and file.cuts > 0:
        file.cuts -= 1
        cut = file.cut_after
    began = time.monotonic()
    for start in range(first, len(data), PIECE):
        piece = data[start : start + PIECE]
        if cut is not None and asked.sent + len(piece) >= cut:
            handler.wfile.write(piece[: cut - asked.sent])
            asked.sent = cut
            return None
        if file.stall_after is not None and asked.sent >= file.stall_after:
            return _stall(hub, handler, file)
        if file.hold is not None and asked.sent >= file.held_after:
            file.reached.set()
            while not file.hold.wait(0.02):
                if hub.closing.is_set():
                    return None
        handler.wfile.write(piece)
        handler.wfile.flush()
        asked.sent += len(piece)
        if file.rate is not None:
            _sleep_until(began + asked.sent / file.rate, hub.closing)
    return None


def _stall(hub: HubServer, handler: BaseHTTPRequestHandler, file: HubFile) -> None:
    file.reached.set()
    handler.wfile.flush()
    hub.closing.wait()


def _sleep_until(moment: float, closing: threading.Event) -> None:
    left = moment - time.monotonic()
    if left > 0:
        closing.wait(left)
