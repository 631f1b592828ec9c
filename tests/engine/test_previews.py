"""The watcher: only whole pictures, only the newest, and never a reason to fail."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from sdmanager import ImageRequest, LocalGenerator, PreviewOptions
from sdmanager.engine import previews as previews_module
from sdmanager.engine.png import is_whole_png
from sdmanager.engine.previews import PreviewWatcher
from sdmanager.generation import Completed, Event, ImageData, Preview, PreviewTimings
from sdmanager.settings import Settings

DEADLINE = 60.0


def picture(shade: int, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 50 + shade).save(buffer, "PNG")
    return buffer.getvalue()


class Screen:
    """Takes what is published and lets a test wait for it."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int, int, ImageData]] = []
        self._changed = asyncio.Event()

    def show(self, step: int, total: int, image: int, data: ImageData) -> None:
        self.shown.append((step, total, image, data))
        self._changed.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.shown) < count:
                self._changed.clear()
                await self._changed.wait()

    @property
    def steps(self) -> list[int]:
        return [step for step, *_ in self.shown]


class Watched(PreviewWatcher):
    """Tells whether it is reading or encoding one."""

    taking = 0

    async def _take(self) -> ImageData | None:
        self.taking += 1
        try:
            return await super()._take()
        finally:
            self.taking -= 1


@asynccontextmanager
async def watching(path: Path, options: PreviewOptions, steps: int = 20):
    screen = Screen()
    watcher = Watched(path, options, steps, screen.show)
    task = asyncio.create_task(watcher.run())
    try:
        yield watcher, screen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def settle(watcher: Watched) -> None:
    """Until it has published or given up whatever it was told of."""
    async with asyncio.timeout(DEADLINE):
        while watcher._wake.is_set() or watcher.taking:
            await asyncio.sleep(0.005)


async def test_steps_of_the_stride_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(stride=3, format="png"), steps=8) as (watcher, screen):
        for step in range(1, 9):
            path.write_bytes(picture(step))
            before = len(screen.shown)
            watcher.on_step(step, 8, 1)
            if step in {3, 6, 8}:
                await screen.wait_for(before + 1)
            else:
                await asyncio.sleep(0)
    assert screen.steps == [3, 6, 8]
    assert screen.shown[0][1:3] == (8, 1)


async def test_the_first_ones_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(stride=1, skip_first=2), steps=4) as (watcher, screen):
        for step in range(1, 5):
            path.write_bytes(picture(step))
            watcher.on_step(step, 4, 1)
            await screen.wait_for(max(step - 2, 0))
    assert screen.steps == [3, 4]


async def test_torn_empty_missing_and_foreign_files_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    whole = picture(1)
    async with watching(path, PreviewOptions(stride=1)) as (watcher, screen):
        for step, data in enumerate(
            [None, b"", whole[:-1], whole[: len(whole) // 2], b"no picture"], start=1
        ):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            watcher.on_step(step, 20, 1)
            await settle(watcher)
        assert screen.shown == []
        path.write_bytes(whole)
        watcher.on_step(6, 20, 1)
        await screen.wait_for(1)
    assert screen.steps == [6]


async def test_a_file_that_becomes_whole_a_moment_later_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    whole = picture(1)
    async with watching(path, PreviewOptions(stride=1)) as (watcher, screen):
        path.write_bytes(whole[:100])
        watcher.on_step(1, 20, 1)
        await asyncio.sleep(0.02)
        path.write_bytes(whole)
        await screen.wait_for(1)
    assert screen.steps == [1]


async def test_an_engine_that_writes_after_the_bar_is_followed_too(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(stride=2)) as (watcher, screen):
        for step in range(1, 7):
            watcher.on_step(step, 20, 1)
            await settle(watcher)
            if step % 2 == 0:
                path.write_bytes(picture(step))
    assert screen.steps == [3, 5]


async def test_only_the_newest_waits_while_one_is_being_encoded(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(stride=1, format="webp"), steps=50) as (watcher, screen):
        for step in range(1, 51):
            path.write_bytes(picture(step, size=256))
            watcher.on_step(step, 50, 1)
            await asyncio.sleep(0)
        await settle(watcher)
    assert screen.steps == sorted(set(screen.steps))
    assert screen.steps[-1] == 50
    assert len(screen.steps) < 50


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        (1, [1]),
        (2, [1, 2]),
        (4, [1, 2, 3, 4]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (50, [6, 12, 18, 24, 30, 36, 42, 48, 50]),
    ],
)
async def test_short_runs_show_each_step_and_long_ones_about_eight(
    tmp_path: Path, steps: int, shown: list[int]
) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(), steps) as (watcher, screen):
        for step in range(1, steps + 1):
            path.write_bytes(picture(step))
            watcher.on_step(step, steps, 1)
            await screen.wait_for(sum(one <= step for one in shown))
    assert screen.steps == shown
    assert watcher.timings(0).count == len(shown)


