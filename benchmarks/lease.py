"""What making room costs: a lease where nothing has to move, and around a run for which a program is put aside.

The program is a process that serves HTTP, holds memory, and takes its time to let go and to come back. What it holds
is seen in its process; the machine that is short of memory is made up.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from _common import ROOT, Figure, Options, Pairs, Report, main, spread

from sdmanager.resources.orchestrator import ResourceOrchestrator
from sdmanager.settings import Settings

sys.path.insert(0, str(ROOT / "tests" / "support"))
from held import CHOICES, FREE, HELD, SMALL, Held, HeldServer, footprint, snapshot, supports

if TYPE_CHECKING:
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.resources import Footprint, Offloadable

SIZE = 256 << 20
UNLOAD, LOAD, DRAWING = 0.05, 0.2, 1.0


class Seen(Held):
    """The program, and a machine with what its process holds."""

    def __init__(self, server: HeldServer) -> None:
        super().__init__(server.port)
        self._process = psutil.Process(server.process.pid)

    async def look(self) -> HardwareSnapshot:
        """The made-up machine."""
        return snapshot(FREE - HELD * self._process.memory_info().rss // SIZE)


def measure(options: Options) -> Report:
    """All in one event loop."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        folder = Path(name)
        settings = Settings(folder / "data", folder / "cache", folder / "state")
        with HeldServer(folder, size=SIZE) as server:
            return asyncio.run(compare(settings, server, options))


async def compare(settings: Settings, server: HeldServer, options: Options) -> Report:
    """Leases that move nothing, then runs with the program aside, ours and by hand by turns."""
    program = Seen(server)
    await program.set("llama", unload_seconds=UNLOAD, load_seconds=LOAD)
    count = 20 if options.quick else 500
    still = {
        "nothing_moves": await leases(settings, [program], SMALL, count),
        "nobody_to_move": await leases(settings, [], SMALL, count),
        "nothing_moves_unknown_engine": await leases(settings, [program], replace(SMALL, on_gpu=None), count),
    }
    assert server.calls == ["set llama"]
    pairs = await around_runs(settings, program, options)
    assert len(server.calls) == 1 + 4 * (options.runs + 1)
    figures = {
        f"{name}_median": Figure(median(seconds), "ms", at_most=2.0) for name, seconds in still.items()
    }
    return Report(
        figures | {"offload_draw_restore_added": Figure(pairs.added_ms, "ms", at_most=100.0)},
        {name: spread([1e3 * each for each in seconds], 3) for name, seconds in still.items()}
        | {"offload_draw_restore": pairs.to_json()},
    )


async def leases(
    settings: Settings, programs: list[Offloadable], wanted: Footprint, count: int
) -> list[float]:
    """Seconds of each lease, on this machine as it is."""
    room, seconds = ResourceOrchestrator(settings, programs), []
    for turn in range(count + 1):
        began = time.perf_counter()
        async with room.lease(wanted, CHOICES, supports) as lease:
            pass
        if turn:  # the first warms up
            seconds.append(time.perf_counter() - began)
        assert not lease.plan.evictions
    await room.aclose()
    return seconds


async def around_runs(settings: Settings, program: Seen, options: Options) -> Pairs:
    """Seconds from the wish to draw until the program is back."""
    pairs = Pairs([], [])
    drawing = 0.05 if options.quick else DRAWING
    room = ResourceOrchestrator(settings, [program], look=program.look)

    async def by_hand() -> float:
        began = time.perf_counter()
        holding = await program.holding()
        assert holding is not None
        await program.put_aside(holding)
        await asyncio.sleep(drawing)
        await program.restore(holding.state)
        return time.perf_counter() - began

    async def ours() -> float:
        began = time.perf_counter()
        async with room.lease(footprint(), CHOICES, supports) as lease:
            assert lease.plan.evictions
            await asyncio.sleep(drawing)
        await room.wait_for_reload()
        return time.perf_counter() - began

    for turn in range(options.runs + 1):
        first, second = (by_hand, ours) if turn % 2 else (ours, by_hand)
        taken = {first: await first(), second: await second()}
        if turn:  # the first warms up
            pairs.bare.append(taken[by_hand])
            pairs.ours.append(taken[ours])
    await room.aclose()
    return pairs


def median(seconds: list[float]) -> float:
    """In milliseconds."""
    return float(spread([1e3 * each for each in seconds], 4)["median"])


if __name__ == "__main__":
    main("lease", __doc__, measure, runs=11)
