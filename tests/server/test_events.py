"""The events of real generations, and the preview while there is one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scripted_generator import preview, progress, replanned, stage
from serving import GENERATIONS, Served, serving
from sse_client import Told, events_of, names, soon, sse

from sdmanager.engine import LocalGenerator
from sdmanager.generation import Preview, Replanned, Stage
from sdmanager.server.words import NativeWords
from sdmanager.settings import Settings

MEDIA = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


async def watched(served: Served, query: str = "", **fields) -> list[Told]:
    """All that a reader sees of a generation."""
    generation_id = await served.begin(**fields)
    async with sse(served.client, events_of(generation_id, query)) as reader:
        return await reader.rest()


def decoded(text: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    picture.load()
    return picture


async def test_a_generation_is_told_from_loading_to_its_picture(real: Served) -> None:
    told = await watched(real, steps=4, seed=7, previews={})
    *before, end = told
    assert set(names(before)) == {"progress", "preview"}
    progresses = [event.data for event in before if event.name == "progress"]
    assert list(dict.fromkeys(data["stage"] for data in progresses)) == [
        "loading",
        "diffusion",
        "decoding",
    ]
    percentages = [data["percentage"] for data in progresses]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    steps = [data["currentStep"] for data in progresses if data["stage"] == "diffusion"]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    ids = [int(event.id) for event in before]
    assert ids == sorted(set(ids))

    assert (end.name, end.id) == ("complete", "end")
    assert {event.data["id"] for event in told} == {end.data["id"]}
    assert end.data["timeTaken"] > 0
    (image,) = end.data["images"]
    assert image == {"url": f"{GENERATIONS}/{end.data['id']}/images/0", "seed": 7, "width": 64, "height": 64}
    picture = await real.get(image["url"])
    assert (picture.status, picture.headers["Content-Type"]) == (200, "image/png")
    Image.open(io.BytesIO(picture.body)).verify()


@pytest.mark.parametrize(
    ("side", "steps", "fewest", "most"), [(64, 1, 1, 1), (256, 4, 2, 4), (64, 50, 4, 10)]
)
async def test_previews_are_fit_for_short_and_long_runs(real: Served, side, steps, fewest, most) -> None:
    told = await watched(real, width=side, height=side, steps=steps, previews={})
    previews = [event.data for event in told if event.name == "preview"]
    assert fewest <= len(previews) <= most  # a busy machine may leave some out, for newer ones
    assert [data["step"] for data in previews] == sorted(data["step"] for data in previews)
    for data in previews:
        assert data["totalSteps"] == steps
        picture = decoded(data["image"])
        assert (picture.format, picture.size) == ("JPEG", (data["width"], data["height"]))


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
async def test_a_preview_has_the_format_that_was_asked_for(real: Served, image_format) -> None:
    told = await watched(real, previews={"format": image_format})
    previews = [event.data for event in told if event.name == "preview"]
    assert {data["format"] for data in previews} == {image_format}
    assert {decoded(data["image"]).format for data in previews} == {image_format.upper()}


async def test_previews_can_come_by_address(real: Served) -> None:
    generation_id = await real.begin(steps=8, previews={})
    fetched = 0
    async with sse(real.client, events_of(generation_id, "?previews=url")) as reader:
        while (event := await reader.next()) is not None:
            if event.name == "preview":
                assert "image" not in event.data
                reply = await real.get(event.data["url"])
                if reply.status == 200:  # or the generation has ended meanwhile
                    fetched += 1
                    assert Image.open(io.BytesIO(reply.body)).size == (
                        event.data["width"],
                        event.data["height"],
                    )
    assert fetched
    assert max(reader.sizes) < 1000


async def test_without_previews_none_come(real: Served) -> None:
    assert "preview" not in names(await watched(real))


async def test_several_pictures_are_told_one_after_the_other(real: Served) -> None:
    told = await watched(real, count=3, seed=5, previews={})
    assert {event.data["currentImage"] for event in told[:-1]} == {1, 2, 3}
    assert {event.data["totalImages"] for event in told[:-1] if event.name == "progress"} == {3}
    assert [image["seed"] for image in told[-1].data["images"]] == [5, 6, 7]
    assert [image["url"][-2:] for image in told[-1].data["images"]] == ["/0", "/1", "/2"]


async def test_cancelling_is_the_last_event(real: Served) -> None:
    generation_id = await real.begin(steps=150, previews={})
    async with sse(real.client, events_of(generation_id)) as reader:
        await reader.until("preview")
        assert (await real.ask("DELETE", f"{GENERATIONS}/{generation_id}")).status == 200
        end = (await reader.rest())[-1]
    assert (end.name, end.id, end.data) == ("cancelled", "end", {"id": generation_id})


async def test_an_engine_that_crashes_is_an_event_with_a_code(
    settings: Settings, fake_engine: Path, monkeypatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "segv@diffusion")
    broken = settings.with_engine(fake_engine)
    async with (
        LocalGenerator(settings=broken) as generator,
        serving(generator, settings.generations_dir) as served,
    ):
        end = (await watched(served))[-1]
    assert (end.name, end.id, end.data["code"]) == ("error", "end", "ENGINE_CRASHED")
    assert end.data["message"]
    assert end.data["suggestion"]


async def test_previews_that_cannot_be_read_cost_no_picture(
    settings: Settings, fake_engine: Path, monkeypatch
) -> None:
    """The scripted engine draws its picture and writes no preview, whatever it is asked for."""
    monkeypatch.setenv("FAKE_ENGINE", "draws")
    async with (
        LocalGenerator(settings=settings.with_engine(fake_engine)) as generator,
        serving(generator, settings.generations_dir) as served,
    ):
        told = await watched(served, previews={})
    assert "preview" not in names(told)
    assert told[-1].name == "complete"


async def test_readers_that_never_read_do_not_keep_the_engine(real: Served) -> None:
    fields = {"steps": 8, "previews": {"format": "png"}}
    alone = (await watched(real, **fields))[-1].data["timeTaken"]
    generation_id = await real.begin(**fields)
    socks = [await _deaf(real, events_of(generation_id)) for _ in range(50)]
    try:
        async with sse(real.client, events_of(generation_id)) as reader:
            end = (await reader.rest())[-1]
    finally:
        for writer in socks:
            writer.transport.abort()
    assert end.name == "complete"
    assert end.data["timeTaken"] < 10 * alone + 10_000


async def _deaf(served: Served, path: str) -> asyncio.StreamWriter:
    _reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port, limit=1)
    writer.transport.pause_reading()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.server.port}\r\n\r\n".encode())
    await writer.drain()
    return writer


# Room for it


async def test_making_room_and_another_try_are_told(quick: Served, scripted) -> None:
    room = replace(progress(0, 0, None), stage=Stage.OFFLOADING, percentage=0.0)
    generation_id = await quick.begin()
    scripted.tell(stage(Stage.OFFLOADING), room)
    await soon(lambda: quick.service.get(generation_id).progress.stage is Stage.OFFLOADING)
    shown = json.loads((await quick.get(f"{GENERATIONS}/{generation_id}")).body)["progress"]
    assert (shown["stage"], shown["currentStep"], shown["percentage"]) == ("offloading", 0, 0)

    scripted.tell(stage(Stage.LOADING), progress(1), replanned("It ran out of memory."))
    feed = quick.service.feed(generation_id)
    await soon(lambda: any(isinstance(item.event, Replanned) for item in feed.since(0)))
    words = NativeWords(quick.service, inline=True)
    told = [words.word(item.event, item.number, feed) for item in feed.since(0)]
    names = [each[0] for each in told if each is not None]
    assert names.count("replanned") == 1
    stages = [each[1]["stage"] for each in told if each is not None and each[0] == "progress"]
    assert stages.count("offloading") == 1
    (again,) = [each[1] for each in told if each is not None and each[0] == "replanned"]
    assert again == {
        "id": generation_id,
        "plan": {"flags": ["--vae-tiling"], "evictions": [], "reasons": ["Tiles take less."]},
        "reason": "It ran out of memory.",
    }
    scripted.finish()


# The preview by itself


async def test_the_preview_is_there_while_the_picture_forms(quick: Served, scripted) -> None:
    generation_id = await quick.begin(previews={})
    path = f"{GENERATIONS}/{generation_id}/preview"
    none = await quick.get(path)
    assert (none.status, none.body) == (204, b"")

    scripted.tell(progress(3, 20), preview(3, 20))
    await soon(lambda: quick.service.feed(generation_id).preview is not None)
    first = await quick.get(path)
    assert first.status == 200
    assert first.headers["Content-Type"] == "image/png"
    assert first.headers["X-Preview-Step"] == "3/20"
    assert first.headers["Cache-Control"] == "no-cache"
    tag = first.headers["ETag"]
    assert tag.startswith('"')
    Image.open(io.BytesIO(first.body)).verify()

    for known in (tag, f'"x", {tag}', "*", f"W/{tag}"):
        same = await quick.get(path, headers={"If-None-Match": known})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", tag)
        assert same.headers["Cache-Control"] == "no-cache"
    other = await quick.get(path, headers={"If-None-Match": '"x"'})
    assert (other.status, other.body) == (200, first.body)

    scripted.tell(preview(4, 20))
    await soon(lambda: quick.service.feed(generation_id).last_number == 4)
    second = await quick.get(path, headers={"If-None-Match": tag})
    assert (second.status, second.headers["X-Preview-Step"]) == (200, "4/20")
    assert second.headers["ETag"] != tag
    head = await quick.ask("HEAD", path)
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", second.headers["ETag"])


async def test_the_picture_takes_the_place_of_the_last_preview(quick: Served, scripted) -> None:
    generation_id = await quick.begin(previews={})
    scripted.tell(preview(1))
    feed = quick.service.feed(generation_id)
    await soon(lambda: feed.preview is not None)
    scripted.finish()
    assert (await quick.until(generation_id))["status"] == "complete"
    reply = await quick.get(f"{GENERATIONS}/{generation_id}/preview")
    assert (reply.status, reply.body) == (204, b"")
    assert feed.preview is None
    assert not any(isinstance(item.event, Preview) for item in feed.since(0))


async def test_no_generation_has_no_preview(quick: Served) -> None:
    reply = await quick.get(f"{GENERATIONS}/gen_0123/preview")
    assert (reply.status, reply.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["events", "preview"])
async def test_a_strange_origin_sees_nothing(quick: Served, path) -> None:
    generation_id = await quick.begin(previews={})
    reply = await quick.get(
        f"{GENERATIONS}/{generation_id}/{path}", headers={"Origin": "https://example.org"}
    )
    assert (reply.status, reply.code) == (403, "FORBIDDEN")


async def test_with_a_token_a_stream_is_opened_by_its_address(scripted, home: Settings) -> None:
    policy = {"token": "a-token-of-length"}
    async with serving(scripted, home.generations_dir, policy=policy) as served:
        headers = {"Authorization": "Bearer a-token-of-length"}
        generation_id = (await served.post({"prompt": "x"}, headers=headers)).json["id"]
        assert (await served.get(events_of(generation_id))).status == 401
        async with sse(served.client, events_of(generation_id, "?token=a-token-of-length")) as reader:
            assert (await reader.next()).name == "progress"
