"""What goes wrong, as the SDK sees it: codes, fields, and whether it tries again."""

from __future__ import annotations

import io
import json
import logging

import aiohttp
import openai
import pytest
from openai_sdk import KEY, SMALL, failing, sdk
from scripted_generator import ScriptedGenerator, progress
from serving import GENERATIONS, Served, serving
from sse_client import soon
from yarl import URL

from sdmanager.errors import (
    BlankImageError,
    EngineOutOfMemoryError,
    GenerationCancelledError,
    GenerationNotFoundError,
    InsufficientResourcesError,
    ModelNotInstalledError,
    ModelUnsupportedError,
    SDManagerError,
    ServerBusyError,
    ServerNotRunningError,
    StorageError,
    UnauthorizedError,
)
from sdmanager.server.openai.errors import openai_error, openai_failure
from sdmanager.settings import Settings

OPENAI = "/openai/v1/images/generations"


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (ServerBusyError("x"), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (UnauthorizedError("x"), 401, "authentication_error", None, "invalid_api_key"),
        (ModelNotInstalledError("x"), 404, "invalid_request_error", "model", "model_not_found"),
        (ServerNotRunningError("x"), 503, "server_error", None, "server_not_running"),
        (BlankImageError("x"), 500, "server_error", None, "image_blank"),
        (GenerationNotFoundError("x"), 404, "invalid_request_error", None, "not_found"),
    ],
)
def test_an_error_is_one_of_openais(error: SDManagerError, status, kind, param, code) -> None:
    response = openai_error(error)
    assert response.status == status
    body = json.loads(response.body)["error"]
    assert (body["type"], body["param"], body["code"]) == (kind, param, code)
    assert body["message"] == ("x" if error.hint is None else f"x {error.hint}")
    assert openai_error(error, {"Allow": "GET"}, status=418).status == 418


def test_every_error_has_a_shape() -> None:
    kinds = [SDManagerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        body = openai_failure(kind("x"))
        assert set(body) == {"message", "type", "param", "code"}
        assert body["code"] == str(body["code"]).lower()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"size": "large"}, "size", "invalid_value"),
        ({"size": "100x64"}, "size", "invalid_value"),
        ({"size": "64x99999"}, "size", "invalid_value"),
        ({"size": 512}, "size", "invalid_type"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"response_format": "file"}, "response_format", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 101}, "output_compression", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"partial_images": 4, "stream": True}, "partial_images", "invalid_value"),
        ({"model": ["demo"]}, "model", "invalid_type"),
        ({"user": 7}, "user", "invalid_type"),
        ({"steps": "many"}, "steps", "invalid_value"),
        ({"step": 0}, "step", "invalid_value"),
        ({"cfg_scale": 51}, "cfg_scale", "invalid_value"),
        ({"cfgScale": 51}, "cfgScale", "invalid_value"),
        ({"sampler_name": 3}, "sampler_name", "invalid_value"),
        ({"loras": "x"}, "loras", "invalid_value"),
        ({"loras": [{"nme": "x"}]}, "loras", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ["a", "cat"]}, "prompt", "invalid_value"),
    ],
)
async def test_a_wrong_field_is_named_as_the_client_names_it(scripted_client, fields, param, code) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await scripted_client.post("/images/generations", body={"prompt": "a cat", **fields}, cast_to=object)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    if param not in {"size", "background"} and "loras" not in fields:
        assert param in str(error) or "prompt" in str(error)
    assert "cfgScale" not in str(error) or param == "cfgScale"
    assert scripted_client.posts == 1


