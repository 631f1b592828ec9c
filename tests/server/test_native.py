"""The native routes over real HTTP, with the real engine for every flow; a scripted generator where moments matter."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import socket

import aiohttp
import pytest
from PIL import Image
from results import Clock
from scripted_generator import ScriptedGenerator, progress, result_of
from serving import GENERATIONS, Served, serving

from sdmanager.engine import LocalGenerator
from sdmanager.errors import EngineCrashedError
from sdmanager.server import schemas
from sdmanager.settings import Settings

SMALL = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2}


@pytest.fixture
async def real(settings: Settings):
    async with LocalGenerator(settings=settings) as generator:
        await generator.prepare()
        async with serving(generator, settings.generations_dir) as served:
            yield served


@pytest.fixture
def scripted() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
async def quick(scripted: ScriptedGenerator, home: Settings):
    async with serving(scripted, home.generations_dir) as served:
        yield served


@pytest.fixture
async def queue(scripted: ScriptedGenerator, home: Settings):
    async with serving(scripted, home.generations_dir, queue_size=2) as served:
        yield served


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def picture(size=(64, 64), colour="navy", kind="PNG") -> bytes:
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste(colour, (0, 0, size[0] // 2, size[1]))
    image.save(buffer, kind)
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


# With the real engine


async def test_text_to_image_from_the_post_to_the_picture(real: Served) -> None:
    reply = await real.post({**SMALL, "seed": 7})
    assert reply.status == 201
    accepted = reply.json
    schemas.Accepted.model_validate(accepted)
    assert accepted["status"] == "pending"
    assert reply.headers["Location"] == f"{GENERATIONS}/{accepted['id']}"

    body = await real.until(accepted["id"])
    schemas.GenerationBody.model_validate(body)
    assert body["status"] == "complete"
    assert body["createdAt"] == accepted["createdAt"] <= body["updatedAt"]
    result = body["result"]
    (image,) = result["images"]
    assert (image["seed"], image["width"], image["height"], result["format"]) == (7, 64, 64, "png")
    assert decoded(image["image"]).size == (64, 64)
    assert isinstance(result["timeTaken"], int)
    assert result["timeTaken"] >= result["timings"]["diffusion"] > 0
    assert (result["model"], result["variant"]) == ("demo", "cpu")


async def test_progress_is_seen_while_polling_and_never_falls(real: Served) -> None:
    generation_id = await real.begin(width=128, height=128, steps=12)
    seen = []
    while (body := await real.state(generation_id))["status"] != "complete":
        schemas.GenerationBody.model_validate(body)
        assert body["status"] == "in_progress", body
        assert "result" not in body
        if "progress" in body:
            seen.append(body["progress"])
        await asyncio.sleep(0.02)
    assert {"loading", "diffusion"} & {shown["stage"] for shown in seen}
    percentages = [shown["percentage"] for shown in seen]
    assert percentages == sorted(percentages)
    assert percentages[0] < 100


async def test_several_images_have_seeds_in_a_row_and_files_of_their_own(real: Served) -> None:
    body = await real.drawn(count=3, seed=41)
    images = body["result"]["images"]
    assert [image["seed"] for image in images] == [41, 42, 43]
    assert len({image["image"] for image in images}) == 3
    for number, image in enumerate(images):
        reply = await real.get(f"{GENERATIONS}/{body['id']}/images/{number}")
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "image/png"
        assert reply.body == base64.b64decode(image["image"])
        again = await real.get(
            f"{GENERATIONS}/{body['id']}/images/{number}", headers={"If-None-Match": reply.headers["ETag"]}
        )
        assert (again.status, again.body) == (304, b"")
    for other in ("3", "-1", "00", "x", "1.0", "\u0660"):
        reply = await real.get(f"{GENERATIONS}/{body['id']}/images/{other}")
        assert (reply.status, reply.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize("form", [False, True])
async def test_image_to_image_starts_from_the_picture(real: Served, form: bool) -> None:
    fields = {**SMALL, "width": 96, "strength": 0.5, "seed": 3}
    plain = await real.drawn(**fields)
    if form:
        data = aiohttp.FormData({name: str(value) for name, value in fields.items()})
        data.add_field("initImage", picture((96, 64)), filename="in.png", content_type="image/png")
        reply = await real.ask("POST", GENERATIONS, data=data)
    else:
        reply = await real.post({**fields, "initImage": text_of(picture((96, 64)))})
    assert reply.status == 201, reply.body
    (image,) = (await real.until(reply.json["id"]))["result"]["images"]
    assert decoded(image["image"]).size == (96, 64)
    assert image["image"] != plain["result"]["images"][0]["image"]


async def test_inpainting_looks_at_the_mask(real: Served) -> None:
    fields = {
        "steps": 3,
        "seed": 5,
        "strength": 0.9,
        "initImage": f"data:image/png;base64,{text_of(picture())}",
    }
    whole = await real.drawn(**fields)
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (32, 0, 64, 64))
    buffer = io.BytesIO()
    half.save(buffer, "PNG")
    masked = await real.drawn(**fields, maskImage=text_of(buffer.getvalue()))
    assert masked["status"] == "complete", masked
    assert masked["result"]["images"][0]["image"] != whole["result"]["images"][0]["image"]


async def test_cancelling_what_is_drawn_ends_it_and_its_engine(real: Served) -> None:
    generation_id = await real.begin(width=512, height=512, steps=1000)
    while "progress" not in (body := await real.state(generation_id)):
        assert body["status"] == "in_progress"
    for _ in range(2):  # the second is told the same
        reply = await real.ask("DELETE", f"{GENERATIONS}/{generation_id}")
        assert (reply.status, reply.json) == (200, {"id": generation_id, "status": "cancelled"})
        schemas.CancelledBody.model_validate(reply.json)
    assert not real.service.busy
    assert (await real.state(generation_id))["status"] == "cancelled"
    assert (await real.drawn())["status"] == "complete"  # the place is free


async def test_what_the_engine_cannot_do_is_refused_before_it_is_taken(real: Served) -> None:
    reply = await real.post({**SMALL, "sampler": "no_such_sampler"})
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert (await real.get(GENERATIONS)).json == {"generations": []}


async def test_a_client_that_leaves_does_not_end_what_it_asked_for(real: Served) -> None:
    async with aiohttp.ClientSession(real.url) as leaving, leaving.post(GENERATIONS, json=SMALL) as response:
        generation_id = (await response.json())["id"]
    assert (await real.until(generation_id))["status"] == "complete"


async def test_a_client_that_cuts_the_connection_while_it_cancels_cancels(real: Served) -> None:
    generation_id = await real.begin(width=512, height=512, steps=1000)
    _, writer = await asyncio.open_connection("127.0.0.1", real.server.port)
    writer.write(
        f"DELETE {GENERATIONS}/{generation_id} HTTP/1.1\r\nHost: 127.0.0.1:{real.server.port}\r\n\r\n".encode()
    )
    await writer.drain()
    writer.transport.abort()
    assert (await real.until(generation_id))["status"] == "cancelled"


# One at a time, and queues


async def test_of_two_posts_at_once_exactly_one_is_taken(quick: Served, scripted: ScriptedGenerator) -> None:
    replies = await asyncio.gather(*(quick.post(SMALL) for _ in range(2)))
    assert sorted(reply.status for reply in replies) == [201, 503]
    (refused,) = [reply for reply in replies if reply.status == 503]
    assert refused.code == "SERVER_BUSY"
    assert refused.json["error"]["suggestion"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await quick.get("/health")).json == {"status": "ok", "busy": True}
    scripted.finish()
    (taken,) = [reply for reply in replies if reply.status == 201]
    await quick.until(taken.json["id"])
    assert (await quick.get("/health")).json == {"status": "ok", "busy": False}
    assert len(scripted.requests) == 1


async def test_retry_after_is_what_the_generation_in_hand_needs(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    generation_id = await quick.begin()
    scripted.tell(progress(1, eta=41.2))
    while "progress" not in (await quick.state(generation_id)):
        pass
    while (await quick.state(generation_id))["progress"].get("etaSeconds") is None:
        pass
    assert (await quick.post(SMALL)).headers["Retry-After"] == "42"


async def test_a_queue_shows_places_and_moves_up(queue: Served, scripted: ScriptedGenerator) -> None:
    first, second, third = [await queue.begin() for _ in range(3)]
    assert "queuePosition" not in await queue.state(first)
    assert [(await queue.state(name))["queuePosition"] for name in (second, third)] == [1, 2]
    assert (await queue.state(third))["status"] == "pending"
    assert (await queue.post(SMALL)).code == "SERVER_BUSY"
    scripted.finish()
    assert (await queue.until(first))["status"] == "complete"
    assert (await queue.until(second, "in_progress"))["status"] == "in_progress"
    assert (await queue.state(third))["queuePosition"] == 1


async def test_cancelling_what_waits_lets_the_others_move_up(
    queue: Served, scripted: ScriptedGenerator
) -> None:
    _, second, third = [await queue.begin() for _ in range(3)]
    reply = await queue.ask("DELETE", f"{GENERATIONS}/{second}")
    assert reply.json == {"id": second, "status": "cancelled"}
    assert (await queue.state(third))["queuePosition"] == 1
    assert len(scripted.requests) == 1


async def test_what_has_ended_cannot_be_cancelled(quick: Served, scripted: ScriptedGenerator) -> None:
    scripted.finish()
    done = await quick.drawn()
    scripted.finish(EngineCrashedError("The engine crashed."))
    failed = await quick.drawn()
    for body in (done, failed):
        reply = await quick.ask("DELETE", f"{GENERATIONS}/{body['id']}")
        assert (reply.status, reply.code) == (409, "ALREADY_TERMINAL")


async def test_a_failed_generation_shows_its_error(quick: Served, scripted: ScriptedGenerator) -> None:
    scripted.finish(EngineCrashedError("The engine crashed.", hint="Try again."))
    body = await quick.drawn()
    schemas.GenerationBody.model_validate(body)
    assert body["status"] == "error"
    assert body["error"] == {
        "message": "The engine crashed.",
        "code": "ENGINE_CRASHED",
        "suggestion": "Try again.",
    }


async def test_the_list_has_all_without_their_pictures(queue: Served, scripted: ScriptedGenerator) -> None:
    ids = [await queue.begin() for _ in range(3)]
    body = (await queue.get(GENERATIONS)).json
    schemas.GenerationList.model_validate(body)
    assert [entry["id"] for entry in body["generations"]] == ids
    assert [entry["status"] for entry in body["generations"]] == ["in_progress", "pending", "pending"]


@pytest.mark.parametrize("path", ["nothing", "nothing/images/0", "gen_" + "0" * 32])
async def test_unknown_ids_are_not_found(quick: Served, path: str) -> None:
    reply = await quick.get(f"{GENERATIONS}/{path}")
    assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_expired_results_are_not_found(scripted: ScriptedGenerator, home: Settings) -> None:
    clock = Clock()
    async with serving(scripted, home.generations_dir, clock=clock) as served:
        scripted.finish()
        body = await served.drawn()
        clock.now += 301
        for path in ("", "/images/0"):
            reply = await served.get(f"{GENERATIONS}/{body['id']}{path}")
            assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_results_whose_files_are_gone_are_not_found(
    quick: Served, scripted: ScriptedGenerator, home: Settings
) -> None:
    scripted.finish()
    body = await quick.drawn()
    files = list(home.generations_dir.rglob("*.png"))
    assert files
    for file in files:
        file.unlink()
    for path in ("", "/images/0"):
        reply = await quick.get(f"{GENERATIONS}/{body['id']}{path}")
        assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_pictures_that_are_kept_in_memory_are_served_too(scripted: ScriptedGenerator) -> None:
    async with serving(scripted) as served:
        scripted.finish(result_of(2))
        body = await served.drawn(count=2)
        replies = [await served.get(f"{GENERATIONS}/{body['id']}/images/{n}") for n in range(2)]
        assert [reply.body for reply in replies] == [
            base64.b64decode(image["image"]) for image in body["result"]["images"]
        ]
        assert len({reply.headers["ETag"] for reply in replies}) == 2


async def test_a_part_of_a_picture_can_be_asked_for(quick: Served, scripted: ScriptedGenerator) -> None:
    scripted.finish()
    path = f"{GENERATIONS}/{(await quick.drawn())['id']}/images/0"
    part = await quick.get(path, headers={"Range": "bytes=1-3"})
    assert (part.status, part.body) == (206, b"PNG")


# Idempotency keys


async def test_a_repeated_key_is_answered_with_the_first_generation(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    first = await quick.post(SMALL, headers={"Idempotency-Key": "k"})
    assert "Idempotency-Replayed" not in first.headers
    scripted.finish()
    await quick.until(first.json["id"])
    again = await quick.post(SMALL, headers={"Idempotency-Key": "k"})
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert len(scripted.requests) == 1


async def test_a_key_with_another_request_is_refused(quick: Served) -> None:
    await quick.post(SMALL, headers={"Idempotency-Key": "k"})
    reply = await quick.post({**SMALL, "steps": 3}, headers={"Idempotency-Key": "k"})
    assert (reply.status, reply.code) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_200_equal_keys_at_once_are_one_generation(quick: Served, scripted: ScriptedGenerator) -> None:
    replies = await asyncio.gather(
        *(quick.post(SMALL, headers={"Idempotency-Key": "same"}) for _ in range(200))
    )
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body for reply in replies}) == 1
    assert sum("Idempotency-Replayed" in reply.headers for reply in replies) == 199
    scripted.finish()
    await quick.until(replies[0].json["id"])
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("keys", [[""], [" "], ["a b"], ["x" * 256], ["ä"], ["a", "a"]])
async def test_keys_that_are_none_are_refused(quick: Served, keys: list[str]) -> None:
    reply = await quick.post(SMALL, headers=[("Idempotency-Key", key) for key in keys])
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("key", ["!", "~" * 255, "5f0f1a0e-0000-4000-8000-000000000000"])
async def test_keys_of_1_to_255_visible_characters_are_taken(quick: Served, key: str) -> None:
    assert (await quick.post(SMALL, headers={"Idempotency-Key": key})).status == 201


# What the server says of itself


async def test_health_has_two_fields(quick: Served) -> None:
    reply = await quick.get("/health")
    assert (reply.status, reply.json) == (200, {"status": "ok", "busy": False})
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_info_and_models(quick: Served) -> None:
    info = (await quick.get("/v1/info")).json
    shown = schemas.ServerInfo.model_validate(info)
    assert (shown.status, shown.model, shown.port) == ("running", "demo", quick.server.port)
    assert "error" not in info  # absent, not null
    models = (await quick.get("/v1/models")).json
    assert models == {
        "object": "list",
        "data": [{"id": "demo", "object": "model", "created": 1_700_000_000, "owned_by": "local"}],
    }


@pytest.mark.parametrize("path", ["/health", "/v1/info", "/v1/models", "/openapi.json", GENERATIONS])
async def test_head_is_get_without_the_body(quick: Served, path: str) -> None:
    full, head = await quick.get(path), await quick.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == full.headers["Content-Length"]


async def test_options_of_every_route_succeeds(quick: Served) -> None:
    for path in ("/health", GENERATIONS, f"{GENERATIONS}/x", "/v1/models"):
        assert (await quick.ask("OPTIONS", path)).status == 204


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/none", 404), ("PUT", "/health", 405)])
async def test_other_paths_and_methods_have_our_errors(
    quick: Served, method: str, path: str, status: int
) -> None:
    reply = await quick.ask(method, path, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.code) == (status, {404: "ROUTE_NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}[status])


async def test_a_service_that_stops_says_so(quick: Served) -> None:
    await quick.service.aclose()
    reply = await quick.post(SMALL)
    assert (reply.status, reply.code) == (503, "SERVER_NOT_RUNNING")


async def test_a_post_that_is_cut_off_leaves_no_trace(
    quick: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_connection(("127.0.0.1", quick.server.port)) as sock:
        sock.sendall(
            f"POST {GENERATIONS} HTTP/1.1\r\nHost: 127.0.0.1:{quick.server.port}\r\n"
            'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"prompt":'.encode()
        )
        await quick.get("/health")
    assert (await quick.get(GENERATIONS)).json == {"generations": []}
    assert not caplog.records
