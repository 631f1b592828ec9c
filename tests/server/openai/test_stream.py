"""Partial images while the picture forms, as the SDK and as the wire see them."""

from __future__ import annotations

import asyncio
import itertools
import json

import aiohttp
import numpy as np
import openai
import pytest
from openai_sdk import failing, picture_of, pixels_of, sdk, without_pictures
from raw_http import connected, request_bytes
from scripted_generator import ScriptedGenerator, png, preview, progress, replanned, result_of, stage
from serving import Served
from sse_client import soon

from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.generation import Stage
from sdmanager.server.openai import stream
from sdmanager.server.streams import KEEP_ALIVE, OPEN_STREAMS, StreamTimes

OPENAI = "/openai/v1/images/generations"
SMALL = {"prompt": "a lighthouse", "size": "64x64", "extra_body": {"steps": 8, "seed": 7}}
# Of quicker steps a machine may leave previews out, for newer ones; of these each is read before the next one.
STREAMED = {**SMALL, "size": "256x256"}
STREAM = {"prompt": "a cat", "size": "64x64", "steps": 4, "stream": True, "partial_images": 3}


async def told(client, **fields) -> list:
    """All events of a stream."""
    async with await client.images.generate(stream=True, **fields) as stream:
        return [event async for event in stream]


def quick_heartbeats(served: Served, seconds: float) -> None:
    served.server._runner.app[OPEN_STREAMS].times = StreamTimes(heartbeat=seconds)


@pytest.fixture
def written(quick: Served) -> list[bytes]:
    """What the server over the scripted generator has written into streams, in pieces as it wrote them."""
    streams = quick.server._runner.app[OPEN_STREAMS]
    write, pieces = streams.write, []

    async def noted(response, data: bytes) -> None:
        await write(response, data)
        pieces.append(data)

    streams.write = noted
    return pieces


async def frames(served: Served, **fields) -> tuple[dict, bytes]:
    """The headers of a stream, and all its bytes."""
    async with served.client.post(OPENAI, json={**STREAM, **fields}) as response:
        assert response.status == 200
        return dict(response.headers), await response.read()


# With the real engine


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_partial_images_come_at_full_size_and_then_the_picture(client, count) -> None:
    *partials, end = await told(client, partial_images=count, **STREAMED)
    assert [event.type for event in partials] == ["image_generation.partial_image"] * count
    assert [event.partial_image_index for event in partials] == list(range(count))
    assert end.type == "image_generation.completed"
    assert end.usage.total_tokens == 0
    assert end.model_extra["seed"] == 7
    for event in (*partials, end):
        assert (event.size, event.output_format, event.background) == ("256x256", "png", "opaque")
        assert picture_of(event.b64_json).size == (256, 256)
        assert picture_of(event.b64_json).format == "PNG"
    shown = [pixels_of(event.b64_json) for event in (*partials, end)]
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(shown))


@pytest.mark.parametrize("name", ["jpeg", "webp"])
async def test_partial_images_have_the_format_asked_for(client, name) -> None:
    events = await told(client, partial_images=1, output_format=name, **STREAMED)
    assert len(events) == 2
    assert {picture_of(event.b64_json).format for event in events} == {name.upper()}
    assert {event.output_format for event in events} == {name}


async def test_each_of_several_images_has_its_own(client) -> None:
    events = await told(client, partial_images=2, n=2, **STREAMED)
    shown = [
        (event.type.partition(".")[2], event.model_extra["image_index"], getattr(event, "partial_image_index", None))
        for event in events
    ]  # fmt: skip
    assert shown == [
        ("partial_image", 0, 0), ("partial_image", 0, 1), ("partial_image", 1, 0), ("partial_image", 1, 1),
        ("completed", 0, None), ("completed", 1, None),
    ]  # fmt: skip


async def test_steps_and_size_of_the_model_are_known_beforehand(client) -> None:
    *partials, end = await told(client, prompt="a cat", partial_images=2)
    assert [event.partial_image_index for event in partials] == [0, 1]
    assert {event.size for event in partials} == {end.size}
    assert {"x".join(map(str, picture_of(event.b64_json).size)) for event in (*partials, end)} == {end.size}


async def test_fewer_steps_than_partial_images_give_what_there_is(client) -> None:
    fields = {"prompt": "a cat", "size": "256x256", "extra_body": {"steps": 2}}
    *partials, end = await told(client, partial_images=3, **fields)
    assert [event.partial_image_index for event in partials] == [0, 1]
    assert end.type == "image_generation.completed"


async def test_a_client_that_closes_its_stream_cancels_the_generation(real: Served, client) -> None:
    slow = {"prompt": "a cat", "size": "256x256", "extra_body": {"steps": 500}}
    stream = await client.images.generate(stream=True, partial_images=3, **slow)
    generation_id = real.service.current
    assert generation_id is not None
    await stream.close()
    assert (await real.service.wait(generation_id)).status == "cancelled"
    assert not real.service.busy
    assert len(await told(client, **SMALL)) == 1


