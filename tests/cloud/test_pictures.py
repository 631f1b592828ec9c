"""Pictures to and from services that make Pillow stumble."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from sdmanager.cloud import _pictures
from sdmanager.cloud._pictures import decoded, encoded
from sdmanager.errors import CloudError, InputImageError


def png() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(buffer, "PNG")
    return buffer.getvalue()


def with_an_empty_profile() -> bytes:
    """A PNG whose checksums are right, with a last chunk that makes Pillow raise ``IndexError``."""
    data = png()
    return data[:-12] + struct.pack(">I4sI", 0, b"iCCP", zlib.crc32(b"iCCP")) + data[-12:]


def test_a_picture_to_start_from() -> None:
    with pytest.raises(InputImageError, match="is damaged"):
        encoded(with_an_empty_profile())


def test_a_picture_that_a_service_answered_with() -> None:
    with pytest.raises(CloudError, match="is damaged"):
        decoded(Image.open(io.BytesIO(with_an_empty_profile())), 7)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_says_nothing_of_the_picture_is_no_fault_of_it(monkeypatch, error) -> None:
    def fail(picture) -> None:
        raise error

    monkeypatch.setattr(_pictures, "turn_upright", fail)
    with pytest.raises(error):
        encoded(png())


def test_what_is_known_to_be_wrong_is_still_said() -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with pytest.raises(InputImageError, match="too many pixels"):
        encoded(buffer.getvalue())
