"""Whether processes that are not children of the test have ended."""

from __future__ import annotations

import time

import psutil


def all_gone(family: list[psutil.Process], seconds: float = 10.0) -> bool:
    """Whether all have ended before long; when whoever inherited them collects them is not ours to say.

    ``psutil.wait_procs`` waits for that, too, and longer than it was told.
    """
    deadline = time.monotonic() + seconds
    while any(map(_runs, family)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
