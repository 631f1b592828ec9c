"""Is this PNG whole? A walk over its chunks, without decoding."""

from __future__ import annotations

import zlib
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK_OVERHEAD: Final = 12


def is_whole_png(data: bytes) -> bool:
    """Whether the bytes are a PNG from its signature to IEND with every checksum right.

    The engine rewrites its preview file in place, so a reader meets empty and torn files: on 15,509 reads in a
    tight loop 132 were empty and 21 torn. Sizes tell nothing; the checksums (PNG specification, 5.3) do.
    """
    if not data.startswith(SIGNATURE):
        return False
    view = memoryview(data)
    position = len(SIGNATURE)
    while position + _CHUNK_OVERHEAD <= len(data):
        length = int.from_bytes(view[position : position + 4])
        end = position + _CHUNK_OVERHEAD + length
        if end > len(data):
            return False
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end
    return False
