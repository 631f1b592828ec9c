"""What AUTOMATIC1111's API costs: its translation beside the native API, and a look at how far a picture is."""

from __future__ import annotations

import os
import time
from typing import Final

from _common import Figure, Options, Report, main
from _server import GENERATIONS, STEPS, Client, Server, Streams, scripted, serving
from _translation import translation

BASE: Final = "/sdapi/v1"
PROMPT: Final = "a lighthouse at dusk"
POLLS: Final = 1_000


def measure(options: Options) -> Report:
    """Both."""
    report = Report()
    body: dict[str, object] = {"prompt": PROMPT, "width": 512, "height": 512, "steps": 4, "seed": 7}
    # As the other API has it drawn, whose clients may ask for a preview at any time.
    previews = {"method": "proj", "format": "png"}
    translation(report, options, f"{BASE}/txt2img", body, prompt=PROMPT, steps=4, seed=7, previews=previews)
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
    main("a1111", __doc__, measure, runs=5)
