from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final

from ._header import MAX_TENSORS, DamagedError, Header, UnreadableError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = b"GGUF"

# Language models with the largest vocabularies have headers of about 16 MiB.
MAX_HEADER: Final = 64 * 1024 * 1024

_WINDOW: Final = 256 * 1024
_MAX_PAIRS: Final = 65_536
_MAX_TEXT: Final = 4096  # of keys; the engine's own limit
_MAX_NAME: Final = 512  # of tensors
_MAX_DIMENSIONS: Final = 8
_MAX_PIECES: Final = 100_000
_DEFAULT_ALIGNMENT: Final = 32

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

# Values of GGUF metadata: size by type.
_STRING, _ARRAY = 8, 9
_SIZES: Final[Mapping[int, int]] = MappingProxyType(
    {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
)

# ggml's types: name, elements per block, bytes per block (ggml.h, ggml-common.h).
_TYPES: Final[Mapping[int, tuple[str, int, int]]] = MappingProxyType(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 36),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
    }
)


def read_gguf(file: BinaryIO, size: int) -> Header:
    """The header of a GGUF file of version 2 or 3.

    Args:
        file: Open, wherever it stands.
        size: Of the file, in bytes.

    Raises:
        DamagedError: It is cut short or contradicts itself.
        UnreadableError: Another version, another byte order, or a piece of a split model.
    """
    cursor = _Cursor(file, size)
    cursor.take(len(MAGIC))
    version = cursor.u32()
    if version and version & 0xFFFF == 0:
        raise UnreadableError("is a GGUF file for big-endian machines")
    if version not in {2, 3}:
        raise UnreadableError(f"is a GGUF file of version {version}, and engines read versions 2 and 3")
    tensors, pairs = cursor.u64(), cursor.u64()
    if tensors > MAX_TENSORS:
        raise DamagedError(f"claims {tensors:,} tensors, more than any model has")
    if pairs > _MAX_PAIRS:
        raise DamagedError(f"claims {pairs:,} entries of metadata, more than any model has")
    header, alignment = Header(), _DEFAULT_ALIGNMENT
    for _ in range(pairs):
        key, value = _pair(cursor)
        if key == "general.architecture" and isinstance(value, str):
            header.architecture = value
        elif key == "general.alignment" and isinstance(value, int):
            alignment = value
        elif key == "split.count" and isinstance(value, int) and value <= _MAX_PIECES:
            header.pieces = max(value, 1)
    if alignment == 0 or alignment & (alignment - 1):
        raise DamagedError(f"aligns its tensors to {alignment:,} bytes, which is no power of two")
    ends = [_tensor(cursor, header) for _ in range(tensors)]
    start = -(-cursor.position // alignment) * alignment
    if ends and start + max(ends) > size:
        raise DamagedError(f"is cut short: its tensors reach to byte {start + max(ends):,} of {size:,}")
    return header


def _pair(cursor: _Cursor) -> tuple[str, str | int | None]:
    """The next key with its value, where that is a short string or a number of 32 bits or fewer."""
    key, kind = cursor.text(_MAX_TEXT), cursor.u32()
    if kind == _STRING:
        length = cursor.u64()
        if length <= _MAX_TEXT:
            return key, cursor.take(length).decode("utf-8", "replace")
        cursor.skip(length)
    elif kind == _ARRAY:
        kind, count = cursor.u32(), cursor.u64()
        if kind == _STRING:
            cursor.skip_strings(count)
        elif kind in _SIZES:
            cursor.skip(count * _SIZES[kind])
        elif kind == _ARRAY:
            raise UnreadableError(
                f"has an array of arrays in its metadata, {shown(key)}, which engines refuse"
            )
        else:
            raise DamagedError(f"has metadata of an unknown type {kind}, {shown(key)}")
    elif kind in _SIZES:
        value = int.from_bytes(cursor.take(_SIZES[kind]), "little")
        return key, value if _SIZES[kind] <= _U32.size else None
    else:
        raise DamagedError(f"has metadata of an unknown type {kind}, {shown(key)}")
    return key, None


def _tensor(cursor: _Cursor, header: Header) -> int:
    """Take in the next tensor; where it ends at least, counted from the first."""
    name = cursor.text(_MAX_NAME)
    dimensions = cursor.u32()
    if dimensions > _MAX_DIMENSIONS:
        raise DamagedError(f"gives the tensor {shown(name)} {dimensions:,} dimensions")
    *lengths, kind, offset = struct.unpack(f"<{dimensions}QIQ", cursor.take(8 * dimensions + 12))
    type_name, block, block_bytes = _TYPES.get(kind, (f"TYPE_{kind}", 1, 0))
    if lengths and lengths[0] % block:
        raise DamagedError(f"gives the tensor {shown(name)} rows that are no whole blocks of {type_name}")
    elements = header.add(name, tuple(reversed(lengths)), type_name)
    length = elements // block * block_bytes
    header.bytes_by_type[type_name] += length
    return int(offset) + length


class _Cursor:
    """Reads forward through the header, in windows, and never past its limit."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._base = 0
        self._at = 0  # within the window; past its end after a skip

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next bytes, all of them; no more than a few KiB at once."""
        end = self._at + count
        if end > len(self._window):
            self._refill(count)
            end = count
        data = self._window[self._at : end]
        self._at = end
        return data

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def text(self, limit: int) -> str:
        length = self.u64()
        if length > limit:
            raise DamagedError(f"has a name of {length:,} bytes in its header")
        # Told apart even where it is not UTF-8.
        return self.take(length).decode("utf-8", "surrogateescape")

    def skip(self, count: int) -> None:
        self._at += count
        self._check(self.position)

    def skip_strings(self, count: int) -> None:
        """Pass by so many strings, each of which has its length before it. Vocabularies have 300,000 of them."""
        self._check(self.position + _U64.size * count)
        unpack = _U64.unpack_from
        while count:
            window, at = self._window, self._at
            left = count
            try:
                for left in range(count, 0, -1):  # noqa: B007
                    at += unpack(window, at)[0] + 8
                left = 0
            except (struct.error, OverflowError):  # beyond the window
                pass
            self._at, count = at, left
            self._check(self.position)
            if count:
                self._refill(_U64.size)

    def _refill(self, needed: int) -> None:
        """Put the window where we are, with at least so many bytes in it."""
        position = self.position
        self._check(position + needed)
        self._file.seek(position)
        self._window, self._base, self._at = self._file.read(_WINDOW), position, 0
        if len(self._window) < needed:
            raise DamagedError("became shorter while it was read")

    def _check(self, end: int) -> None:
        if end > self._size:
            raise DamagedError(f"is cut short: its header reaches to byte {end:,} of {self._size:,}")
        if end > MAX_HEADER:
            raise DamagedError(f"has a header of more than {MAX_HEADER // 2**20} MiB, as no model has")
