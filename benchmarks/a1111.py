"""What translating AUTOMATIC1111's API costs: the same picture by way of either API, by turns, and a look at how far
one is.

The engine answers at once with a recorded run, so that what is left is the server and this client. A synchronous
answer is awaited natively by its events, and its picture fetched as JSON, as either API gives it.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from typing import Final

from _common import Figure, Options, Report, in_turn, main
from _server import GENERATIONS, REPLAYS, STEPS, Client, Server, Streams, scripted, serving

BASE: Final = "/sdapi/v1"
ADDED_MS: Final = 2.0
POLLS: Final = 1_000


def measure(options: Options) -> Report:
    """Milliseconds that the translation adds, and of a poll."""
    report = Report()
    with scripted(REPLAYS) as home, serving(home) as server:
        size = {"width": home.size, "height": home.size}
        sides = partial(native, server, size), partial(translated, server, size)
        for side in sides:
            side()
        pairs = in_turn(options.runs, *sides)
        report.figures["added_ms"] = Figure(pairs.added_ms, "ms", at_most=ADDED_MS)
        report.details["added"] = pairs.to_json()
    with scripted(STEPS) as home, serving(home) as server:
        generation = server.begin(width=home.size, height=home.size, steps=1000)
        with Streams(server.port, f"{GENERATIONS}/{generation}/events", 1) as streams:
            os.write(home.pipe, b"\n" * 20)
            next(event for _, event, _ in streams.events() if b'"currentStep":20,' in event)
        count = 100 if options.quick else POLLS
        for name, path in (("progress", f"{BASE}/progress"), ("native", f"{GENERATIONS}/{generation}")):
            report.figures[f"poll_{name}_ms"] = Figure(1000 * polled(server, path, count), "ms")
        server.cancel(generation)
    return report


def native(server: Server, size: dict[str, int]) -> float:
    """Seconds from the request to the whole answer."""
    began = time.perf_counter()
    generation = server.begin(**size, steps=2, seed=7, previews={"method": "proj", "format": "png"})
    server.wait(generation)
    server.json("GET", f"{GENERATIONS}/{generation}")
    return time.perf_counter() - began


def translated(server: Server, size: dict[str, int]) -> float:
    """The same by the other API."""
    began = time.perf_counter()
    body = {"prompt": "a lighthouse at dusk", **size, "steps": 2, "seed": 7, "sampler_name": "Euler a"}
    found = server.json("POST", f"{BASE}/txt2img", body)
    assert json.loads(str(found["info"]))["seed"] == 7
    return time.perf_counter() - began


def polled(server: Server, path: str, count: int) -> float:
    """Seconds of one request, over a connection that is kept."""
    with Client(server.port) as client:
        request = client.request("GET", path)
        client.ask(request)
        began = time.perf_counter()
        for _ in range(count):
            client.ask(request)
        return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main("a1111", __doc__, measure, runs=30)
