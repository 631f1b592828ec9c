"""What a tar file is packed in, read piece by piece in bounded memory."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ._entries import DamagedError, UnsafeError

if TYPE_CHECKING:
    from ._entries import Limits

GZIP_MAGIC = b"\x1f\x8b"
XZ_MAGIC = b"\xfd7zXZ\x00"
_READ = 1 << 18
# `xz -9` needs a little more than its dictionary of 64 MiB. A header may ask for 4 GiB.
_XZ_MEMORY = 66 << 20


class Stream(Protocol):
    """Bytes in order."""

    def read(self, size: int, /) -> bytes:
        """At most that many, but at least one is asked for, and none at the end only."""


def tar_stream(file: BinaryIO, magic: bytes, limits: Limits) -> Stream:
    """The tar file in an archive, whatever it is packed with."""
    if magic.startswith(GZIP_MAGIC):
        return _Metered(gzip.GzipFile(fileobj=file, mode="rb"), limits)
    if magic.startswith(XZ_MAGIC):
        return _Metered(_Xz(file), limits)
    return _Metered(file, limits)


def read_exactly(stream: Stream, size: int) -> bytes:
    """That many bytes.

    Raises:
        DamagedError: There are not so many.
    """
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise DamagedError("it ends too soon")
        data += piece
    return data


class _Xz:
    """One xz stream and nothing after it; ``lzma.LZMAFile`` would pass over anything that follows."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while not self._decoder.eof:
            packed = self._file.read(_READ) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise DamagedError("it ends too soon")
            if piece := self._decoder.decompress(packed, size):
                return piece
        if self._decoder.unused_data or self._file.read(1):
            raise DamagedError("something follows its end")
        return b""


class _Metered:
    """Stops what unpacks to far more than it should, whatever it says of itself."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._left = limits.unpacked

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UnsafeError(f"it unpacks to more than {self._limits.ratio:g} times its size")
        return data
