"""How long readers of Server-Sent Events wait: for a preview, and for an event that 500 of them are told at once.

The readers are this process, one connection each; the server and the engine are processes of their own. The clock,
CLOCK_MONOTONIC, is one for all of them.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Final

from _common import ROOT, Figure, Options, Report, main, percentile, spread
from _server import GENERATIONS, NOTES, STEPS, Streams, scripted, serving
from latency import SIZE, drawn_step, picture

if TYPE_CHECKING:
    from pathlib import Path

PREVIEW_MS: Final = 60.0
READERS: Final = 20
STREAMS: Final = 500


def measure(options: Options) -> Report:
    """Both."""
    report = Report()
    for image_format in ("jpeg", "png"):
        previews(report, options, image_format)
    many(report, options)
    return report


def previews(report: Report, options: Options, image_format: str) -> None:
    """From each whole preview file to each reader's having read the event with that picture."""
    steps = 4 if options.quick else 40
    delays: list[float] = []
    wanted = {"method": "proj", "stride": 1, "format": image_format}
    child = shlex.join([sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "latency_child.py")])
    with scripted(NOTES, child=child) as home:
        notes = home.folder / "notes"
        task = {
            "help": None,
            "seconds": 0.1,
            "pictures": [str(path) for path in pictures(home.folder, steps)],
            "bar_first": None,
            "result": home.model[1],
            "notes": str(notes),
        }
        with serving(home, LATENCY_CHILD=json.dumps(task)) as server:
            for _ in range(options.runs):
                generation_id = server.begin(width=home.size, height=home.size, steps=steps, previews=wanted)
                seen, events = read_previews(server.port, f"{GENERATIONS}/{generation_id}/events")
                lines = (map(int, line.split()) for line in notes.read_text().splitlines())
                whole = {step: written for step, _, written in lines}
                shown = {number: whole[shown_step(event)] for number, event in events.items()}
                delays += [(now - shown[number]) / 1e6 for number, now in seen]
    report.figures[f"preview_to_readers_{image_format}_p95"] = Figure(
        percentile(delays, 0.95), "ms", at_most=PREVIEW_MS
    )
    report.details[f"preview_to_readers_{image_format}_ms"] = spread(delays) | {
        **{f"p{n}": round(percentile(delays, n / 100), 2) for n in (50, 95, 99)},
        "told": READERS * steps * options.runs,
    }


def read_previews(port: int, path: str) -> tuple[list[tuple[bytes, int]], dict[bytes, bytes]]:
    """The id of each preview that a reader was told, with when; and the events by their ids."""
    seen: list[tuple[bytes, int]] = []
    events: dict[bytes, bytes] = {}
    with Streams(port, path, READERS) as streams:
        for _, event, now in streams.events():
            if b"\nevent: preview\n" in event:
                number = event[: event.index(b"\n")]
                seen.append((number, now))
                events.setdefault(number, event)
    return seen, events


def pictures(folder: Path, steps: int) -> list[Path]:
    """The preview files of a run, each with the number of its step in it."""
    paths = [folder / f"preview-{step}.png" for step in range(1, steps + 1)]
    for step, path in enumerate(paths, 1):
        picture(step, SIZE).save(path, compress_level=1)
    return paths


def shown_step(event: bytes) -> int:
    """The step whose number is in the picture of an event."""
    data = next(line for line in event.split(b"\n") if line.startswith(b"data: "))
    return drawn_step(base64.b64decode(json.loads(data[6:])["image"]))


def many(report: Report, options: Options) -> None:
    """From the engine's step to the first and to the last of many readers."""
    count = 50 if options.quick else STREAMS
    steps = 3 if options.quick else 30
    first: list[float] = []
    last: list[float] = []
    with scripted(STEPS) as home, serving(home) as server:
        generation_id = server.begin(width=home.size, height=home.size, steps=1000)
        path = f"{GENERATIONS}/{generation_id}/events"
        with Streams(server.port, path, 1) as streams:  # what the first one loads, the others find loaded
            os.write(home.pipe, b"\n")
            next(event for _, event, _ in streams.events() if b'"currentStep":1,' in event)
        before = server.rss_mib()
        with Streams(server.port, path, count) as streams:
            told: set[int] = set()
            events = streams.events()
            while len(told) < count:  # each is told how things stand
                told.add(next(events)[0])
            during = server.rss_mib()
            for step in range(2, steps + 2):
                wanted, told = b'"currentStep":%d,' % step, set()
                began = time.monotonic_ns()
                os.write(home.pipe, b"\n")
                times = []
                while len(told) < count:
                    reader, event, now = next(events)
                    if wanted in event and reader not in told:
                        told.add(reader)
                        times.append((now - began) / 1e6)
                first.append(times[0])
                last.append(times[-1])
        server.cancel(generation_id)
    report.figures["streams_told"] = Figure(float(len(told)), "streams", at_least=float(count))
    report.figures["event_to_last_stream_median"] = Figure(percentile(last, 0.5), "ms")
    report.figures["rss_per_stream"] = Figure(1024 * (during - before) / count, "KiB")
    report.details["streams"] = {
        "count": count,
        "to_first_ms": spread(first),
        "to_last_ms": spread(last),
        "rss_mib": [round(before, 1), round(during, 1)],
    }


if __name__ == "__main__":
    main("server_push", __doc__, measure, runs=5)
