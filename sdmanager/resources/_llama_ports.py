"""Ports: which is free, and whether somebody listens. Blocking, for a thread."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final

from sdmanager.errors import PortInUseError

_CONNECT_SECONDS: Final = 1.0


def free_port(host: str) -> int:
    """A port that nobody listens on.

    Raises:
        PortInUseError: The address is none of this machine's.
    """
    with _bound(host, 0) as sock:
        return int(sock.getsockname()[1])


def is_taken(host: str, port: int, reached_at: str) -> bool:
    """Whether somebody listens there.

    Raises:
        PortInUseError: It cannot be listened on for another reason.
    """
    # Some systems let a program bind one address of a port while another listens on all of them.
    with (
        contextlib.suppress(OSError),
        socket.create_connection((reached_at, port), timeout=_CONNECT_SECONDS),
    ):
        return True
    try:
        _bound(host, port).close()
    except PortInUseError as exc:
        if exc.details.get("errno") == errno.EADDRINUSE:
            return True
        raise
    return False


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise PortInUseError(
            "The host of the llama-server has no address.",
            hint="Use 127.0.0.1 or an address of this machine.",
        ) from exc
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        raise PortInUseError(
            f"The llama-server cannot listen on port {port}: {exc.strerror or exc}.",
            hint="Use an address of this machine and a port above 1023 that is free.",
            details={"port": port, "errno": exc.errno},
        ) from exc
    return sock
