"""A real server on loopback in the place of the hub, its router, its providers and endpoints.

It is an endpoint itself (``http://…/draw``), and a proxy for HTTPS that answers for every other host with a certificate
of its own: huggingface_hub is led there by the environment alone.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import trustme
from PIL import Image

HUB, ROUTER, FILES = "huggingface.co", "router.huggingface.co", "files.example.com"
HOSTS = (HUB, ROUTER, FILES, "api.together.xyz", "fal.run", "queue.fal.run", "api.replicate.com")
TOKEN = "hf_a_very_secret_token"
WAIT = 60.0  # only where hanging is the failure


@dataclass
class Asked:
    """One request."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)
    handler: BaseHTTPRequestHandler = field(repr=False)

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    def wait_until_gone(self) -> None:
        """Wait until the client has closed the connection."""
        self.handler.connection.settimeout(WAIT)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert self.handler.connection.recv(1) == b""


@dataclass
class Answer:
    """What is said to it."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[[Asked], Answer]


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, headers=headers)


def drawn(width: int, height: int, seed: object, image_format: str = "PNG") -> bytes:
    """A picture that depends on its seed."""
    noise = random.Random(repr(seed)).randbytes(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), noise).save(buffer, image_format)
    return buffer.getvalue()


def number_of(parameters: dict, name: str, otherwise: int) -> int:
    value = parameters.get(name, otherwise)
    return value if isinstance(value, int) else otherwise


class InferenceServer:
    """Speaks what the client of huggingface_hub uses.

    Attributes:
        requests: In the order in which they came.
        providers: Of every model: name and the task that it serves.
        is_drawn: Whether fal-ai has drawn what it is polled for.
    """

    def __init__(self, folder: Path) -> None:
        self.requests: list[Asked] = []
        self.providers = {"together": "text-to-image"}
        self.is_drawn = threading.Event()
        self._scripts: list[tuple[str, Behaviour]] = []
        self._lock = threading.Lock()
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(self._context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """URL of a model that is served alone."""
        return f"{self.url}/draw"

    def environment(self, home: Path) -> dict[str, str]:
        """What leads huggingface_hub here."""
        return {
            "HTTPS_PROXY": self.url,
            "https_proxy": self.url,
            "SSL_CERT_FILE": str(self.ca_file),
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
        }

    def on(self, fragment: str, behave: Behaviour | Answer) -> None:
        """Answer so where the host and path hold this; what was said last is tried first."""
        self._scripts.insert(0, (fragment, behave if callable(behave) else lambda _: behave))

    def drawings(self) -> list[Asked]:
        """The requests for pictures."""
        return [asked for asked in self.requests if asked.method == "POST"]

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.requests.append(asked)
        for fragment, behave in self._scripts:
            if fragment in f"{asked.host}{asked.path}":
                return behave(asked)
        if asked.host == HUB:
            return self._hub(asked)
        if asked.host == FILES:
            width, height, seed = urlsplit(asked.path).path.strip("/").split("-", 2)
            return Answer(drawn(int(width), int(height), seed, "JPEG"), kind="image/jpeg")
        return self._picture(asked)

    def _hub(self, asked: Asked) -> Answer:
        model = urlsplit(asked.path).path.removeprefix("/api/models/")
        mapping = {
            name: {"status": "live", "providerId": f"{name}-id", "task": task}
            for name, task in self.providers.items()
        }
        tag = self.providers.get("hf-inference", "text-to-image")
        return as_json(
            {"id": model, "modelId": model, "pipeline_tag": tag, "inferenceProviderMapping": mapping}
        )

    def _picture(self, asked: Asked) -> Answer:
        if "_subdomain=queue" in asked.path:
            return self._queue(asked)
        told = asked.json
        parameters = told.get("parameters") or told.get("input") or told
        size = parameters.get("image_size") or parameters
        width, height = number_of(size, "width", 96), number_of(size, "height", 64)
        seed = parameters.get("seed")
        if "together" in f"{asked.host}{asked.path}":
            image = base64.b64encode(drawn(width, height, seed)).decode()
            return as_json({"data": [{"b64_json": image}]})
        url = f"https://{FILES}/{width}-{height}-{seed}"
        if "fal" in f"{asked.host}{asked.path}":
            return as_json({"images": [{"url": url}]})
        if "replicate" in f"{asked.host}{asked.path}":
            return as_json({"output": [url]})
        return Answer(drawn(width, height, seed), kind="image/png")

    def _queue(self, asked: Asked) -> Answer:
        """Of fal-ai, where pictures from pictures are polled for."""
        path = urlsplit(asked.path).path
        if path.endswith("/status"):
            return as_json({"status": "COMPLETED" if self.is_drawn.is_set() else "IN_PROGRESS"})
        if path.endswith("/requests/1"):
            return as_json({"images": [{"url": f"https://{FILES}/96-64-1"}]})
        url = "https://queue.fal.run/model/requests/1"
        return as_json({"request_id": "1", "status": "IN_QUEUE", "response_url": url})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            behind: str | None = None

            def do_CONNECT(self) -> None:
                self.behind = self.path.rpartition(":")[0]
                self.send_response(200)
                self.end_headers()
                try:
                    self.connection = server._context.wrap_socket(self.connection, server_side=True)
                except (OSError, ssl.SSLError):
                    self.close_connection = True
                    return
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", 0)
                self.close_connection = False

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                asked = Asked(self.behind or "endpoint", self.command, self.path, headers, body, self)
                answer = server.answer(asked)
                with contextlib.suppress(OSError):
                    self.send_response(answer.status)
                    for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    self.wfile.write(answer.body)

            do_POST = do_GET  # noqa: N815 - the library's names

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()
                if self.behind is not None:
                    with contextlib.suppress(OSError):
                        self.rfile.close()
                        self.connection.close()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    super().handle()

        return Handler


@contextlib.contextmanager
def inference_server() -> Iterator[InferenceServer]:
    with tempfile.TemporaryDirectory() as folder, InferenceServer(Path(folder)) as server:
        yield server