@pytest.mark.parametrize("name", ["flux-pro", "../demo", "/etc/passwd", "de\0mo", "x" * 3000])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_is_not_there(client, name, stream) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.images.generate(model=name, stream=stream, **SMALL)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert name not in str(caught.value)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("flux-pro")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampler": "no such"}, "sampler"),
        ({"sampler_name": "no such"}, "sampler_name"),
        ({"scheduler": "no such"}, "scheduler"),
        ({"loras": [{"name": "no such"}]}, "loras"),
        ({"loras": [{"name": "../no such"}]}, "loras"),
        ({"prompt": "a cat <lora:no such:1>"}, "prompt"),
        ({"prompt": "a cat <lora:x:heavy>"}, "prompt"),
        ({"prompt": "a <lora:x<lora:x:1>:1>"}, "prompt"),
        ({"prompt": "<lora:x:1>" * 99}, "prompt"),
        ({"prompt": f"<lora:{'x' * 2000}"}, "prompt"),
    ],
)
async def test_what_the_engine_does_not_know_is_refused_at_once_and_named(client, fields, param) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/images/generations", body={"prompt": "a cat", **fields}, cast_to=object)
    error = caught.value
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, "invalid_value")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineOutOfMemoryError("Memory ran out."), 500),
        (InsufficientResourcesError("It does not fit."), 503),
        (ModelUnsupportedError("Unknown."), 422),
        (StorageError("Full."), 500),
        (RuntimeError("a mistake of ours"), 500),
    ],
)
async def test_a_generation_that_fails_is_not_drawn_again(
    scripted: ScriptedGenerator, scripted_client, quick: Served, error, status
) -> None:
    scripted.finish(error)
    with pytest.raises(openai.APIStatusError) as caught:
        await scripted_client.images.generate(prompt="a cat")
    assert (caught.value.status_code, scripted_client.posts) == (status, 1)
    assert len(scripted.requests) == 1
    (drawn,) = quick.service.registry.list()
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.request_id == drawn.id
    assert "a mistake of ours" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError("a path of ours"), ValueError("a path of ours")])
async def test_a_picture_that_cannot_be_sent_is_not_drawn_again(
    quick: Served, scripted: ScriptedGenerator, scripted_client, monkeypatch, caplog, error
) -> None:
    monkeypatch.setattr("sdmanager.server.openai.answers.final_picture", failing(error))
    scripted.finish()
    with pytest.raises(openai.InternalServerError) as caught:
        await scripted_client.images.generate(prompt="a cat")
    (drawn,) = quick.service.registry.list()
    assert (caught.value.request_id, scripted_client.posts) == (drawn.id, 1)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "a path of ours" not in str(caught.value)
    assert "could not be made" in caplog.text


async def test_a_generation_that_somebody_cancels_is_not_drawn_again(
    scripted: ScriptedGenerator, scripted_client
) -> None:
    scripted.finish(GenerationCancelledError("It was cancelled."))
    with pytest.raises(openai.ConflictError) as caught:
        await scripted_client.images.generate(prompt="a cat")
    assert (caught.value.code, scripted_client.posts) == ("cancelled", 1)


async def test_a_busy_server_is_asked_again_when_it_says(
    quick: Served, scripted: ScriptedGenerator, scripted_client
) -> None:
    generation_id = await quick.begin()
    scripted.tell(progress(1, eta=0.5))
    await soon(lambda: quick.service.get(generation_id).progress.eta_seconds == 0.5)
    with pytest.raises(openai.RateLimitError) as caught:
        await scripted_client.images.generate(prompt="a cat")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert caught.value.response.headers["Retry-After"] == "1"
    assert scripted_client.posts == 3


