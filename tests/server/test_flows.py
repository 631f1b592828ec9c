"""Each field of a request through a real server to the real engine and back, as the engine itself says and draws it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from loras import write_lora
from PIL import Image
from serving import GENERATIONS, Served, serving
from sse_client import events_of, sse

from sdmanager.engine import LocalGenerator
from sdmanager.settings import Settings

PLAIN = {"steps": 4, "seed": 3}


@pytest.fixture
async def real(settings: Settings, tmp_path: Path):
    """A server with a folder of LoRAs, in which there is one."""
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "styles" / "ink.safetensors")
    async with LocalGenerator(settings=own) as generator:
        await generator.prepare()
        async with serving(generator, own.generations_dir) as served:
            yield served


def pictures(body: dict[str, Any]) -> list[Image.Image]:
    """Those of a generation that is complete."""
    assert body["status"] == "complete", body
    found = [Image.open(io.BytesIO(base64.b64decode(image["image"]))) for image in body["result"]["images"]]
    for picture in found:
        picture.load()
    return found


def said(picture: Image.Image) -> Any:
    """What the engine wrote into its picture: what it was asked to draw."""
    return json.loads(picture.info["parameters"].partition("SDCPP: ")[2])


async def drawn_of_form(served: Served, **fields: object) -> dict[str, Any]:
    """Have a form drawn: each field is a part, as text."""
    form = aiohttp.FormData()
    for name, value in {"prompt": "a lighthouse", "width": 64, "height": 64, **PLAIN, **fields}.items():
        # The type makes it multipart, and without the name of a file it is a text.
        form.add_field(
            name, value if isinstance(value, str) else json.dumps(value), content_type="text/plain"
        )
    reply = await served.ask("POST", GENERATIONS, data=form)
    assert reply.status == 201, reply.body
    return await served.until(reply.json["id"])


FIELDS = {
    "loras": ({"loras": [{"name": "styles/ink", "weight": 0.5}]}, ("loras", 0, "multiplier"), 0.5),
    "tag": ({"prompt": "a lighthouse <lora:styles/ink:0.5>"}, ("loras", 0, "multiplier"), 0.5),
    "sampler": ({"sampler": "euler_a"}, ("sampling", "method"), "euler_a"),
    "scheduler": ({"scheduler": "karras"}, ("sampling", "scheduler"), "karras"),
    "steps": ({"steps": 3}, ("sampling", "steps"), 3),
    "cfgScale": ({"cfgScale": 2.5}, ("sampling", "guidance", "txt_cfg"), 2.5),
    "prompt": (
        {"prompt": "'two' \"cats\" --steps 9 %d"},
        ("prompt", "positive"),
        "'two' \"cats\" --steps 9 %d",
    ),
    "clipSkip": ({"clipSkip": 2}, ("clip_skip",), 2),
    "negativePrompt": ({"negativePrompt": "fog"}, ("prompt", "negative"), "fog"),
}
# The demo model has no CLIP, and with its guidance of 1 no negative prompt is looked at.
WITHOUT_EFFECT = {"clipSkip", "negativePrompt"}


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_reaches_the_engine_and_the_picture(real: Served, field: str) -> None:
    fields, place, value = FIELDS[field]
    (plain,) = pictures(await real.drawn(**PLAIN))
    (drawn,) = pictures(await real.drawn(**{**PLAIN, **fields}))
    assert found_at(said(drawn), place) == value
    assert found_at(said(plain), place) != value
    assert (drawn.tobytes() == plain.tobytes()) is (field in WITHOUT_EFFECT)


def found_at(value: Any, place: tuple[str | int, ...]) -> Any:
    """What stands there in nested objects and lists, or None."""
    for key in place:
        try:
            value = value[key]
        except LookupError:
            return None
    return value


async def test_a_lora_is_the_same_as_a_field_as_a_tag_and_in_a_form(real: Served) -> None:
    loras = [{"name": "styles/ink"}]
    drawn = [
        await real.drawn(**PLAIN, loras=loras),
        await real.drawn(**PLAIN, prompt="a lighthouse <lora:styles/ink:1>"),
        await drawn_of_form(real, loras=loras),
    ]
    assert len({pictures(body)[0].tobytes() for body in drawn}) == 1
    weaker = await real.drawn(**PLAIN, loras=[{"name": "styles/ink", "weight": 0.2}])
    assert pictures(weaker)[0].tobytes() != pictures(drawn[0])[0].tobytes()
    for fields in ({"loras": [{"name": "../styles"}]}, {"prompt": "x <lora:ink:1>"}):
        reply = await real.post({"prompt": "x", **fields})
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("form", [False, True])
async def test_each_picture_of_a_batch_is_that_of_its_seed(real: Served, form: bool) -> None:
    body = await (drawn_of_form(real, count=3, seed=41) if form else real.drawn(steps=4, count=3, seed=41))
    assert [image["seed"] for image in body["result"]["images"]] == [41, 42, 43]
    batch = [picture.tobytes() for picture in pictures(body)]
    alone = [pictures(await real.drawn(**{**PLAIN, "seed": seed}))[0].tobytes() for seed in (41, 42, 43)]
    assert batch == alone
    assert len(set(batch)) == 3


async def seen_previews(served: Served, **fields: object) -> list[dict[str, Any]]:
    """The previews that a reader of the events sees, each with what its picture really is."""
    generation_id = await served.begin(**fields)
    async with sse(served.client, events_of(generation_id)) as reader:
        found = [told.data for told in await reader.rest() if told.name == "preview"]
    for data in found:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image"])))
        picture.load()
        data["picture"] = (picture.format, picture.size)
    return found


PREVIEWS = {  # Options; fewest and most previews; the step of the first at the soonest; format and size.
    "none named": ({}, 2, 6, 2, ("JPEG", (32, 32))),
    "stride": ({"stride": 5}, 1, 3, 5, ("JPEG", (32, 32))),
    "skipFirst": ({"stride": 1, "skipFirst": 7}, 1, 5, 8, ("JPEG", (32, 32))),
    "maxSize": ({"maxSize": 16}, 2, 6, 2, ("JPEG", (16, 16))),
    "format": ({"format": "webp"}, 2, 6, 2, ("WEBP", (32, 32))),
}


@pytest.mark.parametrize("case", PREVIEWS)
async def test_previews_are_as_asked_for(real: Served, case: str) -> None:
    options, fewest, most, first, picture = PREVIEWS[case]
    previews = await seen_previews(real, width=256, height=256, steps=12, previews=options)
    assert fewest <= len(previews) <= most  # a busy machine may leave some out, for newer ones
    assert previews[0]["step"] >= first
    assert {data["picture"] for data in previews} == {picture}
    for data in previews:
        assert picture == (data["format"].upper(), (data["width"], data["height"]))


async def test_previews_by_the_vae_have_the_size_of_the_picture(real: Served) -> None:
    previews = await seen_previews(real, steps=3, previews={"method": "vae"})
    assert {data["picture"] for data in previews} == {("JPEG", (64, 64))}


async def test_a_run_of_50_steps_has_about_9_previews(real: Served) -> None:
    body = await real.drawn(width=256, height=256, steps=50, previews={})
    shown = body["result"]["previews"]
    assert 7 <= shown["count"] <= 10
    assert 0 < shown["firstAfter"] < body["result"]["timeTaken"]
    assert shown["reading"] + shown["encoding"] < body["result"]["timeTaken"]


async def test_without_previews_there_are_none(real: Served) -> None:
    assert await seen_previews(real) == []
    assert "previews" not in (await real.drawn(previews=None))["result"]
