"""What an engine says of the devices that it finds and uses (with ``-v``)."""

from __future__ import annotations

import re
from typing import Final

_KEPT: Final = 256 * 1024
_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")
_MESSAGE: Final = re.compile(r"^\[DEBUG *\] *\S+ +- (.*?)\s*$", re.MULTILINE)
_DEVICE: Final = re.compile(r"#\d+: (\S+)")
_STARTED: Final = re.compile(r"Initializing backend: (\S+)")
_NOT_ACCELERATORS: Final = re.compile(r"CPU|BLAS|Accelerate|RPC", re.IGNORECASE)


class DeviceWitness:
    """Reads the beginning of a verbose run for the devices in use.

    Both builds that were seen list the devices they find and say when the CPU is taken as main device; the
    newer one also names each device that it starts.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._seen = {"stdout": bytearray(), "stderr": bytearray()}

    def feed(self, stream: str, data: bytes) -> None:
        """Take a piece of output."""
        seen = self._seen[stream]
        if len(seen) < _KEPT:
            seen += data

    def said(self) -> str:
        """The beginning of both streams, one after the other."""
        return "\n".join(_ESCAPE.sub("", seen.decode("utf-8", "replace")) for seen in self._seen.values())

    def accelerator(self, *, parts_on_cpu: bool) -> tuple[str | None, bool]:
        """Which accelerator drew.

        Args:
            parts_on_cpu: Whether it was told to keep parts of the model on the CPU.

        Returns:
            Its name where it is known, and whether one drew at all as far as was said.
        """
        messages = [match[1] for match in _MESSAGE.finditer(self.said())]
        found = [match[1] for message in messages if (match := _DEVICE.fullmatch(message))]
        started = [match[1] for message in messages if (match := _STARTED.fullmatch(message))]
        name = next((name for name in started or found if not _NOT_ACCELERATORS.match(name)), None)
        if (started or found) and name is None:
            return None, False
        if "Using CPU backend" in messages and not parts_on_cpu:
            return None, False
        return name, True
