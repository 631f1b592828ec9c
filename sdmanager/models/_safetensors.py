from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final, TypeGuard

from ._header import DamagedError, Header, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The format allows 100 MB. Tensors take up to 1 MB of it; the rest is what trainers write about themselves.
MAX_HEADER: Final = 16 * 1024 * 1024

_LENGTH: Final = 8

# It is shown and written down as the quantisation, so that it must not be any text.
_TYPE_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,15}")
_MAX_NAME: Final = 512

# Bits per element, of the types that the safetensors library knows.
_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "F8_E4M3": 8,
        "F8_E5M2": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)

# Made once, because loads() with options makes one each time.
_JSON: Final = json.JSONDecoder(strict=False)

# One entry at a time, so that no more than one of them is ever parsed into objects. Possessive: none goes back.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_KEY: Final = re.compile(rb"\s*+(" + _STRING + rb")\s*+:\s*+", re.DOTALL)
_ENTRY: Final = re.compile(rb"\{[^{}]{0,1000}+\}")
_METADATA: Final = re.compile(rb'\{(?:[^"{}]++|' + _STRING + rb")*+\}", re.DOTALL)
_NOTHING: Final = re.compile(rb"\{\s*+\}\s*+")
_NEXT: Final = re.compile(rb"\s*+([,}])\s*+")


def read_safetensors(file: BinaryIO, size: int) -> Header:
    """The header of a safetensors file.

    Args:
        file: Open, wherever it stands.
        size: Of the file, in bytes.

    Raises:
        DamagedError: It is cut short or contradicts itself.
    """
    file.seek(0)
    length = int.from_bytes(file.read(_LENGTH), "little")
    if length > size - _LENGTH:
        raise DamagedError(f"is cut short: its header should have {length:,} bytes, of {size:,} in all")
    if length > MAX_HEADER:
        raise DamagedError(
            f"has a header of {length:,} bytes, and {MAX_HEADER // 2**20} MiB are the most we read"
        )
    text = file.read(length)
    if len(text) != length:
        raise DamagedError("became shorter while it was read")
    header = Header()
    spans = [_tensor(header, name, entry) for name, entry in _entries(text)]
    _check_spans(spans, size - _LENGTH - length)
    return header


def _entries(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and description of each tensor, as JSON."""
    if _NOTHING.fullmatch(text):
        return
    at = 1
    if not text.startswith(b"{"):
        raise DamagedError("has a header that is no JSON object")
    while True:
        key = _KEY.match(text, at)
        if key is None:
            raise DamagedError(f"has a header that is no JSON at its byte {at:,}")
        name = _name(key[1])
        value = (_METADATA if name == "__metadata__" else _ENTRY).match(text, key.end())
        if value is None:
            raise DamagedError(f"has a header that does not describe the tensor {shown(name)}")
        if name != "__metadata__":
            yield name, value[0]
        separator = _NEXT.match(text, value.end())
        if separator is None:
            raise DamagedError(f"has a header that is no JSON at its byte {value.end():,}")
        at = separator.end()
        if separator[1] == b"}":
            break
    if at != len(text):
        raise DamagedError("has something else after its header")


def _name(key: bytes) -> str:
    if len(key) > _MAX_NAME:
        raise DamagedError(f"has a name of {len(key):,} bytes in its header")
    if b"\\" not in key:
        return key[1:-1].decode("utf-8", "surrogateescape")
    name = _parsed(key, "a name")
    assert isinstance(name, str)  # noqa: S101
    return name


def _parsed(text: bytes, what: str) -> object:
    try:
        value: object = _JSON.decode(text.decode())
    except (ValueError, RecursionError):
        raise DamagedError(f"has a header with {what} that is no JSON") from None
    return value


def _tensor(header: Header, name: str, entry: bytes) -> tuple[int, int]:
    """Take in a tensor; from where to where its numbers are."""
    given = _parsed(entry, f"the tensor {shown(name)}")
    assert isinstance(given, dict)  # noqa: S101
    type_name, shape, offsets = given.get("dtype"), given.get("shape"), given.get("data_offsets")
    if (
        not isinstance(type_name, str)
        or not _TYPE_NAME.fullmatch(type_name)
        or not _are_counts(shape)
        or not _are_counts(offsets)
        or len(offsets) != 2
    ):
        raise DamagedError(f"has a header that does not describe the tensor {shown(name)}")
    elements = header.add(name, tuple(shape), type_name)
    begin, end = offsets
    bits = _BITS.get(type_name)
    if begin > end or (bits is not None and (end - begin) * 8 != elements * bits):
        raise DamagedError(f"gives the tensor {shown(name)} a size that its shape and type do not have")
    header.bytes_by_type[type_name] += end - begin
    return begin, end


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_spans(spans: list[tuple[int, int]], room: int) -> None:
    reached = 0
    for begin, end in sorted(spans):
        if begin < reached and begin < end:
            raise DamagedError("has tensors that overlap")
        reached = max(reached, end)
    if reached > room:
        raise DamagedError(f"is cut short: its tensors have {reached:,} bytes, and {room:,} are there")
