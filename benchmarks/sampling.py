"""What watching an engine's memory costs, and how near the figure comes to the kernel's own.

The cost is the processor time that a second of watching takes beside an engine that runs for long: of this process for
RAM, of the watching process for VRAM. The library of a card's driver is not part of it where there is no card.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from _common import ROOT, Figure, Options, Report, main, real_engine, spread

from sdmanager.binaries import find_engine
from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.run import Run
from sdmanager.generation import ImageRequest, MemoryPlan
from sdmanager.models import demo_model
from sdmanager.process import spawn
from sdmanager.resources.watching import watch_memory

if TYPE_CHECKING:
    from sdmanager.settings import Settings

IDLE = [sys.executable, "-I", "-S", "-c", "import time; taken = b'x' * (100 << 20); time.sleep(600)"]
SCRIPT = [sys.executable, "-I", "-S", str(ROOT / "sdmanager" / "hardware" / "_vram_script.py")]


def measure(options: Options) -> Report:
    """The cost over some seconds, then the real engine so many times."""
    with real_engine() as settings:
        return asyncio.run(watch(options, settings))


async def watch(options: Options, settings: Settings) -> Report:
    """All of it, in one event loop."""
    seconds = 1.0 if options.quick else 10.0
    bare = await share_of_core(settings, seconds, watched=False)
    ours = await share_of_core(settings, seconds, watched=True)
    starts = [1e3 * await start_of_script() for _ in range(options.runs)]
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        card = Path(name, "sys/bus/pci/devices/0000:03:00.0")
        card.mkdir(parents=True)
        (card / "mem_info_vram_used").write_text("1000000000")
        asking = await share_of_script(name, seconds)
    errors, added = [], []
    for _ in range(options.runs):
        seen, kernel = await draw(settings)
        errors.append(100 * abs(kernel - seen) / kernel)
        added.append(seen)
    return Report(
        {
            "ram_share_of_core": Figure(100 * (ours - bare), "%", at_most=1),
            "vram_share_of_core": Figure(100 * asking, "%", at_most=1),
            "vram_process_start": Figure(statistics.median(starts), "ms of processor time"),
            "ram_peak_off_by": Figure(max(errors), "% of VmHWM", at_most=5),
        },
        {"ram_bytes": spread(added, 0), "off_by_percent": spread(errors), "start_ms": spread(starts)},
    )


async def share_of_core(settings: Settings, seconds: float, *, watched: bool) -> float:
    """Processor seconds of this process for each second beside a child that waits."""
    async with spawn(IDLE, on_stdout=ignore, on_stderr=ignore) as child:
        await asyncio.sleep(0.5)
        began, used = time.perf_counter(), time.process_time()
        if watched:
            async with watch_memory(child.pid, settings, vram=False) as memory:
                await asyncio.sleep(seconds)
            assert (memory.use().ram or 0) > 100 << 20
        else:
            await asyncio.sleep(seconds)
        share = (time.process_time() - used) / (time.perf_counter() - began)
        await child.stop(0)
    return share


async def start_of_script() -> float:
    """Processor seconds of the process that asks drivers, where it finds none and ends at once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    async with spawn([*SCRIPT, "1", "/nowhere"], on_stdout=ignore, on_stderr=ignore) as child:
        assert (await child.wait()).ok
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def share_of_script(root: str, seconds: float) -> float:
    """Processor seconds of that process for each second, once it has found a card."""
    begun = asyncio.Event()
    argv = [*SCRIPT, "1", root]
    async with spawn(argv, on_stdout=lambda _: begun.set(), on_stderr=ignore, grace=0) as child:
        await begun.wait()
        (script,) = [each for each in psutil.Process(child.pid).children() if "python" in each.name()]
        began, used = time.perf_counter(), sum(script.cpu_times()[:2])
        await asyncio.sleep(seconds)
        return (sum(script.cpu_times()[:2]) - used) / (time.perf_counter() - began)


async def draw(settings: Settings) -> tuple[int, int]:
    """The peak of a real run as it was seen, and as the kernel had it, asked for without a pause."""
    request = ImageRequest(prompt="a", width=256, height=256, steps=8, seed=1)
    binary, model = await find_engine(settings), demo_model(settings)
    estimates = EstimateStore(settings.state_dir / "estimates.json")
    run = Run("g1", request, binary, model, MemoryPlan(), settings, estimates)
    _, invocation = run.invocation(run.complete_request())
    folder = settings.cache_dir / "drawn"
    folder.mkdir(parents=True, exist_ok=True)
    argv = [binary.path, *invocation.arguments]
    async with (
        spawn(argv, cwd=folder, on_stdout=ignore, on_stderr=ignore) as child,
        watch_memory(child.pid, settings, vram=False) as memory,
    ):
        truth = asyncio.create_task(asyncio.to_thread(kernel_peak, child.pid))
        assert (await child.wait()).ok
        kernel = await truth
    return memory.use().ram or 0, kernel


def kernel_peak(guard: int) -> int:
    """The highest VmHWM of a process below the guard until it has ended; for Linux."""
    peak = 0
    while psutil.pid_exists(guard):
        children = Path(f"/proc/{guard}/task/{guard}/children")
        try:
            for pid in children.read_text().split():
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                peak = max(
                    [peak, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))]
                )
        except OSError:
            pass
        time.sleep(0.001)
    return peak


def ignore(_: bytes) -> None:
    """What it says is not asked for."""


if __name__ == "__main__":
    main("sampling", __doc__, measure, runs=10)
