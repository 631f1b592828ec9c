"""Release archives made in a test, served on loopback, and a binaries.json of the test's own that names them."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[2] / "binaries.json"
TAG = "master-1-0000001"


@dataclass
class ReleaseHost:
    """A server of files, and what was asked of it."""

    folder: Path
    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def release_host(folder: Path) -> Iterator[ReleaseHost]:
    """Serve a folder, ranges included, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host.requests.append(self.path)
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if "Range" in self.headers else 200)
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            self.wfile.write(data[begin:])

        def log_message(self, *arguments: object) -> None:
            """Be silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host = ReleaseHost(folder, server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()


def pack(host: ReleaseHost, name: str, files: Mapping[str, Path | bytes]) -> dict[str, Any]:
    """An archive on the host, as a binaries.json describes it; the first file is the engine."""
    path = host.folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for inside, content in files.items():
            archive.writestr(inside, content.read_bytes() if isinstance(content, Path) else content)
    data = path.read_bytes()
    return {
        "url": f"{host.url}/{name}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "root": "",
        "files": list(files),
        "executables": [next(iter(files))],
    }


def write_manifest(path: Path, platform: str, variants: Sequence[Mapping[str, Any]], tag: str = TAG) -> Path:
    """A binaries.json with these variants for one platform, and the sources of the shipped one."""
    shipped = json.loads(SHIPPED.read_text())
    release = {**shipped["release"], "tag": tag}
    platforms = {platform: {"variants": list(variants)}}
    path.write_text(json.dumps({**shipped, "release": release, "platforms": platforms}))
    return path
