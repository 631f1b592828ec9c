"""The native routes over real HTTP, with the real engine for every flow; a scripted generator where moments matter."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import socket
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from loras import write_lora
from PIL import Image
from raw_http import exchange
from results import Clock
from scripted_generator import ScriptedGenerator, progress, result_of
from serving import GENERATIONS, Served, serving
from sse_client import peers, soon

from sdmanager.errors import EngineCrashedError
from sdmanager.server import native, pictures, schemas
from sdmanager.settings import Settings

SMALL = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2}


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def picture(size=(64, 64), colour="navy", kind="PNG", right=None) -> bytes:
    """Of one colour on the left, and of another or a gradient on the right."""
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste(colour, (0, 0, size[0] // 2, size[1]))
    if right is not None:
        image.paste(right, (size[0] // 2, 0, *size))
    image.save(buffer, kind)
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(body: dict) -> np.ndarray:
    """The first picture of a generation that is complete: rows, columns, colours."""
    assert body["status"] == "complete", body
    image = decoded(body["result"]["images"][0]["image"])
    return np.asarray(image.convert("RGB"), dtype=float)


async def pixels_of(served: Served, **fields: object) -> np.ndarray:
    """What becomes of a request."""
    return pixels(await served.drawn(**fields))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean over all pixels and colours, 0 to 255."""
    return float(np.abs(one - other).mean())


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


# The demo model's autoencoder is random: a picture comes out of it far from what went in. So "close to the init image"
# means close to what the engine makes of it at strength 0, with no noise and no step.


async def test_image_to_image_goes_as_far_from_the_picture_as_strength_says(real: Served) -> None:
    fields = {"steps": 10, "initImage": text_of(picture())}
    untouched = await pixels_of(real, **fields, strength=0, seed=3)
    assert difference(untouched, await pixels_of(real, **fields, strength=0, seed=4)) < 1
    near, half, far = [await pixels_of(real, **fields, strength=s, seed=3) for s in (0.1, 0.5, 1)]
    assert difference(near, untouched) < difference(half, untouched) < difference(far, untouched)
    assert 3 * difference(near, untouched) < difference(far, untouched)


async def test_of_the_picture_strength_0_keeps_all_and_strength_1_nothing(real: Served) -> None:
    black, white = [text_of(picture(colour=colour, right=colour)) for colour in ("black", "white")]
    fields = {"steps": 4, "seed": 3}
    for strength, least, most in ((0, 5, 255), (1, 0, 0.5)):
        one, other = [
            await pixels_of(real, **fields, strength=strength, initImage=init) for init in (black, white)
        ]
        assert least <= difference(one, other) <= most, strength


async def test_a_form_with_a_file_is_the_same_request(real: Served) -> None:
    fields = {**SMALL, "width": 96, "steps": 4, "strength": 0.3, "seed": 3}
    plain = await pixels_of(real, **{name: value for name, value in fields.items() if name != "strength"})
    data = aiohttp.FormData({name: str(value) for name, value in fields.items()})
    data.add_field("initImage", picture((96, 64)), filename="in.png", content_type="image/png")
    reply = await real.ask("POST", GENERATIONS, data=data)
    assert reply.status == 201, reply.body
    drawn = pixels(await real.until(reply.json["id"]))
    assert drawn.shape == (64, 96, 3)
    assert difference(drawn, await pixels_of(real, **fields, initImage=text_of(picture((96, 64))))) == 0
    assert difference(drawn, plain) > 5


@pytest.mark.parametrize("white", ["left", "right"])
async def test_inpainting_redraws_what_is_white_in_the_mask_and_keeps_the_rest(
    real: Served, white: str
) -> None:
    fields = {"steps": 4, "seed": 5, "initImage": f"data:image/png;base64,{text_of(picture())}"}
    colours = ("white", "black") if white == "left" else ("black", "white")
    mask = text_of(picture(colour=colours[0], right=colours[1]))
    init = await pixels_of(real, **fields, strength=0)
    drawn = await pixels_of(real, **fields, strength=1, maskImage=mask)
    of = {"left": slice(0, 32), "right": slice(32, 64)}
    redrawn, kept = of.pop(white), *of.values()
    # The engine keeps in the latent, and its decoder lets each part of a picture colour the others somewhat.
    assert 2 * difference(drawn[:, kept], init[:, kept]) < difference(drawn[:, redrawn], init[:, redrawn])
    everything = await pixels_of(real, **fields, strength=1)
    assert 2 * difference(drawn[:, kept], init[:, kept]) < difference(everything[:, kept], init[:, kept])
    assert 2 * difference(drawn[:, redrawn], everything[:, redrawn]) < difference(
        init[:, redrawn], everything[:, redrawn]
    )


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


@pytest.mark.parametrize("becomes", ["nothing", "a folder"])
async def test_a_file_that_goes_at_the_last_moment_is_an_error_that_is_not_kept(
    quick: Served, scripted: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    def after_the_look(path: Path, **options) -> pictures.Picture:
        path.unlink()
        if becomes == "a folder":
            path.mkdir()
        return pictures.Picture(path, **options)

    scripted.finish()
    path = f"{GENERATIONS}/{(await quick.drawn())['id']}/images/0"
    assert "immutable" in (await quick.get(path)).headers["Cache-Control"]
    monkeypatch.setattr(native, "Picture", after_the_look)
    reply = await quick.get(path)
    assert reply.status >= 400
    assert reply.headers["Cache-Control"] == "no-store"


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


class Reading(socket.socket):
    """A client with as little room for an answer as the system gives."""

    def __init__(self, served: Served, path: str) -> None:
        super().__init__()
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.connect(("127.0.0.1", served.server.port))
        self.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.server.port}\r\n\r\n".encode())