async def test_however_long_it_takes_a_client_is_never_sent_away_for_longer_than_it_waits(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    generation_id = await quick.begin()
    scripted.tell(progress(1, eta=5000.0))
    await soon(lambda: quick.service.get(generation_id).progress.eta_seconds == 5000.0)
    reply = await quick.ask("POST", OPENAI, json={"prompt": "a cat"})
    assert (reply.status, reply.headers["Retry-After"]) == (429, "120")
    assert "x-should-retry" not in reply.headers


# The door


async def test_the_key_of_a_client_is_the_token_of_the_server(
    scripted: ScriptedGenerator, home: Settings
) -> None:
    policy = {"token": "tt-a-token-that-is-long-enough"}
    async with serving(scripted, home.generations_dir, policy=policy) as served:
        async with sdk(served) as stranger:
            with pytest.raises(openai.AuthenticationError) as caught:
                await stranger.images.generate(prompt="a cat")
            assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
            assert stranger.posts == 1
        async with sdk(served, api_key=policy["token"]) as friend:
            scripted.finish()
            assert (await friend.images.generate(prompt="a cat")).data


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", OPENAI, {}, 405),
        ("GET", "/openai/v1/nothing", {}, 404),
        ("POST", "/openai/v1/chat/completions", {"json": {}}, 404),
        ("POST", OPENAI, {"data": b"a=b", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", OPENAI, {"json": {}, "headers": {"Origin": "http://evil.invalid"}}, 403),
        (
            "POST",
            OPENAI,
            {
                "data": b'{"prompt": "%s"}' % (b"x" * (3 << 19)),
                "headers": {"Content-Type": "application/json"},
            },
            413,
        ),
        ("POST", OPENAI, {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", OPENAI, {"data": b"[]", "headers": {"Content-Type": "application/json"}}, 400),
    ],
)
async def test_the_door_speaks_openai_there(quick: Served, method, path, options, status) -> None:
    if isinstance(data := options.get("data"), bytes):
        options = {**options, "data": io.BytesIO(data)}
    reply = await quick.ask(method, path, **options)
    assert reply.status == status
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert reply.json["error"]["type"] == "invalid_request_error"


SDK = {"x-stainless-lang": "js"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "speaks"),
    [
        ("POST", GENERATIONS, {**SDK, "Content-Type": "text/plain"}, 415, True),
        ("POST", GENERATIONS, {**SDK, "Origin": "http://evil.invalid"}, 403, True),
        ("POST", f"/{GENERATIONS}", {**SDK, "Origin": "http://evil.invalid"}, 403, True),
        ("GET", "/v1/models/none", SDK, 404, True),
        ("GET", f"{GENERATIONS}/none", SDK, 404, False),
        ("GET", "/v1/info", {**SDK, "Origin": "http://evil.invalid"}, 403, False),
        ("POST", GENERATIONS, {"Origin": "http://evil.invalid"}, 403, False),
        ("GET", "/v1/models/none", {}, 404, False),
    ],
)
async def test_the_door_speaks_openai_to_its_sdks_at_shared_paths(
    quick: Served, method, path, headers, status, speaks
) -> None:
    url = URL(quick.url + path, encoded=True)
    async with (
        aiohttp.ClientSession() as client,  # without a base: older aiohttp joins what is whole already
        client.request(method, url, headers=headers, data=b"{}" if method == "POST" else None) as reply,
    ):
        assert reply.status == status
        assert ("type" in (await reply.json())["error"]) is speaks


async def test_the_sdk_reads_its_errors_at_the_native_base_url(
    scripted: ScriptedGenerator, home: Settings
) -> None:
    policy = {"token": "tt-a-token-that-is-long-enough"}
    async with (
        serving(scripted, home.generations_dir, policy=policy) as served,
        sdk(served, "/v1") as stranger,
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            await stranger.images.generate(prompt="a cat")
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")


async def test_credentials_are_neither_logged_nor_echoed(real: Served, caplog) -> None:
    caplog.set_level(logging.DEBUG, "sdmanager")
    secret = "sk-credential-in-a-body"
    extra = {"api_key": secret, "auth": secret, "steps": 1}
    for fields in (
        {"user": secret, "size": "64x64"},
        {"model": secret},
        {"size": secret},
        {"quality": secret},
    ):
        body = {"prompt": "a cat", **extra, **fields}
        reply = await real.ask("POST", OPENAI, json=body, headers={"Authorization": f"Bearer {KEY}"})
        assert reply.status in {200, 400, 404}
        assert secret.encode() not in reply.body
        assert KEY.encode() not in reply.body
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("sdmanager"))
    assert secret not in ours
    assert KEY not in ours


async def test_the_native_api_keeps_its_own_errors(quick: Served) -> None:
    reply = await quick.post({"prompt": ""})
    assert reply.json["error"]["code"] == "INVALID_REQUEST"
    assert (await quick.get(f"{GENERATIONS}/none")).json["error"]["code"] == "NOT_FOUND"
