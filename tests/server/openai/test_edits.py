"""Edits and variations: forms as the SDK sends them, and masks in the alpha channel."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib

import aiohttp
import numpy as np
import openai
import pytest
from openai_sdk import picture_of, pixels_of
from PIL import Image
from scripted_generator import ScriptedGenerator
from serving import Served
from sse_client import soon

EDITS = "/openai/v1/images/edits"
EXTRA = {"steps": 4, "seed": 7}


def gradient(size=(64, 64)) -> Image.Image:
    return Image.merge("RGB", [Image.linear_gradient("L").resize(size).rotate(turn) for turn in (0, 90, 180)])


def file_of(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def named(picture: Image.Image, name: str = "in.png") -> io.BytesIO:
    file = io.BytesIO(file_of(picture))
    file.name = name
    return file


def half(left: int, right: int, size=(64, 64)) -> Image.Image:
    """One channel with one value on the left and another on the right."""
    picture = Image.new("L", size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    return picture


def with_alpha(alpha: Image.Image, picture: Image.Image | None = None) -> Image.Image:
    made = (picture or Image.new("RGB", alpha.size, "red")).convert("RGBA")
    made.putalpha(alpha)
    return made


async def edited(served: Served, image: bytes, mask: bytes | None = None, path: str = EDITS, **texts: str):
    """The answer to a form."""
    form = aiohttp.FormData()
    for name, text in {"prompt": "a cat", **texts}.items():
        form.add_field(name, text)
    # A file, because aiohttp warns of large bodies that are none.
    form.add_field("image", io.BytesIO(image), filename="upload", content_type="application/octet-stream")
    if mask is not None:
        form.add_field("mask", mask, filename="mask", content_type="text/plain")
    return await served.ask("POST", path, data=form)


async def mask_of(
    served: Served, scripted: ScriptedGenerator, image: Image.Image, mask=None
) -> np.ndarray | None:
    """What the engine is given as a mask."""
    scripted.finish()
    reply = await edited(served, file_of(image), None if mask is None else file_of(mask))
    assert reply.status == 200, reply.body
    given = scripted.requests[-1].mask_image
    return None if given is None else np.asarray(Image.open(io.BytesIO(given)))


# With the real engine


@pytest.mark.parametrize(
    "wrap", [lambda file: file, lambda file: [file], lambda file: ("x.bin", file.read())]
)
async def test_a_picture_is_edited_however_the_sdk_sends_it(client, wrap) -> None:
    file = wrap(io.BytesIO(file_of(gradient())))
    answer = await client.images.edit(
        image=file, prompt="a cat", n=1, response_format="b64_json", extra_body=EXTRA
    )
    assert picture_of(answer.data[0].b64_json).size == (64, 64)
    assert (answer.size, answer.data[0].model_extra["seed"]) == ("64x64", 7)


async def test_a_transparent_mask_gives_what_a_white_one_does_in_the_native_api(real: Served, client) -> None:
    image, fields = gradient(), {**EXTRA, "strength": 1.0}
    given = [None, half(255, 0), half(0, 255)]  # transparent on the right, and on the left
    ours = []
    for alpha in given:
        mask = {} if alpha is None else {"mask": named(with_alpha(alpha))}
        answer = await client.images.edit(image=named(image), prompt="a cat", extra_body=fields, **mask)
        ours.append(pixels_of(answer.data[0].b64_json))
    white = base64.b64encode(file_of(half(0, 255))).decode()
    body = await real.drawn(
        prompt="a cat", initImage=base64.b64encode(file_of(image)).decode(), maskImage=white, steps=4, seed=7,
        strength=1.0,
    )  # fmt: skip
    native = pixels_of(body["result"]["images"][0]["image"])
    assert [np.array_equal(native, each) for each in ours] == [False, True, False]


async def test_how_far_to_go_from_the_picture(client) -> None:
    image, changes = gradient(), []
    for strength in (0.25, 1.0):
        answer = await client.images.edit(
            image=named(image), prompt="a cat", extra_body={**EXTRA, "strength": strength}
        )
        changes.append(np.abs(pixels_of(answer.data[0].b64_json) - np.asarray(image, dtype=float)).mean())
    assert changes[0] < changes[1]


async def test_an_edit_is_streamed_at_the_shape_of_its_picture(client) -> None:
    stream = await client.images.edit(
        image=named(gradient((96, 64))), prompt="a cat", stream=True, partial_images=2,
        extra_body={"steps": 8, "strength": 1.0},
    )  # fmt: skip
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert {event.size for event in events} == {"96x64"}
    assert {picture_of(event.b64_json).size for event in events} == {(96, 64)}


async def test_a_variation_needs_no_prompt(client) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # by newer SDKs
        answer = await client.images.create_variation(
            image=named(gradient()),
            n=2,
            size="64x64",
            response_format="b64_json",
            user="me",
            extra_body=EXTRA,
        )
    first, second = (pixels_of(image.b64_json) for image in answer.data)
    assert not np.array_equal(first, second)


async def test_both_paths_take_edits_and_variations(real: Served) -> None:
    for path in (EDITS, "/v1/images/edits", "/openai/v1/images/variations", "/v1/images/variations"):
        reply = await edited(real, file_of(gradient()), path=path, steps="2")
        assert (reply.status, len(reply.json["data"])) == (200, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_bytes_are_looked_at_and_not_what_they_are_called(real: Served, kind: str) -> None:
    assert (await edited(real, file_of(gradient(), kind), steps="1")).status == 200


# Masks


async def test_transparent_becomes_white_and_opaque_black(quick: Served, scripted: ScriptedGenerator) -> None:
    mask = await mask_of(quick, scripted, gradient(), with_alpha(half(0, 255)))
    assert np.array_equal(mask, np.asarray(half(255, 0)))


async def test_soft_edges_stay_soft(quick: Served, scripted: ScriptedGenerator) -> None:
    mask = await mask_of(quick, scripted, gradient(), with_alpha(half(0, 100)))
    assert np.array_equal(mask, np.asarray(half(255, 155)))


@pytest.mark.parametrize("opaque", [lambda drawn: drawn.convert("RGB"), lambda drawn: drawn.convert("RGBA")])
async def test_a_mask_without_transparency_is_redrawn_where_it_is_white(
    quick: Served, scripted: ScriptedGenerator, opaque
) -> None:
    mask = await mask_of(quick, scripted, gradient(), opaque(half(0, 255)))
    assert np.array_equal(mask, np.asarray(half(0, 255)))


async def test_a_palette_with_a_transparent_colour_is_a_mask(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    drawn = half(0, 255).convert("P")
    drawn.info["transparency"] = drawn.getpixel((0, 0))
    mask = await mask_of(quick, scripted, gradient(), drawn)
    assert np.array_equal(mask, np.asarray(half(255, 0)))


async def test_a_picture_with_holes_and_no_mask_is_its_own_mask(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    mask = await mask_of(quick, scripted, with_alpha(half(255, 0), gradient()))
    assert np.array_equal(mask, np.asarray(half(0, 255)))
    other = await mask_of(quick, scripted, with_alpha(half(255, 0), gradient()), with_alpha(half(0, 255)))
    assert np.array_equal(other, np.asarray(half(255, 0)))


async def test_an_opaque_picture_has_no_mask(quick: Served, scripted: ScriptedGenerator) -> None:
    assert await mask_of(quick, scripted, gradient()) is None
    assert await mask_of(quick, scripted, gradient().convert("RGBA")) is None


async def test_a_mask_of_a_picture_that_lies_on_its_side(quick: Served, scripted: ScriptedGenerator) -> None:
    """Sizes are those that a viewer sees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    gradient((96, 64)).save(buffer, "JPEG", exif=exif)
    scripted.finish()
    assert (await edited(quick, buffer.getvalue(), file_of(half(0, 255, (64, 96))))).status == 200