# On the wire


async def test_the_frames_byte_for_byte(quick: Served, scripted: ScriptedGenerator) -> None:
    reading = asyncio.create_task(frames(quick))
    # At once: quicker than one of them is encoded.
    scripted.tell(*map(preview, (1, 2, 3, 4)))
    scripted.finish(result_of(seed=7))
    headers, data = await reading
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    common = b'"b64_json":"...","created_at":0,"size":"64x64","quality":"medium","background":"opaque",'
    common += b'"output_format":"png",'
    partial = b'data: {"type":"image_generation.partial_image",' + common
    usage = b'{"input_tokens":0,"input_tokens_details":{"image_tokens":0,"text_tokens":0},"output_tokens":0,'
    usage += b'"total_tokens":0}'
    assert without_pictures(data) == b"".join(
        [partial + b'"partial_image_index":%d}\n\n' % index for index in range(3)]
        + [b'data: {"type":"image_generation.completed",' + common + b'"usage":' + usage + b',"seed":7}\n\n']
    )


async def test_nothing_that_breaks_parsers_of_clients_is_ever_sent(
    quick: Served, scripted: ScriptedGenerator, written: list[bytes]
) -> None:
    """With an id, heartbeats end the Python SDK's streams; so does a time to come back after; so do empty events."""
    quick_heartbeats(quick, 0.05)
    reading = asyncio.create_task(frames(quick))
    scripted.tell(stage(Stage.OFFLOADING), replanned("It ran out."), progress(1), preview(1))
    await soon(lambda: written.count(b": keep-alive\n\n") >= 2)
    scripted.finish()
    data = (await reading)[1]
    events = [frame for frame in data.split(b"\n\n") if frame != b": keep-alive"]
    assert events.pop() == b""
    assert [json.loads(event.removeprefix(b"data: "))["type"] for event in events] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)


async def test_the_sdk_reads_on_through_heartbeats(
    quick: Served, scripted: ScriptedGenerator, scripted_client, written: list[bytes]
) -> None:
    quick_heartbeats(quick, 0.05)
    async with await scripted_client.images.generate(prompt="a cat", stream=True, partial_images=1) as stream:
        await soon(lambda: len(written) >= 2)
        scripted.tell(preview(2))
        events = [await anext(stream)]
        known = len(written)
        await soon(lambda: len(written) >= known + 2)
        scripted.finish()
        events += [event async for event in stream]
    assert written.count(b": keep-alive\n\n") >= 4
    assert [event.type.partition(".")[2] for event in events] == ["partial_image", "completed"]


async def test_steady_progress_of_which_nothing_is_told_does_not_silence_a_stream(
    quick: Served, scripted: ScriptedGenerator, written: list[bytes]
) -> None:
    quick_heartbeats(quick, 0.05)
    reading = asyncio.create_task(frames(quick, partial_images=0))

    def heard() -> bool:
        scripted.tell(progress(1))
        return written.count(KEEP_ALIVE) >= 2

    await soon(heard)
    scripted.finish()
    assert b"image_generation.completed" in (await reading)[1]


async def test_a_failure_in_the_middle_is_raised_by_the_sdk(
    scripted: ScriptedGenerator, scripted_client
) -> None:
    scripted.finish(EngineOutOfMemoryError("Memory ran out."))
    with pytest.raises(openai.APIError, match=r"Memory ran out\. Use a smaller size") as caught:
        await told(scripted_client, prompt="a cat", partial_images=1)
    assert (caught.value.code, caught.value.type, caught.value.param) == (
        "out_of_memory",
        "server_error",
        None,
    )
    assert scripted_client.posts == 1


