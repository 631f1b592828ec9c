"""From what a client sends to a request: what is taken, and how everything else is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import re
import struct
import zlib
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scripted_generator import ScriptedGenerator
from serving import GENERATIONS, Served, serving

from sdmanager.errors import InputImageError, InvalidRequestError
from sdmanager.generation import ImageRequest, Lora, PreviewOptions
from sdmanager.server.requests import form_fields, image_request
from sdmanager.settings import Settings

PROMPT = {"prompt": "a lighthouse"}


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bomb() -> bytes:
    """A small file that says it is a picture of 30,000 times 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# The fields


def test_every_field_has_its_name_on_the_wire() -> None:
    fields = {
        "prompt": "p", "negativePrompt": "n", "width": 256, "height": 128, "steps": 3, "preset": "fast",
        "cfgScale": 2, "guidance": 3.5, "seed": 5,
        "sampler": "euler", "scheduler": "karras", "count": 2, "initImage": text_of(b"i"), "maskImage": text_of(b"m"),
        "strength": 0.5, "clipSkip": 2, "loras": [{"name": "a"}, {"name": "b", "weight": 0.5}],
        "previews": {"method": "proj", "stride": 2, "skipFirst": 1, "format": "png", "maxSize": 64},
        "modelId": "m",
    }  # fmt: skip
    assert {field.alias for field in ImageRequest.model_fields.values()} == fields.keys()
    assert image_request(fields) == ImageRequest(
        prompt="p", negative_prompt="n", width=256, height=128, steps=3, preset="fast", cfg_scale=2.0,
        guidance=3.5, seed=5, sampler="euler",
        scheduler="karras", count=2, init_image=b"i", mask_image=b"m", strength=0.5, clip_skip=2,
        loras=(Lora(name="a"), Lora(name="b", weight=0.5)),
        previews=PreviewOptions(method="proj", stride=2, skip_first=1, format="png", max_size=64),
        model_id="m",
    )  # fmt: skip


def test_null_is_absent() -> None:
    names = {field.alias for field in ImageRequest.model_fields.values()} - {"prompt"}
    wanted = image_request({**PROMPT, **dict.fromkeys(names)})
    assert wanted.model_fields_set == {"prompt"}
    inner = image_request({**PROMPT, "previews": {"stride": None}, "loras": [{"name": "a", "weight": None}]})
    assert inner.previews == PreviewOptions()
    assert inner.loras == (Lora(name="a"),)


@pytest.mark.parametrize(
    "text",
    [
        "aW1hZ2U=",
        "data:image/png;base64,aW1hZ2U=",
        "data:;base64,aW1hZ2U=",
        "DATA:image/x;a=b;BASE64,aW1hZ2U=",
    ],
)
def test_pictures_come_as_base64_or_data_urls(text: str) -> None:
    assert image_request({**PROMPT, "initImage": text}).init_image == b"image"


@pytest.mark.parametrize(
    "value",
    [
        "", "data:image/png;base64,", "aW1hZ2U", "aW1hZ2U=\n", "aW1h Z2U=", "aW1hZ2U==", "äöü", "http://127.0.0.1/a.png",
        "file:///etc/passwd", "/etc/passwd", "../a.png", "data:image/png,aW1hZ2U=", b"", 5, True, [], {}, ["aW1hZ2U="],
    ],
)  # fmt: skip
def test_other_pictures_are_refused_and_not_quoted(value: object) -> None:
    with pytest.raises(InputImageError) as caught:
        image_request({**PROMPT, "initImage": value})
    assert caught.value.message.startswith("initImage ")
    assert not (isinstance(value, str) and value and value in caught.value.message)


