"""What OpenAI's API costs: its translation beside the native API, and the way of a partial image to the SDK.

The server, the engine and this client are processes of their own; the clock, CLOCK_MONOTONIC, is one for all of them.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Final

import openai
from _common import ROOT, Figure, Options, Report, main, percentile, spread
from _server import NOTES, scripted, serving
from _translation import translation
from latency import SIZE, drawn_step, picture

if TYPE_CHECKING:
    from pathlib import Path

PARTIAL_MS: Final = 80.0
OPENAI: Final = "/openai/v1/images/generations"
PROMPT: Final = "a lighthouse at dusk"


def measure(options: Options) -> Report:
    """Both."""
    report = Report()
    body: dict[str, object] = {"prompt": PROMPT, "size": "512x512", "steps": 4, "seed": 7}
    translation(report, options, OPENAI, body, prompt=PROMPT, steps=4, seed=7)
    partial_images(report, options)
    return report


def partial_images(report: Report, options: Options) -> None:
    """From each whole preview file to the SDK's handing out the event with that picture, decoded."""
    steps, first, delays = 8, [], []
    child = shlex.join([sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "latency_child.py")])
    with scripted(NOTES, child=child, size=512) as home:
        notes = home.folder / "notes"
        task = {
            "help": None,
            "seconds": 0.1,
            "pictures": [str(path) for path in previews(home.folder, steps)],
            "bar_first": None,
            "result": str(home.folder / "picture.png"),
            "notes": str(notes),
        }
        with serving(home, LATENCY_CHILD=json.dumps(task)) as server:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="none")
            for _ in range(1 if options.quick else 5 * options.runs):
                stream = client.images.generate(
                    prompt="a lighthouse",
                    size="512x512",
                    stream=True,
                    partial_images=3,
                    extra_body={"steps": steps},
                )
                seen = [
                    (time.monotonic_ns(), drawn_step(base64.b64decode(event.b64_json)))
                    for event in stream
                    if event.type == "image_generation.partial_image"
                ]
                lines = (map(int, line.split()) for line in notes.read_text().splitlines())
                whole = {step: written for step, _, written in lines}
                each = [(now - whole[step]) / 1e6 for now, step in seen]
                first.append(each[0])
                delays += each
            client.close()
    report.figures["first_partial_to_sdk_p95"] = Figure(percentile(first, 0.95), "ms", at_most=PARTIAL_MS)
    report.details["first_partial_to_sdk_ms"] = spread(first)
    report.details["every_partial_to_sdk_ms"] = spread(delays)


def previews(folder: Path, steps: int) -> list[Path]:
    """The preview files of a run as the engine's cheap method draws them: an eighth of the picture."""
    paths = [folder / f"preview-{step}.png" for step in range(1, steps + 1)]
    for step, path in enumerate(paths, 1):
        picture(step, SIZE).reduce(8).save(path)
    return paths


if __name__ == "__main__":
    main("openai_api", __doc__, measure, runs=5)
