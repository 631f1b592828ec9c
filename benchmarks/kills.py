"""How long what a manager started goes on after its manager was killed: a shell that ignores SIGTERM, and its child."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time

import psutil
from _common import Figure, Options, Report, main, spread

LONGEST_MS = 500.0
POLL_SECONDS = 0.0005

STUBBORN = "trap '' TERM; sleep 600 & echo ready; wait"
MANAGER = f"""
import asyncio, sys
from sdmanager.process import child_environment, spawn

def say(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()

async def main():
    argv = ["/bin/sh", "-c", {STUBBORN!r}]
    async with spawn(argv, env=child_environment(), on_stdout=say, on_stderr=say) as child:
        await child.wait()

asyncio.run(main())
"""


def measure(options: Options) -> Report:
    """One manager after the other, each killed once its child is there."""
    took = [1e3 * kill_one() for _ in range(options.runs)]
    figures = {
        "manager_to_last_process_median": Figure(statistics.median(took), "ms"),
        "manager_to_last_process_longest": Figure(max(took), "ms", at_most=LONGEST_MS),
    }
    return Report(figures, {"manager_to_last_process": spread(took)})


def kill_one() -> float:
    """Seconds from SIGKILL to a manager until nothing of its tree runs."""
    with subprocess.Popen([sys.executable, "-c", MANAGER], stdout=subprocess.PIPE) as manager:
        assert manager.stdout is not None
        assert manager.stdout.readline() == b"ready\n"
        family = psutil.Process(manager.pid).children(recursive=True)
        assert len(family) >= 3  # the guard, the shell and its child
        began = time.perf_counter()
        manager.kill()
        while any(map(runs, family)):
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - began


def runs(process: psutil.Process) -> bool:
    """Whether a process is there, and not as a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    main("kills", __doc__, measure, runs=100)