def test_a_mask_without_a_picture_is_refused_by_the_names_of_the_wire() -> None:
    with pytest.raises(InvalidRequestError, match="maskImage needs initImage"):
        image_request({**PROMPT, "maskImage": text_of(b"m")})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"cfg_scale": 1}, "cfg_scale"),  # Python's names are not the wire's
        ({"init_image": "aW1hZ2U="}, "init_image"),
        ({"previews": {"skip_first": 1}}, "'previews.skip_first'"),
        ({"loras": [{"name": "a", "path": "/x"}]}, "'loras.path'"),
        ({"x" * 5000: 1}, "x" * 40 + "…"),
    ],
)
def test_unknown_fields_are_named(fields: dict, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        image_request({**PROMPT, **fields})
    assert name in caught.value.message
    assert len(caught.value.message) < 100


numbers = ["width", "height", "steps", "cfgScale", "seed", "count", "strength", "clipSkip"]
WRONG = [
    *({name: value} for name in numbers for value in ("8", True, [], {}, "", [8], 10**400)),
    *({name: 8.5} for name in ("width", "height", "steps", "seed", "count", "clipSkip")),
    *({name: value} for name in ("prompt", "negativePrompt", "sampler", "scheduler") for value in (5, True, [], {})),
    {"width": 63}, {"width": 65}, {"width": 4104}, {"height": 0}, {"steps": 0}, {"steps": 1001}, {"count": 0},
    {"count": 11}, {"cfgScale": -0.1}, {"cfgScale": 50.1}, {"strength": 1.1}, {"seed": 2**63}, {"clipSkip": 0},
    {"prompt": ""}, {"prompt": " \n"}, {"prompt": "a\0b"}, {"prompt": None}, {"negativePrompt": "\0"},
    {"previews": 5}, {"previews": True}, {"previews": []}, {"previews": "proj"}, {"previews": {"method": "x"}},
    {"previews": {"stride": "1"}}, {"previews": {"stride": 0}}, {"previews": {"maxSize": True}},
    {"loras": {}}, {"loras": "a"}, {"loras": [5]}, {"loras": ["a"]}, {"loras": [{}]}, {"loras": [{"name": ""}]},
    {"loras": [{"name": "a", "weight": "1"}]}, {"loras": [{"name": "a", "weight": 11}]},
    {"loras": [{"name": "a"}] * 17},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: json.dumps(wrong)[:40])
def test_wrong_values_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        image_request({**PROMPT, **wrong})
    assert (caught.value.code, caught.value.http_status) == ("INVALID_REQUEST", 400)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([field.alias for field in ImageRequest.model_fields.values()]) | st.text()


@given(st.dictionaries(names, json_values, max_size=4))
def test_whatever_json_comes_is_a_request_or_an_error_of_ours(fields: dict) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(image_request(fields), ImageRequest)


@given(st.dictionaries(names, st.text() | st.binary(), max_size=4))
def test_whatever_form_comes_is_a_request_or_an_error_of_ours(parts: dict) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(image_request(form_fields(parts)), ImageRequest)


def test_the_parts_of_a_form_are_read_by_the_types_of_their_fields() -> None:
    parts = {
        "prompt": "12", "negativePrompt": "", "width": "128", "cfgScale": "2.5", "seed": "-1", "initImage": b"i",
        "previews": '{"method": "vae"}', "loras": '[{"name": "a"}]', "count": "null", "preset": "fast", "guidance": "3",
    }  # fmt: skip
    assert image_request(form_fields(parts)) == ImageRequest(
        prompt="12", negative_prompt="", width=128, cfg_scale=2.5, seed=-1, init_image=b"i",
        previews=PreviewOptions(method="vae"), loras=(Lora(name="a"),), preset="fast", guidance=3.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "part",
    [
        {"width": "x"}, {"width": " "}, {"width": "1e3"}, {"width": b"64"}, {"prompt": b"p"}, {"prompt": ""},
        {"previews": "{"}, {"previews": '{"stride": 1, "stride": 2}'}, {"cfgScale": "NaN"}, {"cfgScale": "1e999"},
        {"loras": r'[{"name": "\udc80"}]'}, {"loras": "[" * 100_000}, {"seed": "9" * 5000},
        {"preset": "quick"}, {"preset": " "}, {"preset": b"fast"}, {"guidance": "much"},
    ],
)  # fmt: skip
def test_parts_that_are_not_what_their_field_takes_are_refused(part: dict) -> None:
    with pytest.raises(InvalidRequestError):
        image_request(form_fields({**PROMPT, **part}))


def test_fields_of_a_form_that_were_not_filled_in_are_absent() -> None:
    empty = {"width": "", "seed": "", "previews": "", "loras": "", "preset": ""}
    assert form_fields({**PROMPT, **empty, "negativePrompt": ""}) == {**PROMPT, "negativePrompt": ""}


def test_the_page_about_the_server_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    fields = next(line for line in page.splitlines() if line.startswith("**Fields**"))
    assert {field.alias for field in ImageRequest.model_fields.values()} <= set(
        re.findall(r"`(\w+)`", fields)
    )


# The same over HTTP: each with its code, and nothing in the log


@pytest.fixture
async def served(home: Settings):
    async with serving(ScriptedGenerator(), home.generations_dir) as served:
        yield served


def body(**fields: object) -> bytes:
    return json.dumps({**PROMPT, **fields}).encode()


JSON = {"Content-Type": "application/json"}
BAD_BODIES = [
    (b"", 400, "INVALID_REQUEST"),
    (b"{", 400, "INVALID_REQUEST"),
    (b"[]", 400, "INVALID_REQUEST"),
    (b"null", 400, "INVALID_REQUEST"),
    (b"{}", 400, "INVALID_REQUEST"),
    (b'"prompt"', 400, "INVALID_REQUEST"),
    (b'{"prompt": "a", "prompt": "b"}', 400, "INVALID_REQUEST"),
    (b'{"prompt": "a", "cfgScale": NaN}', 400, "INVALID_REQUEST"),
    (b'{"prompt": "a", "cfgScale": 1e999}', 400, "INVALID_REQUEST"),
    (b'{"prompt": "\\ud800"}', 400, "INVALID_REQUEST"),
    (b'{"prompt": "\xff"}', 400, "INVALID_REQUEST"),
    (b"[" * 100_000, 400, "INVALID_REQUEST"),
    (b'{"prompt": "a", "loras": ' + b'[{"loras":' * 20_000, 400, "INVALID_REQUEST"),
    (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "INVALID_REQUEST"),
    (body(seed="5"), 400, "INVALID_REQUEST"),
    (body(colour="x"), 400, "INVALID_REQUEST"),
    (body(initImage="http://127.0.0.1:1/a.png"), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage="/etc/passwd"), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage="/etc/abc"), 400, "INPUT_IMAGE_INVALID"),  # also base64
    (body(initImage=text_of(b"this is text, and no picture at all")), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage=text_of(png((64, 64))[:-100])), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage=text_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage=text_of(bomb())), 400, "INPUT_IMAGE_INVALID"),
    (body(initImage=text_of(png()), maskImage=text_of(b"no")), 400, "INPUT_IMAGE_INVALID"),
    (body(prompt="x" * (1 << 20)), 413, "PAYLOAD_TOO_LARGE"),
]


