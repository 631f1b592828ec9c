"""What it takes to start a server whose engine is proven, and from a request to its engine."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

from _common import ROOT, Figure, Options, Report, by_turns, main, percentile, spread
from _server import (
    GENERATIONS,
    REPORTS,
    Client,
    Home,
    Scripted,
    Server,
    environment,
    expect,
    real,
    scripted,
    serving,
)

START_MS = 60.0
SPAWN_MS = 15.0

# One start in a fresh process. Imported beforehand is what its arguments name, too.
CHILD = """
import asyncio, importlib, json, sys, time
began = time.perf_counter()
from sdmanager import DiffusionServerManager
for name in sys.argv[1:]:
    importlib.import_module(name)
imported, known = time.perf_counter(), set(sys.modules)

async def measure():
    async with DiffusionServerManager() as manager:
        began = time.perf_counter()
        info = await manager.start(port="auto")
        started = time.perf_counter()
        late = sorted(set(sys.modules) - known)
        reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
        writer.write(b"GET /health HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\n\\r\\n" % info.port)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        answered = time.perf_counter()
        writer.close()
        stopping = time.perf_counter()
        await manager.stop()
        return started - began, answered - began, time.perf_counter() - stopping, late

start, answered, stop, late = asyncio.run(measure())
print(json.dumps({"imports": imported - began, "start": start, "answered": answered, "stop": stop, "late": late}))
"""


def measure(options: Options) -> Report:
    """The start with the real engine; the way of a request to an engine that says when it is there."""
    report = Report()
    with real() as home:
        run_child(home)  # proves the engine
        late = run_child(home)["late"]
        assert isinstance(late, list)
        # By turns: all imports aside, and with those that the start itself does.
        found = [[run_child(home, names) for names in (late, [])] for _ in range(options.runs)]
    aside, lazy = zip(*found, strict=True)
    for name in ("start", "answered", "stop", "imports"):
        report.details[f"{name}_ms"] = spread([1e3 * seconds(run, name) for run in aside])
    report.details["imported_during_start"] = late
    for name, runs in (("", aside), ("_with_its_imports", lazy)):
        taken = statistics.median(1e3 * seconds(run, "start") for run in runs)
        report.figures[f"warm_start{name}_median"] = Figure(taken, "ms", at_most=None if name else START_MS)
    answered = statistics.median(1e3 * seconds(run, "answered") for run in aside)
    report.figures["warm_start_until_answered_median"] = Figure(answered, "ms", at_most=START_MS)
    with scripted(REPORTS) as engine, serving(engine) as server:
        posted: list[float] = []
        sides = [partial(run_bare, engine), partial(run_posted, engine, server, posted)]
        by_turns(2, sides)  # the first ones load what the others find loaded
        posted.clear()
        bare, ours = by_turns(3 if options.quick else 5 * options.runs, sides)
    milliseconds = [1e3 * taken for taken in ours]
    report.figures["post_to_engine_median"] = Figure(statistics.median(milliseconds), "ms", at_most=SPAWN_MS)
    report.figures["post_to_engine_p95"] = Figure(percentile(milliseconds, 0.95), "ms")
    report.details["post_to_engine_ms"] = spread(milliseconds)
    report.details["post_to_answer_ms"] = spread([1e3 * taken for taken in posted])
    report.details["bare_popen_to_engine_ms"] = spread([1e3 * taken for taken in bare])
    return report


def run_child(home: Home, names: list[str] | tuple[()] = ()) -> dict[str, object]:
    """What one fresh process found, which imported these modules beforehand."""
    said = subprocess.run(
        [sys.executable, "-c", CHILD, *names],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env=environment(home),
    ).stdout
    found: dict[str, object] = json.loads(said)
    return found


def seconds(run: dict[str, object], name: str) -> float:
    """One of its times."""
    value = run[name]
    assert isinstance(value, float)
    return value


def run_posted(engine: Scripted, server: Server, posted: list[float]) -> float:
    """Seconds from the last byte of a request to the engine's first command: its shell has started by then."""
    fields = {"prompt": "a lighthouse at dusk", "width": engine.size, "height": engine.size, "steps": 3}
    with Client(server.port) as client:
        client.ask(client.request("GET", "/health"))  # the connection is there, as a busy client's is
        request = client.request("POST", GENERATIONS, fields)
        client.socket.sendall(request)
        sent = time.perf_counter()
        there = expect(engine.pipe)
        answer = client.answer()  # long there, or a moment later: only the engine's time is exact here
        posted.append(time.perf_counter() - sent)
    server.wait(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
    return there - sent


def run_bare(engine: Scripted) -> float:
    """Seconds that the same takes when this process starts the engine itself."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as folder:
        began = time.perf_counter()
        child = subprocess.Popen([engine.program, "-p", "x"], cwd=folder, stdout=subprocess.DEVNULL)
        there = expect(engine.pipe)
        child.wait()
    return there - began


if __name__ == "__main__":
    main("server_start", __doc__, measure, runs=15)
