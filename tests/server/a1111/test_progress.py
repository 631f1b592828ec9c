"""How far it is, in this API's way of counting."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from types import SimpleNamespace

import pytest
from a1111 import SMALL, get, opened, post
from PIL import Image
from scripted_generator import ScriptedGenerator, preview, progress, replanned, result_of, stage
from serving import Served
from sse_client import soon

from sdmanager.generation import ImageData, Stage
from sdmanager.server.a1111.images import Stop
from sdmanager.server.a1111.progress import progress_body, share


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 0, 0, 0), 0.0),
        ((0, 1, 0, 0), 0.01),
        ((0, 1, 3, 20), 0.16),
        ((1, 4, 10, 20), 0.385),
        ((0, 1, 20, 20), 1.0),
        ((3, 4, 4, 4), 1.0),
    ],
)
def test_the_formula_is_that_of_the_interface(arguments, expected):
    assert share(*arguments) == pytest.approx(expected)


async def begun(served: Served) -> asyncio.Task:
    task = asyncio.create_task(post(served, "txt2img", {**SMALL, "batch_size": 2}))
    await soon(lambda: served.service.current is not None)
    return task


async def state(served: Served, scripted: ScriptedGenerator, *events) -> dict:
    """The answer once these events are known."""
    feed = served.service.feed(served.service.current)
    before = feed.last_number
    scripted.tell(*events)
    await soon(lambda: feed.last_number >= before + len(events))
    return await get(served, "progress")


class TestWhileDrawing:
    async def test_steps_and_images_are_counted(self, quick: Served, scripted: ScriptedGenerator):
        task = await begun(quick)
        loading = await get(quick, "progress")
        assert (loading["progress"], loading["textinfo"]) == (0.01, "Loading the model…")
        assert loading["state"]["job_count"] == 2
        second = dataclasses.replace(progress(2), image=2, total_images=2)
        found = await state(quick, scripted, second)
        assert found["progress"] == pytest.approx(0.01 + 1 / 2 + 1 / 2 * 2 / 4)
        told = found["state"]
        assert (told["job_no"], told["job_count"], told["sampling_step"], told["sampling_steps"]) == (
            1,
            2,
            2,
            4,
        )
        assert (told["job"], len(told["job_timestamp"])) == ("scripts_txt2img", 14)
        assert (found["eta_relative"], found["textinfo"]) == (3.0, None)
        scripted.finish(result_of())
        await task
        assert (await get(quick, "progress"))["state"]["job_count"] == 0

    async def test_loading_that_comes_back_does_not_set_it_back(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = await begun(quick)
        before = await state(quick, scripted, progress(3))
        after = await state(quick, scripted, stage(Stage.LOADING))
        assert after["progress"] == before["progress"]
        assert after["textinfo"] == "Loading the model…"
        decoding = dataclasses.replace(progress(1), stage=Stage.DECODING)
        assert (await state(quick, scripted, decoding))["progress"] == before["progress"]
        scripted.finish(result_of())
        await task

    async def test_what_takes_long_before_the_first_step_is_said(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = await begun(quick)
        assert (await state(quick, scripted, stage(Stage.OFFLOADING)))["textinfo"] == "Making room…"
        found = await state(quick, scripted, replanned("RAM ran out."), stage(Stage.LOADING))
        assert found["textinfo"] == "RAM ran out."
        assert (await state(quick, scripted, progress(1)))["textinfo"] is None
        scripted.finish(result_of())
        await task

    async def test_without_an_estimate_the_time_left_follows_from_the_time_taken(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = await begun(quick)
        found = await state(quick, scripted, progress(2, eta=None))
        assert found["eta_relative"] >= 0
        scripted.finish(result_of())
        await task

    def test_the_time_in_the_queue_is_no_sign_of_how_long_it_takes(self):
        loading = dataclasses.replace(
            progress(0, eta=None), stage=Stage.LOADING, step=1, total_steps=9, elapsed=602.0
        )
        events = [dataclasses.replace(stage(Stage.LOADING), elapsed=600.0), loading]
        drawn = SimpleNamespace(progress=loading, created_at=0)
        assert progress_body(drawn, events, Stop())["eta_relative"] == pytest.approx(2 / 0.01 - 2)

    async def test_the_preview_is_shown_unless_it_is_not_wanted(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = await begun(quick)
        found = await state(quick, scripted, preview(1))
        assert opened(found["current_image"]).getpixel((1, 1)) == (1, 20, 30)
        assert (await get(quick, "progress?skip_current_image=true"))["current_image"] is None
        assert (await get(quick, "progress?skip_current_image=false"))["current_image"] is not None
        scripted.finish(result_of())
        await task

    @pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
    async def test_a_preview_that_cannot_be_read_is_none(
        self, quick: Served, scripted: ScriptedGenerator, kind
    ):
        task = await begun(quick)
        torn = dataclasses.replace(preview(1), image=ImageData(preview(1).image.data[:60], kind, 64, 64))
        assert (await state(quick, scripted, torn))["current_image"] is None
        assert (await state(quick, scripted, preview(2)))["current_image"] is not None
        scripted.finish(result_of())
        await task

    async def test_previews_of_other_formats_become_png(self, quick: Served, scripted: ScriptedGenerator):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
        generation = await quick.begin(previews={})
        shown = dataclasses.replace(preview(1), image=ImageData(buffer.getvalue(), "jpeg", 8, 8))
        found = await state(quick, scripted, shown)
        assert opened(found["current_image"]).size == (8, 8)
        scripted.finish(result_of())
        await quick.until(generation)


async def test_of_the_real_engine_it_never_falls_and_shows_pictures(real: Served):
    # A machine may be too busy for us to look in time: then once more.
    seen, pictures = [], []
    while len(seen) < 2 or not pictures:
        seen, pictures = await watched(real)
        assert seen == sorted(seen)
        assert all(0 < share <= 1 for share in seen)
        assert set(pictures) <= {(16, 16)}
        assert (await get(real, "progress"))["progress"] == 0


async def watched(served: Served) -> tuple[list[float], list[tuple[int, int]]]:
    """How far it was each time while something was drawn, and the sizes of the pictures that were shown."""
    body = {**SMALL, "width": 128, "height": 128, "steps": 60}
    task = asyncio.create_task(post(served, "txt2img", body))
    seen, pictures = [], []
    while not task.done():
        found = await get(served, "progress")
        if found["state"]["job_count"]:
            seen.append(found["progress"])
            assert found["state"]["job_count"] == 1
        if found["current_image"]:
            pictures.append(opened(found["current_image"]).size)
        await asyncio.sleep(0.02)
    assert (await task).status == 200
    return seen, pictures


async def test_what_waits_for_its_turn_is_no_idleness(queue: Served, scripted: ScriptedGenerator):
    async with queue.service.reserved():
        found = await get(queue, "progress")
        assert found["progress"] > 0
        assert found["state"]["job_count"] == 1
    assert (await get(queue, "progress"))["progress"] == 0
