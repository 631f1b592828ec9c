"""The gallery over HTTP, with the real engine and with pictures that are whole when a test says so."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from gallery import kept, whole
from loras import write_lora
from scripted_generator import ScriptedGenerator, png, preview, result_of
from serving import Served, serving

from sdmanager.engine import LocalGenerator
from sdmanager.generation import ImageRequest
from sdmanager.history import History
from sdmanager.server.history_schemas import HistoryCleared, HistoryDeleted, HistoryImageBody, HistoryPageBody
from sdmanager.settings import Settings

HISTORY = "/v1/history"


@pytest.fixture
async def history(tmp_path: Path):
    history = History(tmp_path / "gallery")
    await history.open()
    yield history
    await history.aclose()


@pytest.fixture
async def shown(scripted: ScriptedGenerator, home: Settings, history: History):
    """A server with that gallery, whose drawings the test decides."""
    async with serving(scripted, home.generations_dir, queue_size=2, history=history) as served:
        yield served


async def frame(served: Served, name: str, *, preview: bool = False) -> dict:
    """A frame, once it is there."""
    async with asyncio.timeout(30):
        while True:
            reply = await served.get(f"{HISTORY}/{name}")
            picture = await served.get(f"{HISTORY}/{name}/image")
            if reply.status == 200 and (not preview or picture.status == 200):
                return (await served.get(f"{HISTORY}/{name}")).json
            await asyncio.sleep(0.005)


async def test_what_the_engine_draws_is_found_with_all_that_draws_it_again(
    settings: Settings, history: History
) -> None:
    async with LocalGenerator(settings=settings) as generator:
        await generator.prepare()
        async with serving(generator, settings.generations_dir, history=history) as served:
            drawn = await served.begin(
                prompt="a lighthouse", negativePrompt="rain", seed=7, count=2, width=64, height=64, steps=2
            )
            generation = await served.until(drawn)
            assert generation["status"] == "complete"
            page = (await served.get(HISTORY)).json
            second, first = page["images"]
            picture = await served.get(first["url"])
            result = generation["result"]
            assert (await served.get(HISTORY, params={"search": "LIGHT rain"})).json["total"] == 0
            assert (await served.get(HISTORY, params={"search": "LIGHTHOUSE ra"})).json["total"] == 2
            assert (await served.get(HISTORY, params={"model": "demo"})).json["total"] == 2
            assert (await served.get(HISTORY, params={"model": "other"})).json["total"] == 0
    assert HistoryPageBody.model_validate(page).body() == page
    assert page["total"] == 2
    assert "after" not in page
    assert (first["id"], second["id"]) == (f"{drawn}-0", f"{drawn}-1")
    assert (first["seed"], second["seed"], first["index"], second["index"]) == (7, 8, 0, 1)
    assert (first["status"], first["model"], first["variant"]) == (
        "complete",
        result["model"],
        result["variant"],
    )
    assert first["timings"] == result["timings"]
    assert first["timeTaken"] == result["timeTaken"]
    request = {
        "prompt": "a lighthouse",
        "negativePrompt": "rain",
        "seed": 7,
        "count": 2,
        "steps": 2,
        "width": 64,
    }
    assert request.items() <= first["request"].items()
    assert "null" not in json.dumps(page)
    assert ImageRequest(**first["request"]).cfg_scale == first["request"]["cfgScale"]
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert whole(picture.body)


async def test_lora_tags_are_kept_as_they_were_written(
    settings: Settings, tmp_path: Path, history: History
) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "style.safetensors")
    async with LocalGenerator(settings=own) as generator:
        await generator.prepare()
        async with serving(generator, own.generations_dir, history=history) as served:
            prompt = "a lighthouse <lora:style:0.5>"
            drawn = await served.drawn(prompt=prompt)
            assert drawn["status"] == "complete"
            image = (await served.get(f"{HISTORY}/{drawn['id']}-0")).json
    assert image["request"]["prompt"] == prompt
    assert image["seed"] == image["request"]["seed"] >= 0


async def test_a_frame_forms_before_the_eyes_of_its_reader(
    shown: Served, scripted: ScriptedGenerator
) -> None:
    drawn = await shown.begin(prompt="a cat", count=1)
    name = f"{drawn}-0"
    bare = await frame(shown, name)
    assert HistoryImageBody.model_validate(bare).body() == bare
    assert bare["status"] == "forming"
    assert not {"seed", "model", "variant", "completedAt", "timeTaken", "timings"} & bare.keys()
    assert (await shown.get(bare["url"])).code == "IMAGE_NOT_FOUND"
    scripted.tell(preview(1, data=png(1)))
    forming = await frame(shown, name, preview=True)
    first = await shown.get(forming["url"])
    assert first.body == png(1)
    assert first.headers["Cache-Control"] == "private, no-cache"
    unchanged = await shown.get(forming["url"], headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await shown.ask("DELETE", f"{HISTORY}/{name}")).code == "IMAGE_FORMING"
    assert (await shown.ask("DELETE", f"{HISTORY}/{name}")).status == 409
    scripted.finish(result_of())
    await shown.until(drawn)
    complete = (await shown.get(f"{HISTORY}/{name}")).json
    assert complete["status"] == "complete"
    assert len({bare["url"], forming["url"], complete["url"]}) == 3
    assert (await shown.get(complete["url"])).body == result_of().image.png
    assert (await shown.get(HISTORY)).json["images"] == [complete]


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_frame_goes_with_its_generation(shown: Served, scripted: ScriptedGenerator, end: str) -> None:
    drawn = await shown.begin()
    await frame(shown, f"{drawn}-0")
    if end == "cancelled":
        await shown.ask("DELETE", f"/v1/images/generations/{drawn}")
    else:
        scripted.finish(RuntimeError("no"))
    async with asyncio.timeout(30):
        while (await shown.get(f"{HISTORY}/{drawn}-0")).status != 404:
            await asyncio.sleep(0.005)
    assert (await shown.get(HISTORY)).json == {"images": [], "total": 0}


async def test_pages_lead_to_each_other(shown: Served, history: History) -> None:
    for number in range(7):
        await kept(history, f"gen_{number}")
    seen, after = [], {}
    while True:
        page = (await shown.get(HISTORY, params={"limit": 3, **after})).json
        assert page["total"] == 7
        seen += [image["generationId"] for image in page["images"]]
        if "after" not in page:
            break
        after = {"after": page["after"]}
    assert seen == [f"gen_{number}" for number in reversed(range(7))]


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "1.5", "²", "", "9" * 5000, "1e3", "null"])
async def test_a_limit_that_is_none_is_refused(shown: Served, limit: str) -> None:
    reply = await shown.get(HISTORY, params={"limit": limit})
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("after", ["x", "AAAAAAAAAAo=", "-1", "%00", "_" * 11, "é", "A" * 4000])
async def test_a_place_that_nobody_gave_is_refused(shown: Served, after: str) -> None:
    reply = await shown.get(HISTORY, params={"after": after})
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "search", ['"', "* OR", "a\0b", "'; DROP TABLE images; --", "🐱", "灯塔 ", "w " * 1500]
)
async def test_whatever_is_searched_for_is_answered(shown: Served, search: str) -> None:
    assert (await shown.get(HISTORY, params={"search": search})).status == 200


async def test_deleting_one_and_all(shown: Served, history: History) -> None:
    for number in range(3):
        await kept(history, f"gen_{number}")
    one = (await shown.ask("DELETE", f"{HISTORY}/gen_1-0")).json
    assert one == {"id": "gen_1-0", "deleted": True} == HistoryDeleted.model_validate(one).body()
    again = await shown.ask("DELETE", f"{HISTORY}/gen_1-0")
    assert (again.status, again.code) == (404, "IMAGE_NOT_FOUND")
    rest = (await shown.ask("DELETE", HISTORY, params={"all": "true"})).json
    assert rest == {"deleted": 2} == HistoryCleared.model_validate(rest).body()
    assert (await shown.get(HISTORY)).json == {"images": [], "total": 0}
    assert not list(history.folder.rglob("*.png"))


@pytest.mark.parametrize(
    "asked",
    [{}, {"all": ""}, {"all": "false"}, {"all": "1"}, {"All": "true"}, {"all": "true", "search": "cat"}],
    ids=str,
)
async def test_all_are_deleted_only_where_that_is_said(shown: Served, history: History, asked: dict) -> None:
    await kept(history, "gen_1")
    reply = await shown.ask("DELETE", HISTORY, params=asked)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert "?all=true" in reply.json["error"]["suggestion"]
    assert (await shown.get(HISTORY)).json["total"] == 1


async def test_a_link_in_the_folder_is_not_served(shown: Served, history: History, tmp_path: Path) -> None:
    (image,) = await kept(history, "gen_1")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    image.path.unlink()
    image.path.symlink_to(secret)
    reply = await shown.get(f"{HISTORY}/{image.id}/image")
    assert (reply.status, reply.code) == (404, "IMAGE_NOT_FOUND")
    assert b"mine" not in reply.body


async def test_a_damaged_image_does_not_keep_the_others_from_being_seen(
    shown: Served, history: History
) -> None:
    for number in range(2):
        await kept(history, f"gen_{number}")
    for request, timings in (
        ("{", "["), ("[1]", '"x"'), ("[" * 100_000, "null"), ('{"seed": NaN}', '{"loading": NaN}'),
        (b"\xff", '{"loading": "x", "diffusion": -1, "decoding": 1e999}'),
    ):  # fmt: skip
        connection = sqlite3.connect(history.folder / "gallery.sqlite3")
        with connection:
            connection.execute(
                "UPDATE images SET request = ?, timings = ? WHERE id = 'gen_0-0'", (request, timings)
            )
        connection.close()
        reply = await shown.get(HISTORY)
        assert reply.status == 200, reply.body
        whole, damaged = reply.json["images"]
        assert whole["request"]["prompt"] == "a lighthouse"
        assert damaged["request"] == {}
        assert "timings" not in damaged
        assert (await shown.get(damaged["url"])).status == 200


async def test_a_file_that_somebody_deleted_is_404_and_forgotten(shown: Served, history: History) -> None:
    (image,) = await kept(history, "gen_1")
    image.path.unlink()
    reply = await shown.get(f"{HISTORY}/{image.id}/image")
    assert (reply.status, reply.code) == (404, "IMAGE_NOT_FOUND")
    assert (await shown.get(HISTORY)).json["total"] == 0


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "%ff", "nothing", "gen_1-0.png", "images"])
async def test_only_ids_name_images(shown: Served, name: str) -> None:
    from yarl import URL

    for path in (name, f"{name}/image"):
        for method in ("GET", "DELETE"):
            url = URL(f"{shown.url}{HISTORY}/{path}", encoded=True)
            # Without a base: older aiohttp joins what is whole already.
            async with aiohttp.ClientSession() as client, client.request(method, url) as reply:
                assert reply.status in {400, 404, 405}
                assert "error" in await reply.json()


async def test_heads_ranges_and_tags_of_pictures_work(shown: Served, history: History) -> None:
    (image,) = await kept(history, "gen_1")
    path = f"{HISTORY}/{image.id}/image"
    data = image.path.read_bytes()
    head = await shown.ask("HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(data)), b"")
    tag = (await shown.get(path)).headers["ETag"]
    assert (await shown.get(path, headers={"If-None-Match": tag})).status == 304
    part = await shown.get(path, headers={"Range": "bytes=0-3"})
    assert (part.status, part.body) == (206, data[:4])
    for other in (HISTORY, f"{HISTORY}/{image.id}"):
        head = await shown.ask("HEAD", other)
        assert (head.status, head.body) == (200, b"")


async def test_without_a_gallery_it_is_said_how_to_have_one(quick: Served) -> None:
    for method, path in (
        ("GET", HISTORY), ("DELETE", HISTORY), ("GET", f"{HISTORY}/x"), ("DELETE", f"{HISTORY}/x"),
        ("GET", f"{HISTORY}/x/image"), ("GET", f"{HISTORY}?limit=x"),
    ):  # fmt: skip
        reply = await quick.ask(method, path)
        assert (reply.status, reply.code) == (404, "GALLERY_OFF")
        assert "--gallery" in reply.json["error"]["suggestion"]


async def test_a_token_is_needed_also_for_pictures(scripted, home: Settings, history: History) -> None:
    (image,) = await kept(history, "gen_1")
    async with serving(scripted, home.generations_dir, history=history, policy={"token": "secret"}) as served:
        path = f"{HISTORY}/{image.id}/image"
        assert (await served.get(path)).status == 401
        assert (await served.get(HISTORY)).status == 401
        assert (await served.ask("DELETE", HISTORY, params={"token": "secret"})).status == 401
        assert (await served.get(path, params={"token": "secret"})).status == 200
