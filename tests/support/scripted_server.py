"""A real HTTP server on loopback that does to each request what a script says, faults included."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def first(self) -> int | None:
        """The first byte that a Range header asks for."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else None


class Reply:
    """One connection, to answer one request on."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self._closing = closing

    def head(self, status: int, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", "Connection: close"]
        lines += [
            f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None
        ]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def chunks(self, data: bytes, *, end: bool = True, size: int = 40_000) -> None:
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if end:
            self.send(b"0\r\n\r\n")

    def stall(self) -> None:
        """Send nothing until the client has gone."""
        while not self._closing.is_set():
            if select.select([self.sock], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    if not self.sock.recv(65536):
                        return

    def reset(self) -> None:
        """Cut the connection the hard way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Handler = Callable[[Request, Reply], None]


@dataclass
class Server:
    """Answers the n-th request with the n-th handler of the script, and later ones with the last."""

    script: list[Handler]
    context: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._closing = threading.Event()
        self._mutex = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def url(self, path: str = "/folder/file.bin", host: str = "127.0.0.1") -> str:
        return f"{'https' if self.context else 'http'}://{host}:{self.port}{path}"

    @property
    def ranges(self) -> list[int | None]:
        return [request.first for request in self.requests]

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        try:
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
            request = read_request(sock)
            if request is not None:
                with self._mutex:
                    handler = self.script[min(len(self.requests), len(self.script) - 1)]
                    self.requests.append(request)
                handler(request, Reply(sock, self._closing))
        except OSError:
            pass  # the client has gone
        except BaseException as exc:  # noqa: BLE001 - raised by the test
            self.errors.append(exc)
        finally:
            sock.close()


def read_request(sock: socket.socket) -> Request | None:
    """The head of the request that comes next, or None if none comes."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        data += piece
        if not piece or data[0] == 0x16:  # the first byte of TLS, which is no HTTP
            return None
    first, *lines = data.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return Request(method, target, {name.strip().lower(): value.strip() for name, value in pairs})


@contextlib.contextmanager
def serving(*script: Handler, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server for the length of a block; what its handlers raised is raised at the end."""
    server = Server(list(script), context)
    try:
        yield server
    finally:
        server.close()
    if server.errors:
        raise server.errors[0]


@dataclass
class File:
    """A file to be served, with handlers that serve it well or badly."""

    data: bytes
    etag: str | None = '"tag-1"'

    def well(self, request: Request, reply: Reply) -> None:
        """As a good server does: a Range is honoured if the ETag is still the same."""
        self.serve()(request, reply)

    def serve(
        self,
        *,
        until: int | None = None,
        then: Callable[[Reply], None] | None = None,
        flip: int | None = None,
        ranges: bool = True,
        content_range: str | None = None,
        **headers: object,
    ) -> Handler:
        """A handler that serves it with a fault.

        Args:
            until: Send only the bytes of the file before this one.
            then: What to do then.
            flip: The byte of the file that is sent wrong.
            ranges: Whether Range is honoured.
            content_range: Another value for the header.
            headers: More or other headers; None leaves one out.
        """
        data = bytearray(self.data)
        if flip is not None:
            data[flip] ^= 1

        def handler(request: Request, reply: Reply) -> None:
            first = request.first or 0
            whole = not (ranges and first and request.headers.get("if-range") == self.etag)
            start = 0 if whole else first
            shown: dict[str, object] = {"Content_Length": len(data) - start, "ETag": self.etag}
            if not whole:
                shown["Content_Range"] = content_range or f"bytes {start}-{len(data) - 1}/{len(data)}"
            reply.head(200 if whole else 206, **(shown | headers))
            reply.send(bytes(data[start:until]))
            if then is not None:
                then(reply)

        return handler


def status(code: int, **headers: object) -> Handler:
    """A handler that answers with a status and nothing else."""

    def handler(request: Request, reply: Reply) -> None:
        reply.head(code, Content_Length=0, **headers)

    return handler