# What is refused


async def test_a_mask_of_another_size(quick: Served) -> None:
    reply = await edited(quick, file_of(gradient()), file_of(half(0, 255, (32, 64))))
    assert (reply.status, reply.json["error"]["param"]) == (400, "mask")
    assert "32x64" in reply.json["error"]["message"]


@pytest.mark.parametrize("param", ["image", "mask"])
async def test_what_is_no_picture(quick: Served, param: str) -> None:
    files = {"image": file_of(gradient()), "mask": None} | {param: b"GIF89a but not really"}
    reply = await edited(quick, **files)
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize("param", ["image", "mask"])
async def test_a_picture_that_pillow_stumbles_over(quick: Served, param: str) -> None:
    data = file_of(gradient())
    empty_profile = struct.pack(">I4sI", 0, b"iCCP", zlib.crc32(b"iCCP"))
    files = {"image": data, "mask": None} | {param: data[:-12] + empty_profile + data[-12:]}
    reply = await edited(quick, **files)
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (400, "invalid_value", param)


@pytest.mark.parametrize("count", [2, 17])
async def test_more_than_one_picture(scripted_client, count: int) -> None:
    files = [named(gradient()) for _ in range(count)]
    with pytest.raises(openai.BadRequestError, match=r"one image|more than 16") as caught:
        await scripted_client.images.edit(image=files, prompt="a cat")
    assert caught.value.param == "image"


