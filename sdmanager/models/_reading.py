"""Whole files read, copied and digested in a thread, so that it can be watched and stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from sdmanager.threads import in_stoppable_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")

_PIECE: Final = 1 << 20
_TELL_SECONDS: Final = 0.05


class StoppedError(Exception):
    """Nobody waits for it any more."""


class Meter:
    """Counts bytes in a thread, and tells the loop now and then.

    Args:
        total: Bytes that will be counted.
        tell: Called in the thread with the bytes so far.
        stop: Once it is set, counting raises ``StoppedError``.
    """

    def __init__(self, total: int, tell: Callable[[int], object], stop: threading.Event) -> None:
        self._total = total
        self._tell = tell
        self._stop = stop
        self._done = 0
        self._told = -1
        self._next = 0.0

    def count(self, size: int) -> None:
        """So many bytes more are done."""
        if self._stop.is_set():
            raise StoppedError
        self._done += size
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _TELL_SECONDS
            self._tell_now()

    def finish(self) -> None:
        """All is done."""
        self._done = self._total
        self._tell_now()

    def _tell_now(self) -> None:
        done = min(self._done, self._total)  # a file may have grown since its size was looked at
        if done != self._told:
            self._told = done
            self._tell(done)


async def metered(
    total: int, on_progress: Callable[[int, int], None] | None, work: Callable[[Meter], _T]
) -> _T:
    """Run something that reads files in a thread.

    Args:
        total: Bytes that it will count.
        on_progress: Called on the event loop with the bytes that are done, and all; what it raises ends the work and
            is raised from here.
        work: Given what counts.

    If cancelled, the work ends with its next piece, and is waited for.
    """
    loop, stop, raised = asyncio.get_running_loop(), threading.Event(), list[BaseException]()

    def tell(done: int) -> None:
        if on_progress is not None and not raised:
            try:
                on_progress(done, total)
            except BaseException as exc:  # noqa: BLE001 - raised below
                raised.append(exc)
                stop.set()

    meter = Meter(total, lambda done: loop.call_soon_threadsafe(tell, done), stop)

    def run() -> _T:
        meter.count(0)
        result = work(meter)
        meter.finish()
        return result

    try:
        result = await in_stoppable_thread(stop, run)
    except StoppedError:
        pass
    else:
        if not raised:
            return result
    raise raised[0]


def digest(path: Path, meter: Meter) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: It cannot be read.
        StoppedError: Nobody waits for it any more.
    """
    with path.open("rb", buffering=0) as source:
        return _pump(source, None, meter)


def copy(source: Path, target: Path, meter: Meter) -> str:
    """Copy the content of a file into a new one, down to the disk; its SHA-256, in hex.

    Raises:
        OSError: It cannot be read or written.
        StoppedError: Nobody waits for it any more.
    """
    with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as written:
        found = _pump(read, written, meter)
        os.fsync(written.fileno())
        return found


def _pump(source: BinaryIO, target: BinaryIO | None, meter: Meter) -> str:
    seen, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
    while size := source.readinto(buffer):  # type: ignore[attr-defined]
        piece = buffer[:size]
        seen.update(piece)
        if target is not None:
            while piece:
                piece = piece[target.write(piece) :]
        meter.count(size)
    return seen.hexdigest()
