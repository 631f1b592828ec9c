"""The central directory of a zip file, read strictly: whatever two readers could understand differently is refused.

``zipfile`` is not used: it accepts anything before and between the entries, cuts names at a NUL, and takes no
notice of most of what the entries' own headers say.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ._entries import DamagedError, Entry, UnsafeError, shown

if TYPE_CHECKING:
    from ._entries import Kind, Limits

MAGIC = b"PK\x03\x04"
DESCRIPTOR_FLAG = 0x0008
UTF8_FLAG = 0x0800
STORED, DEFLATED = 0, 8
ALL_ONES = 0xFFFFFFFF

ENCRYPTED_FLAGS = 0x0001 | 0x0040 | 0x2000
PATCH_FLAG = 0x0020
# Volume label and reparse point, in the attributes of DOS and Windows.
_ODD_ATTRIBUTES = 0x0008 | 0x0400
_FOLDER_ATTRIBUTE = 0x0010

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_DIRECTORY_MAX = 8 << 20
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the directory.

    Attributes:
        entry: What it is.
        raw_name: Its name as it stands there.
        flags: General purpose flags.
        method: How it is compressed.
        crc: Of the content.
        packed: Compressed size.
        offset: Of its own header.
    """

    entry: Entry
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Place:
    count: int
    size: int
    offset: int


def read_directory(file: BinaryIO, limits: Limits) -> tuple[list[Member], int]:
    """All entries, and where the directory begins.

    Raises:
        DamagedError: It is no zip file, or cut short.
        UnsafeError: Something in it is not plain.
    """
    place = _find(file, limits.packed)
    limits.check_count(place.count)
    if place.size > _DIRECTORY_MAX:
        raise UnsafeError("its directory is too large")
    data = _read_at(file, place.offset, place.size)
    members, at = [], 0
    for _ in range(place.count):
        member, at = _member(data, at)
        members.append(member)
    if at != len(data):
        raise UnsafeError("its directory holds more than the entries")
    return members, place.offset


def extra_fields(data: bytes) -> dict[int, bytes]:
    """Extra fields by their number.

    Raises:
        UnsafeError: They are malformed, or one is there twice.
    """
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise UnsafeError("an extra field is malformed")
        number, size = struct.unpack_from("<HH", data, at)
        at += 4 + size
        if at > len(data) or number in fields:
            raise UnsafeError("an extra field is malformed")
        fields[number] = data[at - size : at]
    return fields


def widened(values: list[int], fields: dict[int, bytes]) -> list[int]:
    """Sizes and offset, those that do not fit in 32 bits taken from the zip64 field.

    Raises:
        UnsafeError: The field has not exactly what is missing.
    """
    missing = values.count(ALL_ONES)
    field = fields.get(_ZIP64, b"")
    if len(field) != 8 * missing:
        raise UnsafeError("an entry has a zip64 field that does not fit it")
    wide = iter(struct.unpack(f"<{missing}Q", field))
    return [next(wide) if value == ALL_ONES else value for value in values]


def _find(file: BinaryIO, size: int) -> _Place:
    tail_size = min(size, _END.size + 0xFFFF)
    tail = _read_at(file, size - tail_size, tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise DamagedError("it has no end record")
    _, disk, directory_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if len(tail) - at != _END.size + comment:
        raise DamagedError("something follows its end record")
    end = size - tail_size + at
    if disk or directory_disk or here != count:
        raise UnsafeError("it is a part of several")
    has_locator = end >= _LOCATOR.size and _read_at(file, end - _LOCATOR.size, 4) == b"PK\x06\x07"
    if has_locator:
        return _find64(file, end - _LOCATOR.size, (count, length, offset))
    if offset + length != end:
        raise UnsafeError("its directory is not where its end record says")
    return _Place(count, length, offset)


def _find64(file: BinaryIO, locator_at: int, narrow: tuple[int, int, int]) -> _Place:
    _, disk, record_at, disks = _LOCATOR.unpack(_read_at(file, locator_at, _LOCATOR.size))
    if disk or disks != 1 or record_at + _END64.size != locator_at:
        raise UnsafeError("its zip64 end record is not where it should be")
    record = _END64.unpack(_read_at(file, record_at, _END64.size))
    signature, length, _, _, disk, directory_disk, here, *wide = record
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or disk or directory_disk or here != wide[0]:
        raise UnsafeError("its zip64 end record is not a plain one")
    for value, full, ones in zip(narrow, wide, (0xFFFF, ALL_ONES, ALL_ONES), strict=True):
        if value not in {full, ones}:
            raise UnsafeError("its two end records contradict each other")
    place = _Place(*wide)
    if place.offset + place.size != record_at:
        raise UnsafeError("its directory is not where its end record says")
    return place


def _member(data: bytes, at: int) -> tuple[Member, int]:
    if at + _CENTRAL.size > len(data):
        raise DamagedError("its directory is cut short")
    record = _CENTRAL.unpack_from(data, at)
    signature, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, attributes, offset = record
    at += _CENTRAL.size
    name_end, extra_end, end = at + lengths[0], at + sum(lengths[:2]), at + sum(lengths)
    if signature != b"PK\x01\x02" or end > len(data):
        raise DamagedError("its directory is malformed")
    raw_name, fields = data[at:name_end], extra_fields(data[name_end:extra_end])
    size, packed, offset = widened([size, packed, offset], fields)
    name = _name(raw_name, fields)
    if flags & ENCRYPTED_FLAGS:
        raise UnsafeError(f"{shown(name)} is encrypted")
    if method not in {STORED, DEFLATED} or flags & PATCH_FLAG:
        raise UnsafeError(f"{shown(name)} is compressed with method {method}, which is not supported")
    if disk or (method == STORED and size != packed):
        raise UnsafeError(f"{shown(name)} is not all there")
    entry = Entry(name, _kind(name, attributes), size, bool(attributes >> 16 & stat.S_IXUSR))
    return Member(entry, raw_name, flags, method, crc, packed, offset), end


def _name(raw: bytes, fields: dict[int, bytes]) -> str:
    # Unix tools put UTF-8 there without saying so; what is not UTF-8 could be anything.
    name = raw.decode()
    other = fields.get(_UNICODE_PATH)
    if other is not None and (other[:1] != b"\x01" or other[5:] != raw):
        raise UnsafeError(f"{shown(name)} has a second name")
    return name


def _kind(name: str, attributes: int) -> Kind:
    form = stat.S_IFMT(attributes >> 16)
    is_folder = name.endswith("/")
    if attributes & _ODD_ATTRIBUTES or form not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        raise UnsafeError(f"{shown(name)} is neither a plain file, nor a folder, nor a symbolic link")
    says_folder = form == stat.S_IFDIR or (not form and bool(attributes & _FOLDER_ATTRIBUTE))
    if says_folder != is_folder and (form or says_folder):
        raise UnsafeError(f"{shown(name)} is half a folder")
    if form == stat.S_IFLNK:
        return "link"
    return "folder" if is_folder else "file"


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) != size:
        raise DamagedError("it ends too soon")
    return data