@pytest.mark.parametrize(("data", "status", "code"), BAD_BODIES, ids=lambda value: repr(value)[:40])
async def test_bad_bodies_have_their_code_and_leave_nothing(
    served: Served, caplog: pytest.LogCaptureFixture, data: bytes, status: int, code: str
) -> None:
    caplog.set_level(logging.INFO)
    reply = await served.ask("POST", GENERATIONS, data=io.BytesIO(data), headers=JSON)
    assert (reply.status, reply.code) == (status, code)
    assert reply.json["error"]["message"]
    assert (await served.get(GENERATIONS)).json == {"generations": []}
    assert not caplog.records


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
async def test_other_content_types_are_refused(served: Served, kind: str) -> None:
    reply = await served.ask("POST", GENERATIONS, data=body(), headers={"Content-Type": kind})
    assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"initImage": b""}, "INPUT_IMAGE_INVALID"),
        ({"initImage": b"text"}, "INPUT_IMAGE_INVALID"),
        ({"initImage": png()[:30]}, "INPUT_IMAGE_INVALID"),
        ({"initImage": bomb()}, "INPUT_IMAGE_INVALID"),
        ({"initImage": "/etc/passwd"}, "INPUT_IMAGE_INVALID"),
        ({"width": "wide"}, "INVALID_REQUEST"),
        ({"previews": "proj"}, "INVALID_REQUEST"),
        ({"file": png()}, "INVALID_REQUEST"),
        ({"other": "x"}, "INVALID_REQUEST"),
    ],
)
async def test_bad_forms_have_their_code(
    served: Served, caplog: pytest.LogCaptureFixture, part: dict, code: str
) -> None:
    caplog.set_level(logging.INFO)
    form = aiohttp.FormData(PROMPT, default_to_multipart=True)
    for name, value in part.items():
        if isinstance(value, bytes):
            form.add_field(name, value, filename="../../etc/passwd", content_type="image/png")
        else:
            form.add_field(name, value)
    reply = await served.ask("POST", GENERATIONS, data=form)
    assert (reply.status, reply.code) == (400, code)
    assert not caplog.records


async def test_a_large_picture_is_taken_where_large_text_is_not(served: Served) -> None:
    noise = Image.effect_noise((1600, 1200), 90)
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    picture = text_of(buffer.getvalue())
    assert len(picture) > 1 << 20
    reply = await served.post({**PROMPT, "initImage": picture})
    assert reply.status == 201


@pytest.mark.parametrize(
    ("fields", "said", "hint"),
    [
        ({"prompt": "x", "promt": "y"}, "'promt'", "'prompt'"),
        ({"prompt": "x", "init_image": "aGk="}, "'init_image'", "'initImage'"),
        ({"prompt": "x", "image": "aGk="}, "'image'", "'initImage'"),
        ({"prompt": "x", "previews": {"strid": 2}}, "'previews.strid'", "'previews.stride'"),
        ({"prompt": "x", "previews": True}, "previews must be an object", "skipFirst"),
        ({"prompt": "x", "loras": ["ink"]}, "loras must be an object", "weight"),
        ({"prompt": "x", "quux": 1}, "'quux'", "cfgScale"),
        ({"prompt": "x", "strength": 0.5}, "strength needs initImage", None),
    ],
)
def test_what_is_wrong_with_a_field_is_said_with_what_is_right(fields, said, hint):
    with pytest.raises(InvalidRequestError) as caught:
        image_request(fields)
    assert said in caught.value.message
    assert hint is None or hint in caught.value.hint


def test_a_file_under_a_name_that_is_none_is_told_so():
    with pytest.raises(InvalidRequestError, match="no field named 'image'"):
        image_request(form_fields({"prompt": "x", "image": b"PNG"}))
    with pytest.raises(InvalidRequestError, match="no field named 'promt'"):
        image_request(form_fields({"prompt": "x", "promt": "a cat"}))
