"""The file of ``serve --ready-file``, as its readers see it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from sdmanager.errors import ServerUnreachableError
from sdmanager.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_SECONDS: Final = 0.05


def pid_in(path: Path) -> object:
    """The process that a ready file names; None where this is none."""
    facts = read_json(path)
    return facts.get("pid") if isinstance(facts, dict) and "url" in facts else None


def writer_lives(path: Path) -> bool:
    """Whether the process that wrote a ready file still runs; one that took its number later has not written it."""
    import psutil

    pid = pid_in(path)
    if not isinstance(pid, int) or pid == os.getpid():
        return False
    try:
        return psutil.Process(pid).create_time() <= path.stat().st_mtime
    except (psutil.Error, ValueError, OverflowError, FileNotFoundError):
        return False


def wait_for_url(path: Path, seconds: float, while_running: Callable[[], bool]) -> str:
    """The address in a ready file, once a server that runs has written it.

    Args:
        path: Of the file; one that a killed server left is not believed.
        seconds: For how long to wait.
        while_running: Asked again and again; False ends the waiting.

    Raises:
        ServerUnreachableError: No server became ready.
    """
    deadline = time.monotonic() + seconds
    while True:
        runs = while_running()  # before the file is looked at: a server that is ready may end at any moment
        facts = read_json(path)
        url = facts.get("url") if isinstance(facts, dict) else None
        if isinstance(url, str) and writer_lives(path):
            return url
        if not runs:
            raise ServerUnreachableError(
                "The server ended before it was ready.", hint="What it printed on stderr says why."
            )
        if time.monotonic() >= deadline:
            raise ServerUnreachableError(
                f"No server was ready within {seconds:g} s.",
                hint="Its first start may have to fetch or build the engine: wait longer.",
            )
        time.sleep(_LOOK_SECONDS)
