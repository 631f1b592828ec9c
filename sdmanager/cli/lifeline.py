"""``--stop-with-stdin``: a server that ends with the program that started it, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from typing import Final

_STDIN: Final = 0
_PIECE: Final = 4096


def cancel_with_stdin() -> None:
    """Have the task that calls this cancelled once stdin ends; what comes before is thrown away.

    The other end of a pipe is closed by the system when its owner ends, also by a crash or a kill.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        if task is not None and not task.cancelling():
            task.cancel()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while _read():
                pass
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(cancel)

    threading.Thread(target=watch, name="sdmanager-stdin", daemon=True).start()


def _read() -> bytes:
    # Not sys.stdin, whose lock a thread that waits would hold at the end of the interpreter.
    while True:
        try:
            return os.read(_STDIN, _PIECE)
        except BlockingIOError:  # whoever shares the pipe made it so: nothing is there yet
            select.select([_STDIN], [], [])
