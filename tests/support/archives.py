"""Archives made byte by byte, so that they can say what no tool would write."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

ONES = 0xFFFFFFFF
REGULAR, FOLDER, LINK = 0o100644, 0o040755, 0o120777


@dataclass
class Zipped:
    """One entry of a zip file; what is None is as it should be."""

    name: str | bytes
    data: bytes = b"x"
    mode: int = REGULAR
    method: int = 8
    flags: int = 0x800
    raw: bytes | None = None
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    extra: bytes = b""
    attributes: int = 0
    disk: int = 0
    before: bytes = b""
    after: bytes = b""
    local: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name.encode() if isinstance(self.name, str) else self.name
        if self.raw is None:
            self.raw = deflated(self.data) if self.method == 8 else self.data
        self.crc = zlib.crc32(self.data) if self.crc is None else self.crc
        self.size = len(self.data) if self.size is None else self.size
        self.packed = len(self.raw) if self.packed is None else self.packed


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_bytes(
    *entries: Zipped,
    comment: bytes = b"",
    before: bytes = b"",
    between: bytes = b"",
    locals_of: tuple[Zipped, ...] | None = None,
    **end: int,
) -> bytes:
    """A zip file.

    Args:
        entries: Of the directory.
        comment: Of the archive.
        before: Bytes in front of everything, with no offset changed.
        between: Bytes between directory and end record, which the directory's size does not count.
        locals_of: Entries that have a header and content; all when None.
        end: Fields of the end record that are to be wrong: disk, count, size, offset.
    """
    body, offsets = b"", {}
    for entry in entries if locals_of is None else locals_of:
        body += entry.before
        offsets[id(entry)] = len(body)
        fact = {"crc": entry.crc, "packed": entry.packed, "size": entry.size, "name": entry.name}
        fact |= {"flags": entry.flags, "method": entry.method, "extra": b""} | entry.local
        numbers = (20, fact["flags"], fact["method"], 0, 0x21, fact["crc"], fact["packed"], fact["size"])
        lengths = (len(fact["name"]), len(fact["extra"]))
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *numbers, *lengths)
        body += fact["name"] + fact["extra"] + entry.raw + entry.after
    directory = b""
    for entry in entries:
        offset = offsets.get(id(entry), 0) if entry.offset is None else entry.offset
        numbers = (0x31E, 20, entry.flags, entry.method, 0, 0x21, entry.crc, entry.packed, entry.size)
        rest = (len(entry.name), len(entry.extra), 0, entry.disk, 0, entry.mode << 16 | entry.attributes)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers, *rest, offset)
        directory += entry.name + entry.extra
    wanted = {"disk": 0, "count": len(entries), "size": len(directory), "offset": len(body)} | end
    counts = (wanted["disk"], wanted["disk"], wanted["count"], wanted["count"])
    record = struct.pack("<4s4H2LH", b"PK\5\6", *counts, wanted["size"], wanted["offset"], len(comment))
    return before + body + directory + between + record + comment


def zip64_end(data: bytes, *, record_at: int | None = None, disks: int = 1, **fields: int) -> bytes:
    """The same zip file with a zip64 end record, in which fields may be wrong: count, size, offset, length."""
    at = data.rindex(b"PK\5\6")
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2LH", data[at : at + 22])
    full = {"count": count, "size": size, "offset": offset, "length": 44} | fields
    record = struct.pack(
        "<4sQ2H2L4Q",
        *(
            b"PK\6\6",
            full["length"],
            45,
            45,
            0,
            0,
            full["count"],
            full["count"],
            full["size"],
            full["offset"],
        ),
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at if record_at is None else record_at, disks)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, ONES, ONES, 0)
    return data[:at] + record + locator + end


def zip64_extra(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


@dataclass
class Tarred:
    """One header of a tar file, with what follows it."""

    name: str | bytes
    data: bytes = b"x"
    kind: bytes = b"0"
    target: str | bytes = b""
    mode: int = 0o644
    size: int | bytes | None = None
    prefix: bytes = b""
    magic: bytes = b"ustar\x0000"
    wrong_sum: bool = False

    def to_bytes(self) -> bytes:
        name = self.name.encode() if isinstance(self.name, str) else self.name
        target = self.target.encode() if isinstance(self.target, str) else self.target
        size = len(self.data) if self.size is None else self.size
        number = size if isinstance(size, bytes) else b"%011o\0" % size
        header = bytearray(512)
        for at, value in (
            (0, name[:100]),
            (100, b"%07o\0" % self.mode),
            (124, number),
            (136, b"%011o\0" % 0),
            (156, self.kind),
            (157, target[:100]),
            (257, self.magic),
            (345, self.prefix),
        ):
            header[at : at + len(value)] = value
        return with_sum(bytes(header), wrong=self.wrong_sum) + padded(self.data)


def with_sum(header: bytes, *, wrong: bool = False) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % (sum(blank) + wrong) + blank[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(kind: bytes = b"x", **records: str | bytes) -> Tarred:
    """An extended header; dots in keys are written as two underscores."""
    data = b""
    for key, value in records.items():
        raw = value.encode() if isinstance(value, str) else value
        body = b" " + key.replace("__", ".").encode() + b"=" + raw + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        data += str(length).encode() + body
    return Tarred("pax", data, kind)


def long_name(name: str, kind: bytes = b"L") -> Tarred:
    return Tarred("././@LongLink", name.encode() + b"\0", kind, magic=b"ustar  \0")


def tar_bytes(*entries: Tarred, end: bytes = bytes(1024)) -> bytes:
    return b"".join(entry.to_bytes() for entry in entries) + end


def named(name: str, *, zipped: bool, data: bytes = b"x") -> list[Zipped] | list[Tarred]:
    """A file of that name, whatever the name."""
    if zipped:
        return [Zipped(name, data)]
    return [pax(path=name), Tarred("harmless", data)]


def linked(name: str, target: str | bytes, *, zipped: bool) -> list[Zipped] | list[Tarred]:
    """A symbolic link."""
    raw = target.encode() if isinstance(target, str) else target
    if zipped:
        return [Zipped(name, raw, LINK)]
    return [pax(path=name, linkpath=raw), Tarred("harmless", b"", b"2", "harmless")]


def archive_of(entries: list[Zipped] | list[Tarred], *, zipped: bool) -> bytes:
    return zip_bytes(*entries) if zipped else gzip.compress(tar_bytes(*entries), 1)


def tree(folder: Path) -> dict[str, tuple[int, str | bytes]]:
    """Everything below a folder: mode, and content or target."""
    found: dict[str, tuple[int, str | bytes]] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content: str | bytes = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = (info.st_mode, content)
    return found
