"""Reading a tar file strictly: whatever two readers could understand differently is refused.

``tarfile`` is not used: it takes a damaged header after the first for the end of the archive, and reads
extended headers whole, of whatever size they are.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ._entries import DamagedError, Entry, UnsafeError, shown
from ._streams import read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._entries import Kind, Limits, Parts
    from ._streams import Stream

_BLOCK = 512
_PIECE = 1 << 20
_EXTENDED_MAX = 1 << 16
_PADDING_MAX = 1 << 20
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"5": "folder", b"2": "link"}
_MEANINGFUL = frozenset({"path", "linkpath", "size"})
_UTF8 = "ISO-IR 10646 2000 UTF-8"


def is_tar(start: bytes) -> bool:
    """Whether a file that begins so is a tar file (of 1988 or later)."""
    return start[257:262] == b"ustar"


def read_tar(
    stream: Stream, limits: Limits, admit: Callable[[Entry], Parts]
) -> Iterator[tuple[Entry, Parts, Iterator[bytes]]]:
    """Each entry, its path and its content, which is to be read before the next entry is asked for.

    Args:
        stream: The tar file.
        limits: How much it may hold.
        admit: Judges an entry and gives the parts of its path.

    Raises:
        DamagedError: It contradicts itself, or ends too soon.
        UnsafeError: Something in it is neither a plain file, nor a folder, nor a symbolic link.
    """
    headers = _Headers(stream, limits)
    while (found := headers.next()) is not None:
        entry, target = found
        parts = admit(entry)
        yield entry, parts, iter([target]) if entry.kind == "link" else _content(stream, entry.size)
    _check_end(stream)


def _content(stream: Stream, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read(min(left, _PIECE))
        if not piece:
            raise DamagedError("it ends too soon")
        left -= len(piece)
        yield piece
    read_exactly(stream, -size % _BLOCK)


def _check_end(stream: Stream) -> None:
    """One empty block was read. Reading on to the end has the checksum of the packing verified too."""
    if any(read_exactly(stream, _BLOCK)):
        raise DamagedError("an empty block is not its end")
    left = _PADDING_MAX
    while piece := stream.read(left):
        left -= len(piece)
        if any(piece) or left <= 0:
            raise UnsafeError("something follows its end")


class _Headers:
    """Headers with the extended ones before them taken in."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        # Three extended headers may stand before each entry, and a few at the start.
        self._left = 4 * limits.files + 4

    def next(self) -> tuple[Entry, bytes] | None:
        """The next entry with the target that a link has; None at the end."""
        extended: dict[str, bytes] = {}
        while any(block := read_exactly(self._stream, _BLOCK)):
            self._left -= 1
            if self._left < 0:
                raise UnsafeError("it has too many headers")
            _check_sum(block)
            kind, size = block[156:157], _number(block[124:136])
            if kind not in {b"x", b"g", b"L", b"K"}:
                return _entry(block, size, extended)
            found = self._extended(kind, size)
            if kind == b"g" and found:
                raise UnsafeError("a global header changes the entries")
            if extended.keys() & found.keys():
                raise UnsafeError("two extended headers contradict each other")
            extended |= found
        if extended:
            raise DamagedError("it ends after an extended header")
        return None

    def _extended(self, kind: bytes, size: int) -> dict[str, bytes]:
        """What an extended header says that matters here."""
        if not 0 <= size <= _EXTENDED_MAX:
            raise UnsafeError("an extended header is too large")
        data = read_exactly(self._stream, size)
        read_exactly(self._stream, -size % _BLOCK)
        if kind in {b"L", b"K"}:
            name = data.removesuffix(b"\0")
            if not name or b"\0" in name:
                raise UnsafeError("a long name has no end, or two")
            return {"path" if kind == b"L" else "linkpath": name}
        return _pax_records(data)


def _pax_records(data: bytes) -> dict[str, bytes]:
    """The records that change the entry; all others must be harmless."""
    found: dict[str, bytes] = {}
    while data:
        digits, space, _ = data[:20].partition(b" ")
        if not space or not digits.isdigit():
            raise DamagedError("an extended header is malformed")
        record, data = data[: int(digits)], data[int(digits) :]
        raw_key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != int(digits) or record[-1:] != b"\n" or not equals:
            raise DamagedError("an extended header is malformed")
        key = raw_key.decode()
        if key.startswith("GNU.sparse") or (key == "hdrcharset" and value.decode() != _UTF8):
            raise UnsafeError(f"an extended header has {shown(key)}")
        if key in _MEANINGFUL:
            if key in found or not value:
                raise UnsafeError(f"an extended header has {shown(key)} twice, or empty")
            found[key] = value
    return found


def _entry(block: bytes, size: int, extended: dict[str, bytes]) -> tuple[Entry, bytes]:
    name = extended.get("path", _header_name(block)).decode()
    kind = _KINDS.get(block[156:157])
    if kind is None:
        raise UnsafeError(f"{shown(name)} is neither a plain file, nor a folder, nor a symbolic link")
    if "size" in extended:
        said = extended["size"]
        if not said.isdigit() or len(said) > 19 or size not in {0, int(said)}:
            raise UnsafeError(f"{shown(name)} has two sizes")
        size = int(said)
    target = extended.get("linkpath", _text(block[157:257]))
    if (kind == "link") != bool(target) or (kind == "link" and size):
        raise UnsafeError(f"{shown(name)} is half a link")
    executable = bool(_number(block[100:108]) & stat.S_IXUSR)
    return Entry(name, kind, len(target) if kind == "link" else size, executable), target


def _header_name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    # GNU tar may keep times where others keep the front of a long name.
    if prefix and block[257:265] != b"ustar\x0000":
        raise UnsafeError("a header can be read in two ways")
    return prefix + b"/" + name if prefix else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] in {0x80, 0xFF}:
        return int.from_bytes(field[1:], "big", signed=False) - (1 << 8 * len(field) - 8) * (field[0] == 0xFF)
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if any(digit not in b"01234567" for digit in digits):
        raise DamagedError("a header is malformed")
    return int(digits, 8)


def _check_sum(block: bytes) -> None:
    if not is_tar(block):
        raise DamagedError("a header is not one")
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _number(block[148:156]):
        raise DamagedError("a header has a wrong checksum")
