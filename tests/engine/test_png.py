"""Telling a whole PNG from a torn one."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdmanager.engine.png import SIGNATURE, is_whole_png, png_texts


def png(mode: str = "RGB", size: tuple[int, int] = (9, 7), text: str = "prompt, 灯台") -> bytes:
    picture = Image.effect_noise(size, 60).convert(mode)
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt("parameters", text)
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Type, start and end of each chunk."""
    found, place = [], len(SIGNATURE)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], place, place + 12 + length))
        place += 12 + length
    return found


WHOLE = png()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_whole_pictures(mode):
    assert is_whole_png(png(mode))


def test_every_beginning_is_refused():
    assert len(WHOLE) > 150
    assert not [end for end in range(len(WHOLE)) if is_whole_png(WHOLE[:end])]


def test_every_flipped_bit_is_found():
    assert {kind for kind, _, _ in chunks(WHOLE)} >= {b"IHDR", b"iTXt", b"IDAT", b"IEND"}
    for place in range(len(WHOLE)):
        for bit in range(8):
            data = bytearray(WHOLE)
            data[place] ^= 1 << bit
            assert not is_whole_png(bytes(data)), (place, bit)


def test_each_chunk_that_is_missing_a_byte_is_found():
    for _, start, end in chunks(WHOLE):
        assert not is_whole_png(WHOLE[: end - 1] + WHOLE[end:])
        assert not is_whole_png(WHOLE[:start] + WHOLE[start + 1 :])


def test_a_new_picture_over_the_rest_of_an_old_one_counts():
    assert is_whole_png(WHOLE + b"the end of a longer file")


def test_a_new_beginning_before_an_old_end_does_not_count():
    other = png()  # other noise
    for place in range(1, min(len(WHOLE), len(other)) - 20):
        mixed = WHOLE[:place] + other[place:]
        assert is_whole_png(mixed) == (mixed in {WHOLE, other}), place


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89",
        SIGNATURE,
        b"GIF89a" + WHOLE,
        WHOLE[1:],
        bytes(1000),
        SIGNATURE + b"\xff\xff\xff\xffIEND",
        SIGNATURE + struct.pack(">I", 2**31) + b"IDAT" + bytes(50),
        SIGNATURE + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")),
    ],
)
def test_other_bytes(data):
    assert not is_whole_png(data)


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """The picture with one chunk more, before its end."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    start = chunks(WHOLE)[-1][1]
    return WHOLE[:start] + chunk + WHOLE[start:]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("international", [False, True])
def test_texts_are_read_as_pillow_writes_them(packed, international):
    info, buffer = PngInfo(), io.BytesIO()
    text = "prompt, 灯台" if international else "prompt, Türme"
    (info.add_itxt if international else info.add_text)("parameters", text, zip=packed)
    info.add_text("Comment", "second")
    Image.new("L", (8, 8)).save(buffer, "PNG", pnginfo=info)
    assert png_texts(buffer.getvalue()) == {"parameters": text, "Comment": "second"}


def test_a_text_may_stand_behind_the_pixels_and_be_utf8_where_the_engine_writes_it():
    data = with_chunk(b"tEXt", b"more\0" + "灯台".encode())
    assert png_texts(data) == {"parameters": "prompt, 灯台", "more": "灯台"}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b""),
        (b"tEXt", b"no end"),
        (b"tEXt", b"\0no keyword"),
        (b"zTXt", b"key\0\0no zlib"),
        (b"iTXt", b"key\0\0\0half"),
        (b"iTXt", b"key\0\1\0\0\0no zlib"),
        (b"tEXt", b"key\0" + bytes(5 << 20)),
        (b"zTXt", b"key\0\0" + zlib.compress(bytes(5 << 20))),
        (b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(5 << 20))),
    ],
)
def test_texts_that_cannot_be_read_or_are_too_long_are_left_out(kind, content):
    assert png_texts(with_chunk(kind, content)) == {"parameters": "prompt, 灯台"}


def test_texts_are_bounded_together():
    data = b"".join([SIGNATURE, WHOLE[8 : chunks(WHOLE)[0][2]]])
    content = b"%03d\0\0" + zlib.compress(bytes(1 << 20))
    for number in range(20):
        named = content.replace(b"%03d", b"%03d" % number)
        data += (
            struct.pack(">I", len(named)) + b"zTXt" + named + struct.pack(">I", zlib.crc32(b"zTXt" + named))
        )
    assert sum(map(len, png_texts(data).values())) == 4 << 20


def test_of_a_torn_picture_the_whole_part_is_read():
    data = with_chunk(b"tEXt", b"more\0text")
    assert png_texts(data[: chunks(data)[-2][2] - 1]) == {"parameters": "prompt, 灯台"}


@pytest.mark.parametrize("data", [b"", SIGNATURE, b"GIF89a", WHOLE[1:], SIGNATURE + WHOLE[33:]])
def test_what_is_no_png_has_no_texts(data):
    assert png_texts(data) is None