async def test_a_generation_that_somebody_cancels_ends_its_stream_with_an_error(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    reading = asyncio.create_task(frames(quick))
    await soon(lambda: scripted.requests)
    await quick.service.cancel(quick.service.current)
    last = (await reading)[1].split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "cancelled"


async def test_a_server_that_stops_ends_a_stream_properly(quick: Served, scripted: ScriptedGenerator) -> None:
    reading = asyncio.create_task(frames(quick))
    await soon(lambda: scripted.requests)
    quick.server._runner.app[OPEN_STREAMS].close()
    data = (await reading)[1]  # whole, or this would raise
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "server_not_running"
    assert scripted.cancelled == 1


@pytest.mark.parametrize("name", ["partial_event", "completed_event"])
async def test_a_server_that_stops_while_a_picture_is_encoded_ends_a_stream_properly(
    quick: Served, scripted: ScriptedGenerator, monkeypatch, name: str
) -> None:
    encode, loop = getattr(stream, name), asyncio.get_running_loop()

    async def close() -> None:
        quick.server._runner.app[OPEN_STREAMS].close()

    def closing(*given) -> bytes:
        asyncio.run_coroutine_threadsafe(close(), loop).result()
        return encode(*given)

    monkeypatch.setattr(stream, name, closing)
    scripted.tell(preview(2))
    scripted.finish()
    data = (await frames(quick, partial_images=1))[1]
    last = json.loads(data.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert last["error"]["code"] == "server_not_running"


async def test_half_an_event_has_no_proper_end(
    quick: Served, scripted: ScriptedGenerator, monkeypatch
) -> None:
    streams = quick.server._runner.app[OPEN_STREAMS]

    async def half(response, data: bytes) -> None:
        await response.write(data[: len(data) // 2])
        streams.close()
        raise TimeoutError

    monkeypatch.setattr(streams, "write", half)
    scripted.finish()
    with pytest.raises(aiohttp.ClientPayloadError):
        await frames(quick)


async def test_a_picture_that_cannot_be_sent_ends_a_stream_with_an_error(
    quick: Served, scripted: ScriptedGenerator, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("sdmanager.server.openai.answers.final_picture", failing(ValueError("secret")))
    scripted.finish()
    data = (await frames(quick, partial_images=0))[1]
    failure = json.loads(data.removeprefix(b"data: "))["error"]
    assert (failure["type"], "secret" in failure["message"]) == ("server_error", False)
    assert "could not be made" in caplog.text


async def test_a_generation_that_is_forgotten_meanwhile_ends_its_stream_with_an_error(
    quick: Served, scripted: ScriptedGenerator, monkeypatch
) -> None:
    """Its feed no longer knows the end, and the registry knows nothing."""

    async def follow(_stream, _feed) -> None:
        quick.service.registry.delete(quick.service.current)

    monkeypatch.setattr(stream._Stream, "_follow", follow)
    data = (await frames(quick))[1]
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "not_found"


async def test_a_busy_server_refuses_a_stream_before_it_begins(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    await quick.begin()
    reply = await quick.ask("POST", OPENAI, json=STREAM)
    assert (reply.status, reply.headers["Content-Type"]) == (429, "application/json; charset=utf-8")


async def test_a_silent_engine_and_a_client_that_has_gone(quick: Served, scripted: ScriptedGenerator) -> None:
    """Nothing is written for long: the server has to look."""
    quick_heartbeats(quick, 3600.0)
    async with connected(quick.server.port) as connection:
        body = json.dumps(STREAM).encode()
        host = f"127.0.0.1:{quick.server.port}"
        headers = [("Host", host), ("Content-Type", "application/json")]
        connection.send(request_bytes("POST", OPENAI, headers, body))
        await connection.reader.readuntil(b"\r\n\r\n")
    await soon(lambda: scripted.cancelled == 1)


async def test_a_stream_that_is_asked_for_again_by_its_key_gives_the_end(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    headers = {"Idempotency-Key": "one"}
    scripted.finish(result_of(seed=9))
    for replayed in (None, "true"):
        async with quick.client.post(OPENAI, json=STREAM, headers=headers) as response:
            data = await response.read()
            assert response.headers.get("Idempotency-Replayed") == replayed
        end = json.loads(data.split(b"\n\n")[-2].removeprefix(b"data: "))
        assert (end["type"], end["seed"]) == ("image_generation.completed", 9)
    assert len(scripted.requests) == 1


async def test_only_what_is_wanted_is_asked_of_the_engine(quick: Served, scripted: ScriptedGenerator) -> None:
    wanted = [(20, 3, 5), (20, 0, None), (4, 3, 1), (2, 3, 1), (21, 1, 10)]
    for steps, count, _ in wanted:
        scripted.finish()
        await frames(quick, steps=steps, partial_images=count)
    strides = [request.previews and request.previews.stride for request in scripted.requests]
    assert strides == [stride for _, _, stride in wanted]


async def test_partial_images_without_a_stream_are_not_drawn(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    scripted.finish()
    reply = await quick.ask("POST", OPENAI, json={"prompt": "a cat", "partial_images": 2})
    assert reply.status == 200
    assert scripted.requests[0].previews is None


async def test_a_preview_that_cannot_be_read_is_left_out(
    quick: Served, scripted: ScriptedGenerator, caplog
) -> None:
    caplog.set_level("DEBUG", "sdmanager.server")
    reading = asyncio.create_task(frames(quick, size="128x128"))
    scripted.tell(preview(1, data=png(1)[:40]))
    await soon(lambda: "dropped" in caplog.text)
    scripted.finish()
    data = (await reading)[1]
    assert [frame[:46] for frame in data.split(b"\n\n")] == [
        b'data: {"type":"image_generation.completed","b6',
        b"",
    ]


async def test_streams_of_the_native_path(real: Served) -> None:
    async with sdk(real, "/v1") as client:
        events = await told(client, partial_images=1, **STREAMED)
    assert [event.type.partition(".")[2] for event in events] == ["partial_image", "completed"]
