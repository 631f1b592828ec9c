"""Waiting for pictures, and the many ways in which that ends; a scripted generator where moments matter."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

import psutil
import pytest
from a1111 import BASE, SMALL, encoded, get, info_of, opened, post
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_http import connected, request_bytes
from scripted_generator import ScriptedGenerator, preview, result_of
from serving import GENERATIONS, Served
from sse_client import soon

from sdmanager.errors import EngineCrashedError, EngineOutOfMemoryError, ModelNotFoundError
from sdmanager.server.a1111 import extras
from sdmanager.server.a1111.images import STOPS, Stop


def waiting(served: Served, body: dict | None = None, name: str = "txt2img") -> asyncio.Task:
    """A client that waits for a picture."""
    return asyncio.create_task(post(served, name, {**SMALL, **(body or {})}))


def stops_of(served: Served) -> dict[str, Stop]:
    """What is known of those who wait, by the ids of their generations."""
    return served.server._runner.app[STOPS]


async def drawing(served: Served) -> str:
    """Id of what is being drawn, once it is."""
    await soon(lambda: served.service.current is not None)
    return served.service.current


def engines() -> list[psutil.Process]:
    """Engine processes of this test."""
    return [child for child in psutil.Process().children(recursive=True) if "sd-cli" in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has ended since it was listed
        return ""


async def shown(served: Served) -> None:
    """Wait until the real engine shows how a picture forms."""
    async with asyncio.timeout(120):
        while not (await get(served, "progress"))["current_image"]:
            await asyncio.sleep(0.02)


class TestInterrupt:
    async def test_the_engine_is_dead_when_it_is_answered_and_the_picture_comes_as_it_stood(
        self, real: Served
    ):
        task = waiting(real, {"steps": 200, "width": 128, "height": 128})
        await shown(real)
        assert engines()
        reply = await post(real, "interrupt")
        assert (reply.status, reply.json) == (200, {})
        assert not engines()
        found = await task
        assert opened(found.json["images"][0]).size == (128, 128)
        info = info_of(found)
        assert info["interrupted"] is True
        assert info["all_seeds"] == [7]
        assert info["infotexts"] == [""]
        assert (await get(real, "progress"))["progress"] == 0

    async def test_nothing_was_to_be_seen_yet(self, quick: Served):
        task = waiting(quick)
        await drawing(quick)
        assert (await post(quick, "interrupt")).json == {}
        found = await task
        assert found.json["images"] == []
        assert (info_of(found)["interrupted"], info_of(found)["all_seeds"]) == (True, [])

    async def test_the_second_of_two_images_has_the_second_seed(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = waiting(quick, {"batch_size": 2})
        feed = quick.service.feed(await drawing(quick))
        second = preview(1)
        object.__setattr__(second, "image_index", 2)
        scripted.tell(second)
        await soon(lambda: feed.preview is not None)
        await post(quick, "interrupt")
        assert info_of(await task)["all_seeds"] == [8]

    async def test_a_picture_without_a_size_is_as_large_as_the_latent_says(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = asyncio.create_task(post(quick, "txt2img", {"prompt": "a"}))
        feed = quick.service.feed(await drawing(quick))
        scripted.tell(preview(1))
        await soon(lambda: feed.preview is not None)
        await post(quick, "interrupt")
        found = await task
        assert opened(found.json["images"][0]).size == (512, 512)
        assert (info_of(found)["width"], info_of(found)["seed"]) == (512, -1)

    async def test_skip_does_the_same(self, quick: Served, scripted: ScriptedGenerator):
        task = waiting(quick)
        await drawing(quick)
        reply = await post(quick, "skip")
        assert (reply.status, reply.json) == (200, None)
        assert info_of(await task)["interrupted"] is True
        assert scripted.cancelled == 1

    async def test_what_others_draw_is_stopped_too(self, quick: Served):
        generation = await quick.begin()
        await drawing(quick)
        assert (await post(quick, "interrupt")).status == 200
        assert (await quick.state(generation))["status"] == "cancelled"

    async def test_what_waits_is_left_alone(self, queue: Served, scripted: ScriptedGenerator):
        first, second = waiting(queue), waiting(queue)
        await soon(lambda: queue.service.waiting == 1)
        await post(queue, "interrupt")
        scripted.finish(result_of())
        ends = sorted(info_of(reply)["interrupted"] for reply in await asyncio.gather(first, second))
        assert ends == [False, True]

    @pytest.mark.parametrize("name", ["interrupt", "skip"])
    async def test_nothing_to_stop_is_no_error(self, quick: Served, name):
        assert (await post(quick, name)).status == 200

    async def test_cancelled_in_another_way_is_an_error(self, quick: Served):
        task = waiting(quick)
        await quick.ask("DELETE", f"{GENERATIONS}/{await drawing(quick)}")
        found = await task
        assert (found.status, found.json["code"]) == (409, "CANCELLED")

    async def test_what_was_to_be_seen_cannot_be_read(self, quick: Served, scripted: ScriptedGenerator):
        task = waiting(quick)
        feed = quick.service.feed(await drawing(quick))
        scripted.tell(preview(1, data=b"no picture"))
        await soon(lambda: feed.preview is not None)
        assert (await post(quick, "interrupt")).json == {}
        found = await task
        assert found.json["images"] == []
        assert (info_of(found)["interrupted"], info_of(found)["all_seeds"]) == (True, [])

    async def test_who_interrupts_and_hangs_up_at_once_leaves_nothing(self, real: Served):
        # As SillyTavern does it: both together, in this order.
        task = waiting(real, {"steps": 200, "width": 128, "height": 128})
        await shown(real)
        interrupting = asyncio.create_task(post(real, "interrupt", headers={"Authorization": "Basic Og=="}))
        await asyncio.sleep(0)
        task.cancel()
        assert (await interrupting).json == {}
        assert not engines()
        await soon(lambda: stops_of(real) == {})
        assert (await get(real, "progress"))["progress"] == 0
        assert opened((await post(real, "txt2img", SMALL)).json["images"][0]).size == (64, 64)

    async def test_nothing_is_kept_of_those_who_waited(self, quick: Served, scripted: ScriptedGenerator):
        task = waiting(quick)
        await drawing(quick)
        assert len(stops_of(quick)) == 1
        scripted.finish(result_of())
        await task
        assert stops_of(quick) == {}


class TestTheSameRequestTwice:
    KEY: ClassVar = {"Idempotency-Key": "one"}

    async def both(self, served: Served) -> tuple[asyncio.Task, asyncio.Task]:
        """Two clients that wait for one picture, the second as one that repeats itself."""
        first = asyncio.create_task(post(served, "txt2img", SMALL, headers=self.KEY))
        generation = await drawing(served)
        second = asyncio.create_task(post(served, "txt2img", SMALL, headers=self.KEY))
        await soon(lambda: stops_of(served)[generation].waiting == 2)
        return first, second

    async def test_it_is_drawn_once_and_that_is_said(self, quick: Served, scripted: ScriptedGenerator):
        tasks = await self.both(quick)
        scripted.finish(result_of(seed=7))
        first, second = await asyncio.gather(*tasks)
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == "true"
        assert first.json == second.json
        again = await post(quick, "txt2img", SMALL, headers=self.KEY)
        assert (again.json, again.headers["Idempotency-Replayed"]) == (first.json, "true")
        assert len(scripted.requests) == 1
        assert stops_of(quick) == {}

    @pytest.mark.parametrize("who", [0, 1])
    async def test_one_that_leaves_takes_nothing_from_the_other(
        self, quick: Served, scripted: ScriptedGenerator, who
    ):
        tasks = await self.both(quick)
        (stop,) = stops_of(quick).values()
        tasks[who].cancel()
        await soon(lambda: stop.waiting == 1)
        assert scripted.cancelled == 0
        feed = quick.service.feed(quick.service.current)
        scripted.tell(preview(1))
        await soon(lambda: feed.preview is not None)
        await post(quick, "interrupt")
        found = await tasks[1 - who]
        assert info_of(found)["interrupted"] is True
        assert len(found.json["images"]) == 1
        assert stops_of(quick) == {}

    async def test_all_of_them_that_leave_take_it_along(self, quick: Served, scripted: ScriptedGenerator):
        tasks = await self.both(quick)
        for task in tasks:
            task.cancel()
        await soon(lambda: scripted.cancelled == 1)
        await soon(lambda: stops_of(quick) == {})

    async def test_an_interrupt_gives_both_the_picture_as_it_stood(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        tasks = await self.both(quick)
        feed = quick.service.feed(quick.service.current)
        scripted.tell(preview(1))
        await soon(lambda: feed.preview is not None)
        await post(quick, "interrupt")
        first, second = await asyncio.gather(*tasks)
        assert info_of(first)["interrupted"] is True
        assert len(first.json["images"]) == 1
        assert second.json == first.json

    async def test_a_large_body_comes_in_again_where_there_is_no_place(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        body = {**SMALL, "init_images": [encoded(Image.effect_noise((1200, 1200), 90))]}
        first = asyncio.create_task(post(quick, "img2img", body, headers=self.KEY))
        generation = await drawing(quick)
        assert (await post(quick, "img2img", body)).status == 503
        second = asyncio.create_task(post(quick, "img2img", body, headers=self.KEY))
        await soon(lambda: stops_of(quick)[generation].waiting == 2)
        scripted.finish(result_of())
        assert (await first).json == (await second).json

    async def test_a_model_is_kept_by_the_first_alone(self, real: Served):
        body = {
            **SMALL,
            "override_settings": {"sd_model_checkpoint": "red"},
            "override_settings_restore_afterwards": False,
        }
        first = await post(real, "txt2img", body, headers=self.KEY)
        assert real.face.models.current == "red"
        await real.face.models.use("demo")
        assert (await post(real, "txt2img", body, headers=self.KEY)).json == first.json
        assert real.face.models.current == "demo"


async def test_a_client_that_goes_away_cancels_its_picture(quick: Served, scripted: ScriptedGenerator):
    task = waiting(quick)
    generation = await drawing(quick)
    task.cancel()
    await soon(lambda: scripted.cancelled == 1)
    assert (await quick.until(generation))["status"] == "cancelled"


async def test_a_model_that_cannot_be_kept_is_not_drawn_with(
    quick: Served, scripted: ScriptedGenerator, monkeypatch
):
    async def use(name):
        raise ModelNotFoundError("It has just gone.")

    monkeypatch.setattr(quick.face.models, "use", use)
    reply = await post(
        quick, "txt2img", {**SMALL, "model": "demo", "override_settings_restore_afterwards": False}
    )
    assert (reply.status, reply.json["code"]) == (404, "MODEL_NOT_FOUND")
    assert quick.service.current is None
    assert stops_of(quick) == {}


async def test_previews_are_on_and_cheap(quick: Served, scripted: ScriptedGenerator):
    scripted.finish(result_of())
    await post(quick, "txt2img", SMALL)
    previews = scripted.requests[0].previews
    assert (previews.method, previews.format) == ("proj", "png")


async def test_one_image_is_drawn_where_no_number_is_named(quick: Served, scripted: ScriptedGenerator):
    scripted.finish(result_of())
    await post(quick, "txt2img", {"prompt": "a"})
    assert "count" in scripted.requests[0].model_fields_set
    assert not {"steps", "cfg_scale", "width", "height"} & scripted.requests[0].model_fields_set


class TestErrors:
    async def test_busy_says_when_to_come_again(self, quick: Served, scripted: ScriptedGenerator):
        task = waiting(quick)
        await drawing(quick)
        reply = await post(quick, "txt2img", SMALL)
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json["detail"].startswith("Another generation is being drawn.")
        assert reply.json.keys() == {"error", "detail", "body", "errors", "code"}
        scripted.finish(result_of())
        await task

    async def test_a_field_that_is_wrong_is_named_in_a_list(self, quick: Served):
        reply = await post(quick, "txt2img", {**SMALL, "steps": 0})
        assert reply.status == 422
        (detail,) = reply.json["detail"]
        assert detail["loc"] == ["body", "steps"]
        assert detail["msg"].startswith("steps must be between 1 and 1000.")
        assert detail["type"] == "value_error"

    @pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"prompt": "\\ud800"}'])
    async def test_what_is_no_object_is_refused(self, quick: Served, data):
        headers = {"Content-Type": "application/json"}
        reply = await quick.ask("POST", f"{BASE}/txt2img", data=data, headers=headers)
        assert reply.status == 422
        assert reply.json["detail"][0]["loc"] == ["body"]

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("txt2img", {"override_settings": {"sd_model_checkpoint": "nowhere"}}),
            ("txt2img", {"model": "nowhere"}),
            ("options", {"sd_model_checkpoint": "nowhere"}),
        ],
    )
    async def test_an_unknown_model_is_not_found(self, quick: Served, name, body):
        reply = await post(quick, name, {**SMALL, **body})
        assert reply.status == 404
        assert isinstance(reply.json["detail"], str)
        assert reply.json["code"] == "MODEL_NOT_FOUND"

    @pytest.mark.parametrize("body", [{}, {"init_images": []}, {"init_images": None}])
    async def test_a_missing_picture_is_not_found(self, quick: Served, body):
        reply = await post(quick, "img2img", {**SMALL, **body})
        assert reply.status == 404
        assert reply.json["detail"].startswith("Init image not found.")

    async def test_what_has_a_status_of_its_own_is_counted_like_other_errors(self, quick: Served):
        assert (await post(quick, "img2img", SMALL)).status == 404
        assert (await post(quick, "interrogate", {})).status == 501
        assert quick.face.metrics.refusals == {"INPUT_IMAGE_INVALID": 1, "INVALID_REQUEST": 1}

    @pytest.mark.parametrize("sent", ["AAAA", "no base64", "http://127.0.0.1/a.png"])
    async def test_a_picture_that_is_none_is_refused(self, quick: Served, sent):
        assert (await post(quick, "img2img", {**SMALL, "init_images": [sent]})).status == 422
        for name in ("png-info", "extra-single-image"):
            assert (await post(quick, name, {"image": sent})).status == 422

    @pytest.mark.parametrize(
        "error", [EngineCrashedError("It ended."), EngineOutOfMemoryError("RAM ran out.")]
    )
    async def test_a_failure_is_told(self, quick: Served, scripted: ScriptedGenerator, error):
        scripted.finish(error)
        reply = await post(quick, "txt2img", SMALL)
        assert reply.status == 500
        assert reply.json["detail"].startswith(error.message)
        assert (reply.json["error"] == "OutOfMemoryError") == isinstance(error, EngineOutOfMemoryError)

    async def test_an_unknown_path_is_answered_in_this_shape(self, quick: Served):
        reply = await quick.get(f"{BASE}/artists")
        assert (reply.status, reply.json["error"]) == (404, "HTTPException")

    async def test_a_larger_body_is_refused_before_it_is_read_where_there_is_no_place(
        self, quick: Served, scripted: ScriptedGenerator
    ):
        task = waiting(quick)
        await drawing(quick)
        headers = [
            ("Host", f"127.0.0.1:{quick.server.port}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(2 << 20)),
        ]
        async with connected(quick.server.port) as connection:
            connection.send(request_bytes("POST", f"{BASE}/txt2img", headers))  # and nothing of the body
            assert (await connection.reply()).status == 503
        scripted.finish(result_of())
        await task

    async def test_prompts_are_not_logged(self, quick: Served, scripted: ScriptedGenerator, caplog):
        scripted.finish(EngineCrashedError("It ended."))
        with caplog.at_level(logging.INFO):
            await post(quick, "txt2img", {**SMALL, "prompt": "hunter2"})
        assert "hunter2" not in caplog.text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PICTURE = encoded(Image.linear_gradient("L").resize((16, 16)))
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "prompt",
            "negative_prompt",
            "steps",
            "width",
            "height",
            "cfg_scale",
            "seed",
            "batch_size",
            "sampler_name",
            "scheduler",
            "override_settings",
            "init_images",
            "mask",
            "mask_blur",
            "resize_mode",
            "denoising_strength",
            "image",
            "imageList",
            "upscaler_1",
            "upscaling_resize",
            "resize_mode",
            "sd_model_checkpoint",
            "CLIP_stop_at_last_layers",
            "model",
        ]
    ),
    VALUES | st.just(PICTURE) | st.just([PICTURE]) | st.just([{"data": PICTURE}]),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    name=st.sampled_from(
        [
            "txt2img",
            "img2img",
            "options",
            "png-info",
            "extra-single-image",
            "extra-batch-images",
            "interrogate",
        ]
    ),
    body=FIELDS,
)
async def test_no_body_is_a_mistake_of_the_server(quick: Served, scripted: ScriptedGenerator, name, body):
    drawn = len(scripted.requests)
    task = asyncio.create_task(post(quick, name, body))
    while not task.done() and len(scripted.requests) == drawn:
        await asyncio.sleep(0.001)
    if len(scripted.requests) > drawn:
        scripted.finish(result_of(scripted.requests[-1].count))
    reply = await task
    assert (
        reply.status == 200 or (name == "interrogate" and reply.status == 501) or 400 <= reply.status < 500
    ), body


async def test_an_interrupt_reaches_only_those_who_waited_for_what_was_stopped(
    queue: Served, scripted: ScriptedGenerator
):
    first = waiting(queue)
    feed = queue.service.feed(await drawing(queue))
    second = waiting(queue, {"seed": 8})
    await soon(lambda: queue.service.waiting == 1)
    scripted.tell(preview(1))
    await soon(lambda: feed.preview is not None)
    await post(queue, "interrupt")
    assert info_of(await first)["interrupted"] is True
    later = await get(queue, "progress")
    assert (later["state"]["interrupted"], later["current_image"]) == (False, None)
    scripted.finish(result_of(seed=8))
    reply = await second
    assert info_of(reply)["interrupted"] is False
    assert opened(reply.json["images"][0]).getpixel((1, 1)) == (8, 20, 30)


@pytest.mark.parametrize(
    ("name", "of_extensions"),
    [
        ("alwayson_scripts", {"ControlNet": {"args": [{"image": "A" * (2 << 20)}]}}),
        ("script_args", ["A" * (2 << 20)]),
    ],
)
async def test_pictures_for_extensions_are_ignored_whatever_their_size(
    quick: Served, scripted: ScriptedGenerator, name, of_extensions
):
    scripted.finish(result_of())
    assert (await post(quick, "txt2img", {**SMALL, name: of_extensions})).status == 200
    assert (await post(quick, "txt2img", {**SMALL, "other": of_extensions})).status == 413


async def test_a_batch_is_made_larger_picture_by_picture_and_bounded_together(quick: Served, monkeypatch):
    class Counting(asyncio.Semaphore):
        entered = 0

        async def acquire(self):
            self.entered += 1
            return await super().acquire()

    decoding = Counting(1)
    object.__setattr__(quick.face, "decoding", decoding)
    body = {"imageList": [{"data": PICTURE, "name": "a"}] * 3, "upscaler_1": "Nearest", "resize_mode": 1}
    reply = await post(
        quick, "extra-batch-images", {**body, "upscaling_resize_w": 20, "upscaling_resize_h": 8}
    )
    assert [opened(each).size for each in reply.json["images"]] == [(20, 8)] * 3
    assert decoding.entered == 3
    monkeypatch.setattr(extras, "_PIXELS_MAX", 20 * 8 * 3 - 1)
    reply = await post(
        quick, "extra-batch-images", {**body, "upscaling_resize_w": 20, "upscaling_resize_h": 8}
    )
    assert reply.status == 422
    assert reply.json["detail"][0]["loc"] == ["body", "upscaling_resize"]
