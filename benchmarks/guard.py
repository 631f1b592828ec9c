"""What the guard of a child costs: `/bin/true` through `sdmanager.process.spawn` against a bare `Popen`."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time

from _common import Figure, Options, Pairs, Report, main

from sdmanager.process import child_environment, spawn

PROGRAM = "/bin/true"


def measure(options: Options) -> Report:
    """Both by turns, within one event loop."""
    pairs, spawned_ms = asyncio.run(compare(options.runs))
    return Report(
        {
            "added_by_spawn": Figure(pairs.added_ms, "ms"),
            "until_spawn_returns": Figure(statistics.median(spawned_ms), "ms"),
        },
        pairs.to_json(),
    )


async def compare(runs: int) -> tuple[Pairs, list[float]]:
    """Seconds of either, and the milliseconds until the child of ours was started."""
    environment = child_environment()
    pairs, spawned_ms = Pairs([], []), []
    for turn in range(runs + 1):
        began = time.perf_counter()
        subprocess.Popen([PROGRAM], env=environment, stdin=subprocess.DEVNULL).wait()
        bare = time.perf_counter() - began

        began = time.perf_counter()
        async with spawn([PROGRAM], env=environment, on_stdout=ignore, on_stderr=ignore) as child:
            spawned = time.perf_counter() - began
            status = await child.wait()
        ours = time.perf_counter() - began
        assert status.ok

        if turn:  # the first warms up
            pairs.bare.append(bare)
            pairs.ours.append(ours)
            spawned_ms.append(1e3 * spawned)
    return pairs, spawned_ms


def ignore(_: bytes) -> None:
    """The program says nothing."""


if __name__ == "__main__":
    main("guard", __doc__, measure, runs=200)
