"""How long the caller waits for what the engine has written: steps, previews; and what previews cost the engine.

Steps and previews come from a scripted engine (`latency_child.py`) that notes the time of each write; the clock,
CLOCK_MONOTONIC, is one for all processes of a machine. The cost of previews is measured with the real engine.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from _common import ROOT, Figure, Options, Pairs, Report, main, percentile, real_engine, spread
from PIL import Image

from sdmanager import ImageRequest, LocalGenerator, PreviewOptions, generate_image
from sdmanager.generation import Event, Preview, PreviewFormat, PreviewMethod, Progress
from sdmanager.models import ModelFiles, Role
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Draw = Callable[[ImageRequest, ModelFiles, Settings, Callable[[Event], None]], None]

STEP_MS: Final = 10.0
PREVIEW_MS: Final = 50.0
PROJ_RATIO: Final = 1.03
BAR_FIRST_SECONDS: Final = 0.001

# Of the preview files: the size of a usual model's picture, as the dear preview methods draw it.
SIZE: Final = 512
BLOCK: Final = 32
BITS: Final = 12

SAMPLED = re.compile(rb"sampling completed, taking (\d+\.\d+)s")


@dataclass(frozen=True, slots=True)
class Note:
    """When the scripted engine wrote what belongs to one step, in nanoseconds."""

    bar: int
    preview: int


def measure(options: Options) -> Report:
    """Steps, previews, and the price of previews."""
    report = Report()
    with scripted_engine() as engine:
        steps = 20 if options.quick else 300
        for name, draw in (("loop", draw_on_loop), ("blocking", draw_blocking)):
            delays = [ms for _ in range(options.runs) for ms in engine.step_delays(draw, steps)]
            report.figures[f"step_to_callback_{name}_p95"] = Figure(
                percentile(delays, 0.95), "ms", at_most=STEP_MS
            )
            report.details[f"step_to_callback_{name}_ms"] = shown(delays)
        steps = 4 if options.quick else 40
        for image_format in (PreviewFormat.PNG, PreviewFormat.JPEG):
            for order, bar_first in (("file_first", None), ("bar_first", BAR_FIRST_SECONDS)):
                seen = [engine.preview_delays(image_format, steps, bar_first) for _ in range(options.runs)]
                delays = [ms for one in seen for ms in one.milliseconds]
                name = f"preview_to_callback_{image_format}_{order}"
                report.figures[f"{name}_p95"] = Figure(percentile(delays, 0.95), "ms", at_most=PREVIEW_MS)
                report.details[f"{name}_ms"] = shown(delays) | {
                    "written": steps * options.runs,
                    "under_the_right_step": sum(one.right for one in seen),
                }
    (plain, watched, again), delays = asyncio.run(price_of_previews(options))
    for name, pairs, control in (
        ("wall", Pairs(plain.wall, watched.wall), Pairs(plain.wall, again.wall)),
        ("sampling", Pairs(plain.sampling, watched.sampling), Pairs(plain.sampling, again.sampling)),
    ):
        report.figures[f"engine_with_proj_to_without_{name}"] = Figure(
            pairs.ratio, "ratio", at_most=PROJ_RATIO
        )
        report.figures[f"engine_without_proj_to_itself_{name}"] = Figure(control.ratio, "ratio")
        report.details[f"engine_with_proj_{name}"] = pairs.to_json() | {"noise": control.to_json()}
    report.details["real_engine_preview_to_callback_ms"] = shown(delays)
    return report


def shown(delays: list[float]) -> dict[str, float]:
    """Percentiles besides the usual."""
    return spread(delays) | {f"p{n}": round(percentile(delays, n / 100), 2) for n in (50, 95, 99)}


class ScriptedEngine:
    """The scripted engine in a folder of its own.

    Args:
        folder: For its pictures, its notes, and the folders of the package.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "sd-cli"
        child = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "latency_child.py")]
        self._program.write_text(f'#!/bin/sh\nexec {shlex.join(child)} "$@"\n')
        self._program.chmod(0o755)
        self._settings = Settings(folder / "data", folder / "cache", folder / "state", engine=self._program)
        self._result = self._picture(0, 64)
        self._model = ModelFiles("scripted", {Role.MODEL: self._result})

    def step_delays(self, draw: Draw, steps: int) -> list[float]:
        """Milliseconds from each bar to the callback with its step."""
        called: dict[int, int] = {}

        def on_event(event: Event) -> None:
            if isinstance(event, Progress) and event.step and event.total_steps == steps:
                called.setdefault(event.step, time.monotonic_ns())

        notes = self._draw(draw, steps, on_event, seconds=0.005)
        assert len(called) == steps
        return [(called[step] - note.bar) / 1e6 for step, note in notes.items()]

    def preview_delays(
        self, image_format: PreviewFormat, steps: int, bar_first: float | None
    ) -> PreviewDelays:
        """From each whole preview file to the callback with that picture."""
        pictures = [self._picture(step, SIZE) for step in range(1, steps + 1)]
        called: list[tuple[Preview, int]] = []

        def on_event(event: Event) -> None:
            if isinstance(event, Preview):
                called.append((event, time.monotonic_ns()))

        options = PreviewOptions(method=PreviewMethod.PROJ, stride=1, format=image_format)
        notes = self._draw(
            draw_on_loop,
            steps,
            on_event,
            seconds=0.1,
            options=options,
            pictures=pictures,
            bar_first=bar_first,
        )
        milliseconds, right = [], 0
        for preview, now in called:
            step = drawn_step(preview.image.data)
            milliseconds.append((now - notes[step].preview) / 1e6)
            right += step == preview.step
        return PreviewDelays(milliseconds, right)

    def _draw(
        self,
        draw: Draw,
        steps: int,
        on_event: Callable[[Event], None],
        *,
        seconds: float,
        options: PreviewOptions | None = None,
        pictures: list[Path] | None = None,
        bar_first: float | None = None,
    ) -> dict[int, Note]:
        notes = self._folder / "notes"
        task = {
            "help": str(ROOT / "tests" / "data" / "help" / "pypi-0.4.7.txt"),
            "seconds": seconds,
            "pictures": [str(path) for path in pictures or []],
            "bar_first": bar_first,
            "result": str(self._result),
            "notes": str(notes),
        }
        os.environ["LATENCY_CHILD"] = json.dumps(task)
        request = ImageRequest(prompt="a lighthouse", width=64, height=64, steps=steps, previews=options)
        draw(request, self._model, self._settings, on_event)
        lines = (map(int, line.split()) for line in notes.read_text().splitlines())
        return {step: Note(bar, preview) for step, bar, preview in lines}

    def _picture(self, step: int, size: int) -> Path:
        path = self._folder / f"{size}-{step}.png"
        if not path.exists():
            picture(step, size).save(path, compress_level=1)
        return path