@pytest.mark.parametrize("path", [EDITS, "/openai/v1/images/variations"])
async def test_no_picture(quick: Served, path: str) -> None:
    form = aiohttp.FormData({"prompt": "a cat"}, default_to_multipart=True)
    reply = await quick.ask("POST", path, data=form)
    assert (reply.status, reply.code) == (400, "missing_required_parameter")
    assert reply.json["error"]["param"] == "image"


@pytest.mark.parametrize("name", ["image", "image[]", "mask"])
async def test_a_picture_that_is_text(quick: Served, name: str) -> None:
    form = aiohttp.FormData(
        {"prompt": "a cat", name: "https://example.invalid/in.png"}, default_to_multipart=True
    )
    if name == "mask":
        form.add_field("image", file_of(gradient()), filename="x")
    reply = await quick.ask("POST", EDITS, data=form)
    assert (reply.status, reply.code) == (400, "invalid_type")
    assert reply.json["error"]["param"] == name.removesuffix("[]")


async def test_an_edit_without_a_prompt(quick: Served) -> None:
    reply = await edited(quick, file_of(gradient()), prompt="  ")
    assert (reply.status, reply.json["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("name", "text"),
    [("n", "two"), ("n", "2.5"), ("stream", "yes"), ("strength", "2"), ("steps", "[]"), ("size", "big")],
)
async def test_texts_that_are_no_values(quick: Served, name: str, text: str) -> None:
    reply = await edited(quick, file_of(gradient()), **{name: text})
    assert (reply.status, reply.json["error"]["param"]) == (400, name)


async def test_texts_become_values(quick: Served, scripted: ScriptedGenerator) -> None:
    scripted.finish()
    texts = {"n": "3", "steps": "6", "cfg_scale": "1.5", "seed": "-1", "strength": "0.6", "prompt": "2"}
    loras = '[{"name": "x", "weight": 0.5}]'
    reply = await edited(quick, file_of(gradient()), **texts, loras=loras, stream="False", clip_skip="")
    assert reply.status == 200, reply.body
    (drawn,) = scripted.requests
    assert (drawn.count, drawn.steps, drawn.cfg_scale, drawn.seed) == (3, 6, 1.5, -1)
    assert (drawn.strength, drawn.prompt, drawn.clip_skip) == (0.6, "2", None)
    assert drawn.loras[0].weight == 0.5


async def test_a_large_form_is_not_read_while_the_server_is_busy(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    await quick.begin()
    await soon(lambda: scripted.requests)
    reply = await edited(quick, b"\0" * (2 << 20))
    assert (reply.status, reply.code) == (429, "rate_limit_exceeded")


async def test_json_is_no_form(quick: Served) -> None:
    reply = await quick.ask("POST", EDITS, json={"prompt": "a cat"})
    assert (reply.status, reply.json["error"]["type"]) == (415, "invalid_request_error")
