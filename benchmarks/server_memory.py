"""Memory of a server: idle, after a generation, and with a thousand results that clients may still come for."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from _common import ROOT, Figure, Options, Report, main
from _server import GENERATIONS, REPLAYS, environment, real, scripted, serving

IDLE_MIB: Final = 70.0
RESULTS_MIB: Final = 20.0
RESULTS: Final = 1000
SIDE: Final = 592  # pixels, for a picture of 1 MB


# What a process has in memory after each import, in the order of the server's own.
IMPORTS: Final = """
import psutil, sys
own = psutil.Process()
def note(name):
    print(name, own.memory_info().rss)
note("python")
import asyncio; note("asyncio")
import aiohttp.web; note("aiohttp")
import pydantic; note("pydantic")
import PIL.Image, PIL.ImageOps, PIL.PngImagePlugin; note("pillow")
import sdmanager.manager, sdmanager.cli.serve; note("sdmanager")
"""


def measure(options: Options) -> Report:
    """Idle with the real engine; results with one that costs no time."""
    report = Report()
    with real() as home, serving(home) as server:
        server.json("GET", "/health")
        report.figures["idle"] = Figure(server.rss_mib(), "MiB", at_most=IDLE_MIB)
        server.draw(width=64, height=64, steps=2)
        report.figures["idle_after_a_generation"] = Figure(server.rss_mib(), "MiB", at_most=IDLE_MIB)
        said = subprocess.run(
            [sys.executable, "-c", IMPORTS],
            stdout=subprocess.PIPE,
            check=True,
            cwd=ROOT,
            env=environment(home),
        ).stdout
        pairs = (line.split() for line in said.decode().splitlines())
        report.details["mib_after_importing"] = {name: round(int(rss) / 2**20, 1) for name, rss in pairs}
    results(report, 10 if options.quick else RESULTS)
    return report


def results(report: Report, count: int) -> None:
    """So many results of 1 MB, and then some of them fetched."""
    with (
        scripted(REPLAYS, size=SIDE) as home,
        serving(home, IMAGE_RESULT_TTL_MS="3600000") as server,  # so that none expires meanwhile
    ):
        ids = [server.draw(width=SIDE, height=SIDE, steps=3)]
        seen = {1: server.rss_mib()}
        while len(ids) < count:
            ids.append(server.draw(width=SIDE, height=SIDE, steps=3))
            if len(ids) in {10, 100, 300, count}:
                seen[len(ids)] = server.rss_mib()
        listed = server.json("GET", GENERATIONS)["generations"]
        if not isinstance(listed, list) or len(listed) != count:
            raise SystemExit("Not all results are there.")
        fetched = [server.json("GET", f"{GENERATIONS}/{each}") for each in ids[:: count // 10]]
        after = server.rss_mib()
    name = f"{count}_results"
    report.figures["results_added"] = Figure(seen[count] - seen[1], "MiB", at_most=RESULTS_MIB)
    report.figures["results_fetched_added"] = Figure(after - seen[1], "MiB")
    report.details[name] = {
        "rss_mib": {str(number): round(mib, 1) for number, mib in seen.items()},
        "fetched": len(fetched),
        "rss_mib_after_fetching": round(after, 1),
    }


if __name__ == "__main__":
    main("server_memory", __doc__, measure, runs=1)
