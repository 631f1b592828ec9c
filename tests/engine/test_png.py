"""Telling a whole PNG from a torn one."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdmanager.engine.png import SIGNATURE, is_whole_png


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
