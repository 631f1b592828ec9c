"""The HTTP server: a bound socket, the application on it, and its end."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

from sdmanager.errors import PortInUseError, ServerNotRunningError

from .app import build_app
from .connections import Connections

if TYPE_CHECKING:
    from .face import Face
    from .origins import DoorPolicy

_BACKLOG: Final = 512
# aiohttp waits so long for handlers to end, twice, before it cancels them. Streams end by themselves.
_SHUTDOWN_SECONDS: Final = 0.4


def bind(host: str, port: int | Literal["auto"]) -> socket.socket:
    """Take a port, so that nobody else can; nothing is answered yet.

    Args:
        host: Name or address of this machine.
        port: 1 to 65535, or ``"auto"`` for any that is free.

    Returns:
        A bound socket, which the caller closes or gives to ``HttpServer``.

    Raises:
        PortInUseError: The port is taken or reserved, or the address is none of this machine's.
    """
    number = 0 if port == "auto" else port
    try:
        # A name may have several addresses: the first is bound, IPv4 before IPv6, as clients of "localhost" expect.
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    except (OSError, UnicodeError) as exc:
        raise PortInUseError(
            "The host to listen on has no address.", hint="Use 127.0.0.1 or an address of this machine."
        ) from exc
    sock = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            # There, SO_REUSEADDR would let two programs listen on one port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        raise _refused(exc, port) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _reachable(sock: socket.socket, policy: DoorPolicy) -> str:
    """The host in the server's URL: one that the door lets in."""
    if policy.wildcard:
        host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    else:
        host = sock.getsockname()[0] if policy.host == "localhost" else policy.host
    return f"[{host}]" if ":" in host else host


def _refused(error: OSError, port: int | str) -> PortInUseError:
    details = {"port": port, "errno": error.errno}
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUseError(f"Another program listens on port {port}.", details=details)
        case errno.EACCES | errno.EPERM:
            return PortInUseError(
                f"This user may not listen on port {port}.", hint="Use a port above 1023.", details=details
            )
        case errno.EADDRNOTAVAIL:
            return PortInUseError(
                "The address to listen on is none of this machine's.", hint="Use 127.0.0.1.", details=details
            )
        case _:
            return PortInUseError(
                f"Port {port} cannot be listened on: {error.strerror or error}.", details=details
            )


class HttpServer:
    """Shows a face on a bound socket. All methods belong to one event loop.

    Args:
        face: What is shown.
        sock: Of ``bind``; closed by ``aclose``.
        policy: Who is let in.
    """

    def __init__(self, face: Face, sock: socket.socket, policy: DoorPolicy) -> None:
        self._sock = sock
        self.port: int = sock.getsockname()[1]
        self.url = f"http://{_reachable(sock, policy)}:{self.port}"
        app = build_app(face, policy)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            PortInUseError: Another program began to listen on the port meanwhile.
        """
        await self._runner.setup()
        if self._runner.server is None:
            raise ServerNotRunningError("The HTTP server was closed before it began.")
        connections = Connections(self._runner.server)
        loop = asyncio.get_running_loop()
        try:
            # In two steps: cancelled within one, asyncio would leave a server behind that nobody can close.
            self._server = await loop.create_server(
                connections, sock=self._sock, backlog=_BACKLOG, start_serving=False
            )
            await self._server.start_serving()
        except OSError as exc:
            raise _refused(exc, self.port) from exc

    async def aclose(self) -> None:
        """Take no more connections, end open streams at once and all connections within a second; idempotent."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        self._sock.close()