async def test_who_never_reads_a_picture_is_let_go(
    quick: Served,
    scripted: ScriptedGenerator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pictures, "_SECONDS", 0.5)
    scripted.finish()
    done = await quick.drawn()
    source = quick.service.get(done["id"]).result.image.source
    source.write_bytes(bytes(20_000_000))
    with Reading(quick, f"{GENERATIONS}/{done['id']}/images/0") as stuck:
        port = stuck.getsockname()[1]
        await soon(lambda: port in peers(quick))
        await soon(lambda: port not in peers(quick))
    assert (await quick.get("/health")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Pictures, and a server that has no place for them


def large(**fields: object) -> dict[str, object]:
    return {**SMALL, "initImage": text_of(picture((2000, 2000), kind="BMP")), **fields}


async def test_a_full_server_refuses_a_large_body_without_reading_it(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    await quick.begin()
    for path, framing in (
        (GENERATIONS, f"Content-Length: {40 << 20}"),
        ("/v1/jobs", "Transfer-Encoding: chunked"),
    ):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{quick.server.port}\r\n"
            f"Content-Type: application/json\r\n{framing}\r\n\r\n"
        )
        reply = await exchange(quick.server.port, head.encode())  # and nothing of the body
        assert (reply.status, reply.code) == (503, "SERVER_BUSY")
    assert (await quick.post({**SMALL, "steps": 0})).status == 400  # what is small is read


async def test_a_full_server_decodes_no_pictures(quick: Served, scripted: ScriptedGenerator) -> None:
    await quick.begin()
    for fields in ({"initImage": "no base64"}, {"initImage": text_of(b"no picture")}):
        assert (await quick.post({**SMALL, **fields})).code == "SERVER_BUSY"


async def test_a_large_request_with_a_known_key_is_answered_by_a_full_server(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    first = await quick.post(large(), headers={"Idempotency-Key": "k"})
    again = await quick.post(large(), headers={"Idempotency-Key": "k"})
    assert (again.status, again.json["id"], again.json["status"]) == (201, first.json["id"], "in_progress")
    other = await quick.post(large(steps=3), headers={"Idempotency-Key": "k"})
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await quick.post(large())).code == "SERVER_BUSY"


async def test_pictures_are_decoded_one_request_at_a_time(
    scripted: ScriptedGenerator, home: Settings
) -> None:
    async with serving(scripted, home.generations_dir, queue_size=20) as served:
        async with served.face.decoding:
            waiting = [
                asyncio.create_task(served.post({**SMALL, "initImage": text_of(picture())}))
                for _ in range(20)
            ]
            await soon(lambda: len(served.face.decoding._waiters or ()) == 20)
            assert (await served.post(SMALL)).status == 201  # without a picture nothing is waited for
        assert {(await task).status for task in waiting} == {201}


async def test_a_server_that_stops_does_not_wait_for_pictures(quick: Served) -> None:
    await quick.face.decoding.acquire()  # for good: who waits for it must be let go
    clients = [asyncio.create_task(quick.post(large())) for _ in range(20)]
    await soon(lambda: len(quick.face.decoding._waiters or ()) == 20)
    async with asyncio.timeout(60):
        await quick.server.aclose()
    ended = await asyncio.gather(*clients, return_exceptions=True)
    assert all(isinstance(end, aiohttp.ClientError) for end in ended)


# Idempotency keys


async def test_a_repeated_key_says_how_the_generation_stands(
    queue: Served, scripted: ScriptedGenerator
) -> None:
    first = [await queue.post(SMALL, headers={"Idempotency-Key": key}) for key in ("a", "b")]
    assert [reply.json["status"] for reply in first] == ["pending", "pending"]

    async def again(key: str) -> str:
        reply = await queue.post(SMALL, headers={"Idempotency-Key": key})
        schemas.Accepted.model_validate(reply.json)
        return reply.json["status"]

    assert [await again("a"), await again("b")] == ["in_progress", "pending"]
    await queue.ask("DELETE", f"{GENERATIONS}/{first[1].json['id']}")
    scripted.finish(EngineCrashedError("The engine crashed."))
    await queue.until(first[0].json["id"])
    assert [await again("a"), await again("b")] == ["error", "cancelled"]


async def test_a_repeated_key_is_answered_where_the_request_would_be_refused_now(real: Served) -> None:
    folder = real.service._generator._settings.loras_dir
    write_lora(folder / "detail.safetensors")
    fields = {**SMALL, "prompt": "a <lora:detail:0>"}
    first = await real.post(fields, headers={"Idempotency-Key": "k"})
    assert first.status == 201, first.body
    await real.until(first.json["id"])
    (folder / "detail.safetensors").unlink()
    again = await real.post(fields, headers={"Idempotency-Key": "k"})
    assert (again.status, again.json["id"]) == (201, first.json["id"])
    assert (await real.post(fields)).status == 400


async def test_a_repeated_key_is_answered_with_the_first_generation(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    first = await quick.post(SMALL, headers={"Idempotency-Key": "k"})
    assert "Idempotency-Replayed" not in first.headers
    scripted.finish()
    await quick.until(first.json["id"])
    again = await quick.post(SMALL, headers={"Idempotency-Key": "k"})
    assert (again.status, again.json) == (201, {**first.json, "status": "complete"})
    schemas.Accepted.model_validate(again.json)
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
    assert len({reply.json["id"] for reply in replies}) == 1
    assert sorted({reply.json["status"] for reply in replies}) == ["in_progress", "pending"]
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
        "data": [
            {
                "id": "demo", "object": "model", "created": 0, "owned_by": "local", "name": "demo", "current": True,
                "defaults": {},
            }
        ],
    }  # fmt: skip
    schemas.ModelList.model_validate(models)


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
