"""A hub with one file: `FILE SHA256 MB_PER_S`, 0: as fast as the kernel can; prints its port, ends with its input."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

COMMIT = "0" * 40
PIECE = 1 << 20


def serve(listener: socket.socket, path: Path, digest: str, rate: float) -> None:
    """Answer a HEAD with what a hub says of a large file, and a GET with the file."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock, path, digest, rate), daemon=True).start()


def answer(sock: socket.socket, path: Path, digest: str, rate: float) -> None:
    """Answer one request."""
    with sock, path.open("rb") as file, contextlib.suppress(OSError):
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(65_536)
        size = path.stat().st_size
        sock.sendall(
            f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "{digest}"\r\nX-Repo-Commit: {COMMIT}\r\n'
            "Connection: close\r\n\r\n".encode()
        )
        if request.startswith(b"HEAD"):
            return
        sent, began = 0, time.monotonic()
        while sent < size:
            sent += os.sendfile(sock.fileno(), file.fileno(), sent, min(PIECE, size - sent))
            if rate:
                time.sleep(max(began + sent / (rate * 1e6) - time.monotonic(), 0))


with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    options = (Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    threading.Thread(target=serve, args=(listening, *options), daemon=True).start()
    sys.stdin.read()
