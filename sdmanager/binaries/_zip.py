"""The contents of a zip file: each entry's own header must agree with the directory, and the entries fill the file."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from ._entries import DamagedError, UnsafeError, shown
from ._zip_directory import (
    ALL_ONES,
    DESCRIPTOR_FLAG,
    ENCRYPTED_FLAGS,
    MAGIC,
    PATCH_FLAG,
    STORED,
    UTF8_FLAG,
    extra_fields,
    read_directory,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._entries import Entry, Limits, Parts
    from ._zip_directory import Member

_LOCAL = struct.Struct("<4s5H3L2H")
_SAME_FLAGS = DESCRIPTOR_FLAG | UTF8_FLAG | ENCRYPTED_FLAGS | PATCH_FLAG
_DESCRIPTOR_MAGIC = b"PK\x07\x08"
_READ = 1 << 18
_PIECE = 1 << 20


def is_zip(start: bytes) -> bool:
    """Whether a file that begins so is a zip file with at least one entry."""
    return start.startswith(MAGIC)


def read_zip(
    file: BinaryIO, limits: Limits, admit: Callable[[Entry], Parts]
) -> Iterator[tuple[Entry, Parts, Iterator[bytes]]]:
    """Each entry, its path and its content. Everything but the contents is judged before the first is given.

    Args:
        file: The zip file.
        limits: How much it may hold.
        admit: Judges an entry and gives the parts of its path.

    Raises:
        DamagedError: It contradicts itself, or ends too soon.
        UnsafeError: Something in it is neither a plain file, nor a folder, nor a symbolic link.
    """
    members, directory = read_directory(file, limits)
    members.sort(key=lambda member: member.offset)
    paths = [admit(member.entry) for member in members]
    starts = [_check_local(file, member, directory) for member in members]
    _check_no_gaps(file, members, starts, directory)
    for member, parts, start in zip(members, paths, starts, strict=True):
        yield member.entry, parts, _checked(member, _content(file, member, start))


def _check_local(file: BinaryIO, member: Member, directory: int) -> int:
    """Compare an entry's own header with the directory, and tell where its content begins."""
    name = shown(member.entry.name)
    if member.offset + _LOCAL.size + len(member.raw_name) > directory:
        raise UnsafeError(f"{name} is not where the directory says")
    file.seek(member.offset)
    record = _LOCAL.unpack(file.read(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, *lengths = record
    name_length, extra_length = map(int, lengths)
    if signature != MAGIC or file.read(name_length) != member.raw_name:
        raise UnsafeError(f"{name} has another name in its own header")
    size, packed = widened([size, packed], extra_fields(file.read(extra_length)))
    found, wanted = (crc, packed, size), (member.crc, member.packed, member.entry.size)
    if flags & DESCRIPTOR_FLAG:
        # What was not known yet is 0, or in zip64 form all ones or 0; it comes after the content.
        agrees = all(value in {0, ALL_ONES, other} for value, other in zip(found, wanted, strict=True))
    else:
        agrees = found == wanted
    if not agrees or method != member.method or (flags ^ member.flags) & _SAME_FLAGS:
        raise UnsafeError(f"{name} has other facts in its own header")
    return member.offset + _LOCAL.size + name_length + extra_length


def _check_no_gaps(file: BinaryIO, members: list[Member], starts: list[int], directory: int) -> None:
    """From the first byte to the directory, each belongs to exactly one entry: no bombs of shared content."""
    offsets = [*(member.offset for member in members), directory]
    if offsets[0] != 0:
        raise UnsafeError("something stands before its first entry")
    for member, start, (_, following) in zip(members, starts, pairwise(offsets), strict=True):
        rest = following - start - member.packed
        if rest < 0:
            raise UnsafeError(f"{shown(member.entry.name)} overlaps what follows it")
        if member.flags & DESCRIPTOR_FLAG:
            file.seek(start + member.packed)
            good = file.read(min(rest, 25)) in _descriptors(member)
        else:
            good = rest == 0
        if not good:
            raise UnsafeError(f"something stands after {shown(member.entry.name)}")


def _descriptors(member: Member) -> set[bytes]:
    """All forms in which checksum and sizes may follow the content."""
    facts = (member.crc, member.packed, member.entry.size)
    forms = {struct.pack("<LQQ", *facts)}
    if max(facts[1:]) <= ALL_ONES:
        forms.add(struct.pack("<LLL", *facts))
    return forms | {_DESCRIPTOR_MAGIC + form for form in forms}


def _checked(member: Member, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content, which has the size and the checksum that the directory says, or an error at its end."""
    name = shown(member.entry.name)
    left, crc = member.entry.size, 0
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise UnsafeError(f"{name} unpacks to more than it says")
        crc = zlib.crc32(piece, crc)
        yield piece
    if left or crc != member.crc:
        raise DamagedError(f"{name} has a wrong {'size' if left else 'checksum'}")


def _content(file: BinaryIO, member: Member, start: int) -> Iterator[bytes]:
    file.seek(start)
    if member.method == STORED:
        yield from _raw(file, member.packed, _PIECE)
        return
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in _raw(file, member.packed, _READ):
        if decoder.eof:
            raise DamagedError(f"{shown(member.entry.name)} ends before its end")
        while packed or not decoder.eof:
            piece = decoder.decompress(packed, _PIECE)
            packed = decoder.unconsumed_tail
            if not piece:
                break
            yield piece
    if not decoder.eof or decoder.unused_data:
        raise DamagedError(f"{shown(member.entry.name)} is cut short, or longer than it should be")


def _raw(file: BinaryIO, size: int, piece: int) -> Iterator[bytes]:
    while size:
        data = file.read(min(size, piece))
        if not data:
            raise DamagedError("it ends too soon")
        size -= len(data)
        yield data