@dataclass(frozen=True, slots=True)
class PreviewDelays:
    """Milliseconds of the previews that were published, and how many came under their own step."""

    milliseconds: list[float]
    right: int


def draw_on_loop(
    request: ImageRequest, model: ModelFiles, settings: Settings, on_event: Callable[[Event], None]
) -> None:
    """Callbacks on the event loop, as an application with one of its own has them."""

    async def draw() -> None:
        async with LocalGenerator(model, settings=settings) as generator:
            await generator.generate(request, on_event)

    asyncio.run(draw())


def draw_blocking(
    request: ImageRequest, model: ModelFiles, settings: Settings, on_event: Callable[[Event], None]
) -> None:
    """Callbacks in the thread that waits."""
    generate_image(request, model=model, settings=settings, on_event=on_event)


@contextmanager
def scripted_engine() -> Iterator[ScriptedEngine]:
    """The scripted engine, with no trace of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as folder:
        yield ScriptedEngine(Path(folder))


def picture(step: int, size: int) -> Image.Image:
    """Soft colours with grain, hard to compress as a photograph is; the number of the step in blocks on top."""
    grain = np.random.default_rng(step).normal(0, 6, (size, size, 3))
    ramp = np.linspace(40, 200, size)
    pixels = np.clip(grain + ramp[:, None, None] * 0.5 + ramp[None, :, None] * 0.5, 0, 255).astype(np.uint8)
    for bit in range(BITS):
        pixels[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (step >> bit & 1)
    return Image.fromarray(pixels)


def drawn_step(data: bytes) -> int:
    """The number in a picture."""
    grey = Image.open(io.BytesIO(data)).convert("L")
    middles = ((bit * BLOCK + BLOCK // 2, BLOCK // 2) for bit in range(BITS))
    return sum(1 << bit for bit, middle in enumerate(middles) if int(np.asarray(grey)[middle[::-1]]) > 127)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of several runs: the whole time of each, and what the engine says of its sampling."""

    wall: list[float]
    sampling: list[float]


async def price_of_previews(options: Options) -> tuple[list[Seconds], list[float]]:
    """The real engine without previews, with `proj` previews, and without again, by turns.

    Also the milliseconds from each preview file's time of change, which the system rounds down to its tick, to
    the callback.
    """
    sides = [Seconds([], []) for _ in range(3)]
    delays: list[float] = []
    with real_engine() as settings:

        def on_event(event: Event) -> None:
            if isinstance(event, Preview):
                file = settings.jobs_dir / event.generation_id / "preview.png"
                delays.append((time.time_ns() - file.stat().st_mtime_ns) / 1e6)

        said = bytearray()
        size, steps, runs = (64, 4, 1) if options.quick else (256, 20, 3 * options.runs)
        plain = ImageRequest(
            prompt="a lighthouse at dusk", width=size, height=size, steps=steps, cfg_scale=1.0, seed=7
        )
        watched = plain.model_copy(update={"previews": PreviewOptions(method=PreviewMethod.PROJ, stride=1)})

        async def draw(request: ImageRequest) -> tuple[float, float]:
            said.clear()
            began = time.perf_counter()
            await generator.generate(request, on_event)
            seconds = time.perf_counter() - began
            found = SAMPLED.search(said)
            assert found is not None
            return seconds, float(found[1])

        async with LocalGenerator(
            settings=settings, on_output=lambda _, data: said.extend(data)
        ) as generator:
            await draw(watched)
            delays.clear()
            requests = [plain, watched, plain]
            for turn in range(runs):
                for place in range(len(sides)):
                    side = (turn + place) % len(sides)
                    seconds, sampled = await draw(requests[side])
                    sides[side].wall.append(seconds)
                    sides[side].sampling.append(sampled)
    return sides, delays


if __name__ == "__main__":
    main("latency", __doc__, measure, runs=5)
