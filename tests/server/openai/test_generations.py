"""Pictures as OpenAI's clients ask for them, from the real engine."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import numpy as np
import pytest
from openai import OpenAI
from openai_sdk import KEY, SMALL, picture_of, pixels_of, sdk
from scripted_generator import ScriptedGenerator
from serving import GENERATIONS, Served

from sdmanager.server import schemas

OPENAI = "/openai/v1/images/generations"
FIELDS = {"prompt": "a lighthouse", "size": "64x64", "steps": 2, "seed": 7}


async def test_a_picture_as_the_sdk_asks_for_it(real: Served, client) -> None:
    before = int(time.time())
    raw = await client.images.with_raw_response.generate(model="dall-e-3", **SMALL)
    answer = raw.parse()
    assert before <= answer.created <= time.time()
    assert (answer.background, answer.output_format) == ("opaque", "png")
    assert (answer.quality, answer.size) == ("medium", "64x64")
    assert (answer.usage.total_tokens, answer.usage.input_tokens_details.text_tokens) == (0, 0)
    (image,) = answer.data
    assert (image.url, image.revised_prompt, image.model_extra) == (None, None, {"seed": 7})
    assert picture_of(image.b64_json).size == (64, 64)
    assert picture_of(image.b64_json).format == "PNG"
    (drawn,) = real.service.registry.list()
    assert raw.headers["x-request-id"] == drawn.id


async def test_it_is_the_picture_that_the_native_api_draws(real: Served, client) -> None:
    extra = {"steps": 3, "seed": 11, "negative_prompt": "fog", "cfg_scale": 3.5, "sampler_name": "euler_a"}
    answer = await client.images.generate(prompt="a cat", size="64x96", extra_body=extra)
    native = await real.drawn(
        prompt="a cat", width=64, height=96, steps=3, seed=11, negativePrompt="fog", cfgScale=3.5, sampler="euler_a"
    )  # fmt: skip
    ours = pixels_of(answer.data[0].b64_json)
    assert np.array_equal(ours, pixels_of(native["result"]["images"][0]["image"]))


async def test_several_pictures_differ_and_say_their_seeds(client) -> None:
    answer = await client.images.generate(n=2, **SMALL)
    assert [image.model_extra["seed"] for image in answer.data] == [7, 8]
    first, second = (pixels_of(image.b64_json) for image in answer.data)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
async def test_pictures_come_in_the_format_asked_for(client, name) -> None:
    answer = await client.images.generate(output_format=name, **SMALL)
    assert answer.output_format == name
    assert picture_of(answer.data[0].b64_json).format == name.upper()


@pytest.mark.parametrize("name", ["jpeg", "webp"])
async def test_compression_makes_pictures_smaller(client, name) -> None:
    lengths = []
    for compression in (0, 50, None, 100):
        given = {} if compression is None else {"output_compression": compression}
        answer = await client.images.generate(output_format=name, **given, **SMALL)
        lengths.append(len(answer.data[0].b64_json))
    assert lengths == sorted(set(lengths))


async def test_a_blocking_client_gets_its_picture(real: Served) -> None:
    def ask() -> bytes:
        with OpenAI(base_url=f"{real.url}/openai/v1", api_key=KEY) as client:
            return base64.b64decode(client.images.generate(**SMALL).data[0].b64_json)

    assert (await asyncio.to_thread(ask)).startswith(b"\x89PNG")


async def test_null_is_absent(real: Served) -> None:
    names = ["model", "n", "response_format", "quality", "style", "background", "moderation", "output_format"]
    names += [
        "output_compression",
        "stream",
        "partial_images",
        "user",
        "negative_prompt",
        "loras",
        "strength",
    ]
    reply = await real.ask("POST", OPENAI, json={**FIELDS, **dict.fromkeys(names)})
    assert reply.status == 200, reply.body
    assert len(reply.json["data"]) == 1


async def test_what_is_unknown_is_ignored(real: Served) -> None:
    reply = await real.ask(
        "POST", OPENAI, json={**FIELDS, "ref_images": [], "file": "x", "metadata": {"a": 1}}
    )
    assert reply.status == 200


async def test_either_response_format_gives_the_picture_itself(real: Served) -> None:
    for wanted in ("url", "b64_json"):
        reply = await real.ask("POST", OPENAI, json={**FIELDS, "response_format": wanted})
        assert set(reply.json["data"][0]) == {"b64_json", "seed"}


# At the path of the native API


async def test_the_sdk_works_at_the_native_base_url(real: Served) -> None:
    async with sdk(real, "/v1") as client:
        answer = await client.images.generate(**SMALL)
    assert picture_of(answer.data[0].b64_json).size == (64, 64)


async def test_the_sdk_is_known_also_where_its_body_says_nothing(real: Served) -> None:
    async with sdk(real, "/v1") as client:
        extra = {"width": 64, "height": 64, "steps": 1, "sampler": "euler"}
        answer = await client.images.generate(prompt="a cat", extra_body=extra)
    assert picture_of(answer.data[0].b64_json).size == (64, 64)


@pytest.mark.parametrize(
    "key",
    ["model", "n", "size", "response_format", "quality", "style", "user", "stream", "partial_images",
     "output_format", "output_compression", "background", "moderation"],
)  # fmt: skip
async def test_a_key_of_openai_tells_even_when_it_is_null(
    quick: Served, scripted: ScriptedGenerator, key: str
) -> None:
    scripted.finish()
    reply = await quick.post({"prompt": "a cat", key: None})
    assert (reply.status, len(reply.json["data"])) == (200, 1)


@pytest.mark.parametrize("key", ["negativePrompt", "cfgScale", "sampler", "count", "modelId", "previews"])
async def test_a_key_of_ours_means_the_native_api(quick: Served, key: str) -> None:
    reply = await quick.post({"prompt": "a cat", "n": 1, key: None})
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "code", "suggestion"}
    assert (await quick.post({"prompt": "a cat", key: None})).status == 201


async def test_errors_at_that_path_have_the_shape_of_who_asks(quick: Served) -> None:
    by_body = await quick.post({"prompt": "a cat", "n": 99})
    header = {"x-stainless-lang": "js", "Content-Type": "application/json"}
    by_header = await quick.ask("POST", GENERATIONS, data=b"{", headers=header)
    for reply in (by_body, by_header):
        assert reply.status == 400
        assert set(reply.json["error"]) == {"message", "type", "param", "code"}


# Clients that exist


async def test_open_webui_gets_what_it_reads(real: Served) -> None:
    asked = {
        "model": "dall-e-2",
        "prompt": "a lighthouse",
        "n": 1,
        "size": "64x64",
        "response_format": "b64_json",
    }
    headers = {"Authorization": "Bearer ", "Content-Type": "application/json", "X-OpenWebUI-User-Id": "1"}
    reply = await real.ask(
        "POST", f"{OPENAI}?api-version=2024-02-01", json={**asked, "steps": 2}, headers=headers
    )
    assert reply.status == 200
    pictures = [image.get("url") or image.get("b64_json") for image in reply.json["data"]]
    assert picture_of(pictures[0]).format == "PNG"
    auto = await real.ask(
        "POST", OPENAI, json={**asked, "size": "auto", "width": 64, "height": 64, "steps": 1}
    )
    assert auto.json["size"] == "64x64"


async def test_a_client_that_goes_away_cancels_its_generation(real: Served, client) -> None:
    slow = {"prompt": "a cat", "size": "512x512", "extra_body": {"steps": 500}}
    asking = asyncio.create_task(client.images.generate(**slow))
    while real.service.current is None:
        assert not asking.done()
        await asyncio.sleep(0.01)
    generation_id = real.service.current
    asking.cancel()
    await asyncio.wait([asking])
    ended = await real.service.wait(generation_id)
    assert ended.status == "cancelled"
    assert (await client.images.generate(**SMALL)).data[0].b64_json


async def test_a_key_draws_once(quick: Served, scripted: ScriptedGenerator) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"prompt": "a cat"}
    first = asyncio.create_task(quick.ask("POST", OPENAI, json=body, headers=headers))
    while not scripted.requests:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(quick.ask("POST", OPENAI, json=body, headers=headers))
    while len(quick.server._runner.server.connections) < 2:
        await asyncio.sleep(0.01)
    scripted.finish()
    replies = [await first, await second]
    assert [reply.headers.get("Idempotency-Replayed") for reply in replies] == [None, "true"]
    assert replies[0].json["data"] == replies[1].json["data"]
    assert replies[0].headers["x-request-id"] == replies[1].headers["x-request-id"]
    assert len(scripted.requests) == 1
    other = await quick.ask("POST", OPENAI, json={"prompt": "a dog"}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_key_reused")


async def test_a_request_draws_one_picture_whatever_the_servers_own_number_is(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    quick.service._count = 4
    scripted.finish()
    await quick.ask("POST", OPENAI, json={"prompt": "a cat"})
    assert scripted.requests[0].count == 1


# Models


async def test_models_are_listed_and_found(real: Served, client) -> None:
    listed = [model async for model in client.models.list()]
    assert "demo" in [model.id for model in listed]
    assert {(model.object, model.owned_by) for model in listed} == {("model", "local")}
    raw = (await real.get("/openai/v1/models")).json
    assert raw["object"] == "list"
    assert raw["data"][0]["name"] == raw["data"][0]["id"]
    async with sdk(real, "/v1") as native:
        for each in (client, native):
            assert (await each.models.retrieve("demo")).id == "demo"
    reply = await real.get("/v1/models/demo")
    schemas.ModelBody.model_validate(reply.json)
    assert reply.json in (await real.get("/v1/models")).json["data"]


@pytest.mark.parametrize("name", ["dall-e-2", "dall-e-3", "gpt-image-1", "chatgpt-image-latest", "", "demo"])
async def test_names_that_mean_the_current_model(client, name) -> None:
    answer = await client.images.generate(model=name, prompt="a cat", size="64x64", extra_body={"steps": 1})
    assert len(answer.data) == 1


async def test_the_body_is_read_as_the_sdk_wrote_it() -> None:
    """The exact body of a stream, as it was seen on the wire."""
    from sdmanager.server.openai.order import Operation, order_of

    order = order_of(
        json.loads('{"model":"m","stream":true,"prompt":"a cat","partial_images":2}'), Operation.GENERATION
    )
    assert (order.model, order.stream, order.partial_images) == ("m", True, 2)
    assert order.fields == {"prompt": "a cat", "preset": "default", "count": 1}
