"""Servers in processes of their own and what they start: until it draws, and until all have ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable

import psutil

PATIENCE = 60.0  # where hanging would be the failure


class Parent:
    """A child of the test that starts an engine.

    Attributes:
        child: Started with ``text=True``.
    """

    child: subprocess.Popen[str]

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.child.pid).children(recursive=True)

    def wait_until_drawing(self) -> list[psutil.Process]:
        """The same, once the engine draws."""
        wait_for(lambda: draws(self.family()))
        return self.family()

    def end(self, *signals: int) -> int:
        """The exit code after these, or SIGTERM."""
        for number in signals or (signal.SIGTERM,):
            self.child.send_signal(number)
        return self.child.wait(PATIENCE)


def draws(family: list[psutil.Process]) -> bool:
    """Whether one of them is an engine that was told to draw."""
    return any("--steps" in command(process) for process in family)


def command(process: psutil.Process) -> list[str]:
    """Its command line, if it is still there."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def wait_for(condition: Callable[[], object]) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def all_gone(family: list[psutil.Process], seconds: float = 10.0) -> bool:
    """Whether all have ended before long; when whoever inherited them collects them is not ours to say.

    ``psutil.wait_procs`` waits for that, too, and longer than it was told.
    """
    deadline = time.monotonic() + seconds
    while any(map(runs, family)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(process: psutil.Process) -> bool:
    """Whether it is still there, and not as a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
