"""Ports for servers that must be told theirs before they listen."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

_SIZE = 100
_GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _block() -> range:
    """Whatever the system hands out by itself may be another's before it is used; so may another process's block."""
    blocks = [range(first, first + _SIZE) for first in range(10_000, 32_000, _SIZE)]
    if _GIVEN_AWAY.exists():
        first, last = map(int, _GIVEN_AWAY.read_text(encoding="ascii").split())
        blocks = [block for block in blocks if block[-1] < first or last < block[0]] or blocks
    return blocks[os.getpid() % len(blocks)]


_ports = itertools.cycle(_block())


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody is given before it is used."""
    for port in itertools.islice(_ports, _SIZE):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")