async def test_what_previews_took_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    async with watching(path, PreviewOptions(stride=1)) as (watcher, screen):
        assert watcher.timings(0) == PreviewTimings()
        began = time.monotonic()
        watcher.on_step(1, 20, 1)
        await settle(watcher)
        waited = watcher.timings(began)
        assert (waited.count, waited.first_after, waited.encoding) == (0, None, 0)
        assert waited.reading > 0.01
        path.write_bytes(picture(1))
        watcher.on_step(2, 20, 1)
        await screen.wait_for(1)
        shown = watcher.timings(began)
    assert shown.count == 1
    assert shown.encoding > 0
    assert shown.first_after is not None
    assert waited.reading + shown.encoding <= shown.first_after <= time.monotonic() - began


ODD = [OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError, ZeroDivisionError]


@pytest.mark.parametrize("error", ODD)
async def test_whatever_goes_wrong_with_one_preview_the_next_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Pillow's error about huge pictures is no ValueError: it ended all previews of the run."""
    path = tmp_path / "p.png"
    encode = previews_module.encode_preview

    def break_once(*args: object) -> ImageData:
        monkeypatch.setattr(previews_module, "encode_preview", encode)
        raise error

    monkeypatch.setattr(previews_module, "encode_preview", break_once)
    async with watching(path, PreviewOptions(stride=1)) as (watcher, screen):
        path.write_bytes(picture(1))
        watcher.on_step(1, 20, 1)
        await settle(watcher)
        assert screen.shown == []
        path.write_bytes(picture(2))
        watcher.on_step(2, 20, 1)
        await screen.wait_for(1)
    assert screen.steps == [2]
    assert watcher.timings(0).count == 1


async def test_previews_that_all_fail_leave_the_picture(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> ImageData:
        raise MemoryError

    monkeypatch.setattr(previews_module, "encode_preview", fail)
    events: list[Event] = []
    request = ImageRequest(prompt="x", width=64, height=64, steps=8, seed=1, previews=PreviewOptions())
    result = await LocalGenerator(settings=settings).generate(request, events.append)
    assert isinstance(events[-1], Completed)
    assert not [event for event in events if isinstance(event, Preview)]
    assert result.previews is not None
    assert (result.previews.count, result.previews.first_after) == (0, None)


async def test_the_result_tells_what_previews_took(settings: Settings) -> None:
    generator, events = LocalGenerator(settings=settings), []
    options = PreviewOptions(method="proj")
    request = ImageRequest(prompt="x", width=128, height=128, steps=20, seed=1)
    assert (await generator.generate(request)).previews is None
    result = await generator.generate(request.model_copy(update={"previews": options}), events.append)
    previews = [event for event in events if isinstance(event, Preview)]
    assert result.previews is not None
    assert 1 <= result.previews.count == len(previews) <= 10
    assert result.previews.first_after == pytest.approx(previews[0].elapsed, abs=0.05)
    assert 0 < result.previews.encoding < result.time_taken
    assert 0 < result.previews.reading < result.time_taken


async def test_the_real_writer_against_a_fast_reader(settings: Settings) -> None:
    """What passes the walk over the chunks decodes; and the user sees at least nine of ten frames."""
    seen: dict[str, bytes] = {}
    torn = 0
    ended = threading.Event()

    def read_fast() -> None:
        nonlocal torn
        while not ended.is_set():
            for path in settings.jobs_dir.glob("*/preview.png"):
                try:
                    data = path.read_bytes()
                except OSError:
                    continue
                if is_whole_png(data):
                    seen.setdefault(hashlib.sha256(data).hexdigest(), data)
                else:
                    torn += 1
            time.sleep(0.001)

    events: list[Event] = []
    options = PreviewOptions(method="tae", stride=1, format="png")
    # One thread leaves a core to the watcher, and makes steps that last: what is measured is not the machine.
    request = ImageRequest(prompt="x", width=128, height=128, steps=10, seed=1, previews=options)
    reader = threading.Thread(target=read_fast)
    reader.start()
    try:
        await LocalGenerator(settings=settings, threads=1).generate(request, events.append)
    finally:
        ended.set()
        reader.join()
    for data in seen.values():
        Image.open(io.BytesIO(data)).load()
    previews = [event for event in events if isinstance(event, Preview)]
    for preview in previews:
        Image.open(io.BytesIO(preview.image.data)).load()
    shown = {hashlib.sha256(preview.image.data).hexdigest() for preview in previews}
    assert len(seen) >= 8
    assert len(shown) == len(previews) >= 0.9 * len(seen)
