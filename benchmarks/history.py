"""What a gallery costs: pages of 50,000 images with a search, and what keeping a picture adds to its generation."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from _common import Figure, Options, Report, in_turn, main, percentile, spread
from _server import REPLAYS, Client, Scripted, Server, noise, scripted, serving

from sdmanager.generation import GeneratedImage, GenerationResult, ImageRequest, MemoryPlan, StageTimings
from sdmanager.history import History
from sdmanager.history._words import indexed, indexed_model

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES: Final = 50_000
LIST_MS: Final = 50.0
SIDE: Final = 592  # pixels, for a picture of 1 MB
NEGATIVE: Final = "blurry, low quality, watermark"

SEARCHES: Final[dict[str, dict[str, str]]] = {
    "all": {},
    "a_word_of_all": {"search": "photo"},
    "a_word_of_few": {"search": "word4000"},
    "the_start_of_all": {"search": "p"},
    "two_words_of_all": {"search": "photo lighthouse"},
    "a_phrase_of_all": {"search": "low-quality waterm"},
    "chinese": {"search": "海边的灯塔"},
    "of_a_model": {"model": "model-1"},
    "a_word_of_all_of_a_model": {"search": "photo", "model": "model-1"},
    "five_hundred": {"search": "photo", "limit": "500"},
    "nothing": {"search": "nowhere"},
}


def measure(options: Options) -> Report:
    """Pages in this process and over HTTP; then the making of images."""
    report, count = Report(), 500 if options.quick else IMAGES
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        folder = Path(name) / "gallery"
        asyncio.run(keeping(report, folder, options))
        fill(folder, count)
        asyncio.run(pages(report, folder, options))
        with scripted(REPLAYS, size=SIDE) as home:
            with serving(home, "--gallery", str(folder)) as server:
                pages_over_http(report, server, options)
            overhead(report, home, options)
    return report


def fill(folder: Path, count: int) -> None:
    """Rows as servers write them, without their files, which no page looks at."""
    chance = random.Random(1)
    weights = [1 / (number + 1) for number in range(5000)]
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as database, database:
        for number in range(count):
            words = " ".join(f"word{each}" for each in chance.choices(range(5000), weights, k=25))
            prompt = f"photo of a lighthouse, {words}, 海边的灯塔，日落"  # noqa: RUF001
            request = ImageRequest(prompt=prompt, negative_prompt=NEGATIVE, seed=number)
            model, name = f"model-{number % 3}", f"gen_{number:032x}"
            added = database.execute(
                "INSERT INTO images (id, generation_id, position, created_at, completed_at, path, width, height, seed,"
                " model, variant, time_taken, timings, request) VALUES (?, ?, 0, ?, ?, ?, 512, 512, ?, ?, 'cpu', 9.5,"
                ' \'{"loading": 1.0, "diffusion": 8.0, "decoding": 0.5, "offloading": 0.0}\', ?)',
                (
                    f"{name}-0", name, number, number, f"images/2026-11/2026-11-01_00-00-00_{number}_{name}-0.png",
                    number, model, json.dumps(request.model_dump(by_alias=True, exclude_none=True)),
                ),
            )  # fmt: skip
            database.execute(
                "INSERT INTO words (rowid, prompt, negative, model) VALUES (?, ?, ?, ?)",
                (added.lastrowid, indexed(prompt), indexed(NEGATIVE), indexed_model(model)),
            )


async def pages(report: Report, folder: Path, options: Options) -> None:
    """Every search, by turns."""
    history = History(folder)
    await history.open()
    taken: dict[str, list[float]] = {name: [] for name in SEARCHES}
    for _ in range(options.runs):
        for name, asked in SEARCHES.items():
            began = time.perf_counter()
            await history.list(**{**asked, "limit": int(asked.get("limit", 50))})  # type: ignore[arg-type]
            taken[name].append(1e3 * (time.perf_counter() - began))
    await history.aclose()
    told(report, "list", taken)


def pages_over_http(report: Report, server: Server, options: Options) -> None:
    """The same, until the last byte of the answer."""
    taken: dict[str, list[float]] = {name: [] for name in SEARCHES}
    with Client(server.port) as client:
        for _ in range(options.runs):
            for name, asked in SEARCHES.items():
                request = client.request("GET", f"/v1/history?{urlencode(asked)}")
                began = time.perf_counter()
                answer = client.ask(request)
                taken[name].append(1e3 * (time.perf_counter() - began))
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise SystemExit(answer.decode())
    told(report, "list_over_http", taken)


def told(report: Report, name: str, taken: dict[str, list[float]]) -> None:
    """The slowest search is what the target is for."""
    worst = max(percentile(each, 0.95) for each in taken.values())
    report.figures[f"{name}_slowest_p95"] = Figure(worst, "ms", at_most=LIST_MS)
    report.details[f"{name}_ms"] = {search: spread(each) for search, each in taken.items()}


async def keeping(report: Report, folder: Path, options: Options) -> None:
    """``begin`` and ``keep`` in this process, of a file on the same disk and of bytes."""
    history, source = History(folder), noise(folder.parent / "source.png", SIDE)
    await history.open()
    numbers = iter(range(1_000_000))

    async def keep(picture: Path | bytes) -> float:
        request, name = ImageRequest(prompt="a lighthouse", negative_prompt=NEGATIVE), f"kept_{next(numbers)}"
        image = GeneratedImage(picture, 1, SIDE, SIDE)
        result = GenerationResult((image,), 1.0, StageTimings(), "demo", "cpu", MemoryPlan(), request=request)
        began = time.perf_counter()
        history.begin(name, request)
        await history.keep(name, result)
        return 1e3 * (time.perf_counter() - began)

    data = source.read_bytes()
    linked, written = [], []
    for _ in range(options.runs):
        # Of a new file each time: one that was synced once has nothing left to write.
        fresh = folder.parent / "fresh.png"
        fresh.write_bytes(data)
        linked.append(await keep(fresh))
        fresh.unlink()
        written.append(await keep(data))
    await history.clear()
    await history.aclose()
    report.figures["keep_linked_median"] = Figure(statistics.median(linked), "ms")
    report.figures["keep_written_median"] = Figure(statistics.median(written), "ms")
    report.details["keep_ms"] = {"linked": spread(linked), "written": spread(written)}


def overhead(report: Report, home: Scripted, options: Options) -> None:
    """Generations of an engine that costs no time, of a server with a gallery and of one without."""
    other = replace(home, folder=home.folder / "other")
    other.folder.mkdir()
    gallery = str(home.folder / "gallery")
    with serving(home, "--gallery", gallery) as keeps, serving(other) as plain:
        sides: list[Callable[[], float]] = [partial(drawn, server) for server in (plain, keeps)]
        for side in sides:
            side()
        pairs = in_turn(options.runs, *sides)
    report.figures["generation_added"] = Figure(pairs.added_ms, "ms")
    report.details["generation"] = pairs.to_json()


def drawn(server: Server) -> float:
    """Seconds of one generation."""
    began = time.perf_counter()
    server.draw(width=SIDE, height=SIDE, steps=3)
    return time.perf_counter() - began


if __name__ == "__main__":
    main("history", __doc__, measure, runs=40)
