"""What a warm start costs, and what three broken variants cost besides the drawing."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from _common import ROOT, Figure, Options, Report, main, percentile, real_engine, spread

from sdmanager import binaries
from sdmanager.engine import ensure_binary, prove_engine
from sdmanager.hardware import Gpu, HardwareSnapshot, current_platform
from sdmanager.settings import Settings

sys.path.append(str(ROOT / "tests" / "support"))
from broken_engines import Workshop
from releases import ReleaseHost, pack, release_host, write_manifest

if TYPE_CHECKING:
    from sdmanager.binaries import EngineBinary, Proof

WARM_MS = 20.0
CHAIN_SECONDS = 3.0
BROKEN = {"cuda": "missing library", "rocm": "illegal instruction", "vulkan": "grey"}
GPUS = (
    Gpu("nvidia", "a card", 12 << 30, 11 << 30, "580.65.06", (8, 6)),
    Gpu("amd", "another card", 8 << 30, 8 << 30, "amdgpu 6.1.0"),
)
MACHINE = HardwareSnapshot(current_platform(), "Linux", None, 2, 2, 16 << 30, 8 << 30, "2.40", GPUS, ())

# The first call of a process, as an application's start has it; imports are counted apart.
CHILD = """
import asyncio, json, sys, time
began = time.perf_counter()
from pathlib import Path
from sdmanager.engine import ensure_binary
from sdmanager.settings import Settings
imported = time.perf_counter()
data, cache, state, manifest = map(Path, sys.argv[1:])
settings = Settings(data, cache, state, manifest=manifest)
async def measure():
    times = []
    for _ in range(20):
        start = time.perf_counter()
        await ensure_binary(settings)
        times.append(time.perf_counter() - start)
    return times
print(json.dumps({"imports": imported - began, "calls": asyncio.run(measure())}))
"""


def measure(options: Options) -> Report:
    """Both, in folders of their own."""
    report = Report()
    with real_engine() as settings, tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        manifest = Path(name) / "binaries.json"
        write_manifest(manifest, current_platform(), [{"variant": "cpu", "source": True}])
        settings = replace(settings, manifest=manifest)
        asyncio.run(ensure_binary(settings))
        warm(report, settings, options)
        (engine,) = binaries.list_installed(settings)[:1]
        with release_host(Path(name) / "host") as host:
            chain(report, settings, options, host, Workshop(Path(name) / "workshop", engine.path))
    return report


def warm(report: Report, settings: Settings, options: Options) -> None:
    """The first call in each of several processes, and those after it."""
    folders = [settings.data_dir, settings.cache_dir, settings.state_dir, settings.manifest]
    argv = [sys.executable, "-c", CHILD, *map(str, folders)]
    found = [
        json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout)
        for _ in range(options.runs)
    ]
    first = [1e3 * run["calls"][0] for run in found]
    later = [1e3 * seconds for run in found for seconds in run["calls"][1:]]
    report.figures["warm_first_call_median"] = Figure(statistics.median(first), "ms", at_most=WARM_MS)
    report.figures["warm_later_call_median"] = Figure(statistics.median(later), "ms", at_most=WARM_MS)
    report.details["warm"] = {
        "first_ms": spread(first),
        "first_p95_ms": round(percentile(first, 0.95), 2),
        "later_ms": spread(later),
        "imports_ms": spread([1e3 * run["imports"] for run in found]),
    }


def chain(
    report: Report, settings: Settings, options: Options, host: ReleaseHost, workshop: Workshop
) -> None:
    """Three broken variants and a good one, from an empty home: all the time but that of the drawing."""
    offers = [
        {"variant": variant, "archive": pack(host, f"{variant}.zip", {"sd-cli": workshop.make(kind)})}
        for variant, kind in {**BROKEN, "cpu": "fine"}.items()
    ]
    rounds = []
    for _ in range(max(options.runs // 5, 1)):
        with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
            home = Path(name)
            manifest = write_manifest(home / "m.json", current_platform(), offers)
            empty = Settings(home / "data", home / "cache", home / "state", manifest=manifest)
            empty.data_dir.mkdir()
            (empty.data_dir / "models").symlink_to(settings.models_dir)
            rounds.append(asyncio.run(one_chain(empty)))
    besides = [total - drawing for total, drawing in rounds]
    report.figures["chain_besides_drawing_median"] = Figure(
        statistics.median(besides), "s", at_most=CHAIN_SECONDS
    )
    report.details["chain"] = {
        "besides_drawing_s": spread(besides),
        "total_s": spread([total for total, _ in rounds]),
        "archives_bytes": [offer["archive"]["size"] for offer in offers],
    }


async def one_chain(settings: Settings) -> tuple[float, float]:
    """Seconds of the whole, and of what was spent drawing."""
    drawing = 0.0

    async def prove(engine: EngineBinary) -> Proof:
        nonlocal drawing
        began = time.perf_counter()
        try:
            return await prove_engine(engine, settings)
        finally:
            drawing += time.perf_counter() - began

    began = time.perf_counter()
    ensured = await binaries.ensure_binary(settings, prove=prove, snapshot=MACHINE)
    if ensured.engine.variant != "cpu":
        raise SystemExit(f"{ensured.key} was chosen, which is broken")
    return time.perf_counter() - began, drawing


if __name__ == "__main__":
    main("ensure", __doc__, measure, runs=15)
