"""Input pictures made to fit, and the text in pictures."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib

import pytest
from a1111 import encoded
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdmanager.errors import InputImageError
from sdmanager.server.a1111.asked import Inputs, ResizeMode
from sdmanager.server.a1111.pictures import fitted_inputs, parameters_in, resized, texts_in


def halves(size=(64, 32), left="red", right="blue") -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def inputs(init: Image.Image, mask: Image.Image | None = None, **more) -> Inputs:
    fields = {"resize": ResizeMode.STRETCH, "blur": 0.0, "invert": False, **more}
    return Inputs(encoded(init), None if mask is None else encoded(mask), **fields)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_stretching_keeps_all_of_the_picture():
    image = resized(halves(), (64, 64), ResizeMode.STRETCH)
    assert (image.getpixel((2, 2)), image.getpixel((61, 61))) == ((255, 0, 0), (0, 0, 255))


def test_cropping_keeps_the_middle():
    wide = Image.new("RGB", (96, 32), "green")
    wide.paste("red", (32, 0, 64, 32))
    image = resized(wide, (64, 64), ResizeMode.CROP)
    # But for what the filter takes from beyond the edge.
    assert all(image.getpixel((x, y))[0] > 190 for x in (0, 32, 63) for y in (0, 63))


@pytest.mark.parametrize(("size", "expected"), [((64, 128), (64, 128)), ((128, 33), (128, 33))])
def test_filling_draws_the_edges_out(size, expected):
    picture = halves()
    image = resized(picture, size, ResizeMode.FILL)
    assert image.size == expected
    corners = [image.getpixel((x, y)) for x in (0, size[0] - 1) for y in (0, size[1] - 1)]
    assert corners == [(255, 0, 0), (255, 0, 0), (0, 0, 255), (0, 0, 255)]


def test_a_line_of_pixels_is_a_picture_too():
    assert resized(Image.new("RGB", (5000, 1), "red"), (64, 64), ResizeMode.FILL).getpixel((0, 63)) == (
        255,
        0,
        0,
    )


@given(st.tuples(*[st.integers(1, 40)] * 4), st.sampled_from(ResizeMode))
def test_every_shape_becomes_every_other(sizes, mode):
    picture = Image.new("L", sizes[:2], 200)
    image = resized(picture, sizes[2:], mode)
    assert image.size == sizes[2:]
    assert image.getextrema() == (200, 200)


def test_pictures_are_left_to_be_cropped_elsewhere_as_they_came():
    picture = halves()
    data, mask = fitted_inputs(inputs(picture, resize=ResizeMode.CROP), (64, 64))
    assert (opened(data).size, mask) == ((64, 32), None)


def test_a_picture_has_its_own_size_where_none_is_named():
    assert opened(fitted_inputs(inputs(halves()), None)[0]).size == (64, 32)


@pytest.mark.parametrize("size", [None, (64, 32), (32, 32)])
@pytest.mark.parametrize("mode", ResizeMode)
def test_what_is_transparent_becomes_white(size, mode):
    picture = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 32, 32))
    image = opened(fitted_inputs(inputs(picture, resize=mode), size)[0])
    assert image.mode == "RGB"
    right, bottom = image.width - 1, image.height - 1
    assert (image.getpixel((0, bottom)), image.getpixel((right, 0))) == ((255, 0, 0), (255, 255, 255))


def test_a_picture_without_transparency_is_left_as_it_came():
    sent = inputs(halves())
    assert fitted_inputs(sent, (64, 32))[0] == base64.b64decode(sent.init)


def test_the_mask_goes_with_the_picture():
    _, mask = fitted_inputs(inputs(halves(), halves(left="black", right="white")), (64, 64))
    image = opened(mask)
    assert (image.mode, image.size) == ("L", (64, 64))
    assert (image.getpixel((0, 60)), image.getpixel((63, 0))) == (0, 255)


def test_a_mask_may_be_inverted_and_its_edge_softened():
    black_white = halves(left="black", right="white")
    _, mask = fitted_inputs(inputs(halves(), black_white, invert=True, blur=4.0), None)
    image = opened(mask)
    assert (image.getpixel((0, 16)), image.getpixel((63, 16))) == (255, 0)
    assert 0 < image.getpixel((31, 16)) < 255


def test_what_is_not_transparent_in_a_mask_is_white():
    mask = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 32, 32))
    image = opened(fitted_inputs(inputs(halves(), mask), None)[1])
    assert (image.getpixel((0, 0)), image.getpixel((63, 0))) == (255, 0)


def test_a_mask_that_is_opaque_everywhere_goes_by_its_brightness():
    mask = halves(left="black", right="white").convert("RGBA")
    image = opened(fitted_inputs(inputs(halves(), mask), None)[1])
    assert (image.getpixel((0, 0)), image.getpixel((63, 0))) == (0, 255)


@pytest.mark.parametrize(
    "sent", ["", "no base64!", "AAAA", "data:image/png;base64,AAAA", "http://a.example/b.png"]
)
def test_what_is_no_picture_is_refused(sent):
    with pytest.raises(InputImageError):
        fitted_inputs(Inputs(sent, None, ResizeMode.STRETCH, 0.0, False), (64, 64))


def with_text(text: str) -> bytes:
    info = PngInfo()
    info.add_text("parameters", text)
    buffer = io.BytesIO()
    halves().save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


INFOTEXT = 'a cat, "x: y"\nand more\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Size: 64x64, Hashes: "a, b"'


def test_the_settings_in_a_picture_are_told_apart():
    assert texts_in(with_text(INFOTEXT)) == {"parameters": INFOTEXT}
    assert parameters_in(INFOTEXT) == {
        "Prompt": 'a cat, "x: y"\nand more', "Negative prompt": "blurry", "Steps": "20", "Sampler": "Euler a",
        "Size": "64x64", "Hashes": "a, b",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [("", {}), ("only words", {"Prompt": "only words"})])
def test_a_text_without_settings_is_a_prompt(text, expected):
    assert parameters_in(text) == expected


def test_an_empty_prompt_is_told_from_the_negative_one():
    found = parameters_in("Negative prompt: blurry\nSteps: 2")
    assert (found["Prompt"], found["Negative prompt"], found["Steps"]) == ("", "blurry", "2")


def test_the_pixels_are_not_looked_at_for_it():
    # 3.6 thousand million of them, which are none.
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", b"no pixels"), (b"tEXt", b"parameters\0" + INFOTEXT.encode())]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    assert texts_in(data) == {"parameters": INFOTEXT}


def test_a_picture_without_text_has_none():
    assert texts_in(base64.b64decode(encoded(halves(), "JPEG"))).get("parameters") is None


@pytest.mark.parametrize("piece", ["a", "a:", ' "', "a: ", 'a:"', " ", ",", "a -/"])
def test_long_texts_are_read_in_no_time(piece):
    began = time.process_time()
    parameters_in("\nSteps: " + piece * 300_000)
    assert time.process_time() - began < 5  # what is not linear takes hours


@given(st.text())
def test_any_text_is_read(text):
    assert all(isinstance(value, str) for value in parameters_in(text).values())


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_refused(data):
    with pytest.raises(InputImageError):
        texts_in(data)
