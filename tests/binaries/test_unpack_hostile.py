"""Archives that mean harm, of all formats: each is refused by name, and nothing outside their folder changes."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zlib
from pathlib import Path

import pytest
from archives import (
    FOLDER,
    LINK,
    ONES,
    Tarred,
    Zipped,
    archive_of,
    deflated,
    linked,
    long_name,
    named,
    pax,
    tar_bytes,
    tree,
    zip64_end,
    zip64_extra,
    zip_bytes,
)

from sdmanager.binaries._unpack import unpack_archive
from sdmanager.errors import DownloadError

MAX_FILES, MAX_BYTES = 50, 3 << 20


def refuse(folder: Path, data: bytes, **options: object) -> DownloadError:
    """Unpack it, see it refused, and see that all around the folder is as it was."""
    into = folder / "in" / "into"
    into.mkdir(parents=True, exist_ok=True)
    for canary in (folder / "outside" / "canary", folder / "in" / "canary", folder / "canary"):
        canary.parent.mkdir(exist_ok=True)
        canary.write_text("alive")
    (folder / "archive").write_bytes(data)
    before = {name: found for name, found in tree(folder).items() if not name.startswith("in/into/")}
    descriptors = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else set()
    with pytest.raises(DownloadError) as caught:
        unpack_archive(
            folder / "archive", into, **{"max_files": MAX_FILES, "max_bytes": MAX_BYTES, **options}
        )
    if descriptors:
        assert set(os.listdir("/proc/self/fd")) == descriptors
    after = tree(folder)
    assert {name: found for name, found in after.items() if not name.startswith("in/into/")} == before
    assert not any(path.is_symlink() for path in into.rglob("*"))
    assert caught.value.details == {"archive": "archive", "reason": "archive"}
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value


BAD_NAMES = {
    "absolute": "/outside/evil",
    "two slashes": "//outside/evil",
    "parent": "../outside/evil",
    "parent inside": "a/../../outside/evil",
    "parent that stays inside": "a/../b",
    "parent at the end": "a/..",
    "parent after a dot": "./../evil",
    "two dots": "..",
    "one dot": ".",
    "nothing": "./",
    "dot inside": "a/./b",
    "dot twice": "././b",
    "empty part": "a//b",
    "slash at the end of a file": "a/b/",
    "backslash": "..\\outside\\evil",
    "backslash inside": "a\\b",
    "drive": "C:evil",
    "drive and slash": "C:/evil",
    "share": "//host/share/evil",
    "alternate stream": "x:stream",
    "reserved": "NUL",
    "reserved in lower case": "con",
    "reserved with an extension": "lib/com1.dll",
    "reserved with two extensions": "aux.tar.gz",
    "reserved with a space": "prn .txt",
    "reserved folder": "LPT9/x",
    "reserved console": "CONIN$",
    "reserved with a raised number": "COM\u00b9",
    "dot at the end": "evil.",
    "space at the end": "evil ",
    "dot at the end of a folder": "lib./x",
    "newline": "a\nb",
    "escape": "\x1b[2Jx",
    "delete": "a\x7f",
    "no break space": "a\u00a0b",
    "right to left": "exe\u202eos.bil",
    "zero width": "a\u200bb",
    "star": "a*",
    "question mark": "a?",
    "quote": 'a"',
    "pipe": "a|b",
    "less": "a<b",
    "long": "x" * 256,
    "long in bytes": "\u00e9" * 128,
    "long path": "/".join(["x" * 200] * 6),
    "deep": "/".join("x" * 33),
    "wide dots": "\uff0e\uff0e/evil",
    "wide slash": "a\uff0f..\uff0fb",
    "two dots in one sign": "\u2025/evil",
}


both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "tar"])


@both_formats
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(tmp_path: Path, name: str, zipped: bool) -> None:
    refuse(tmp_path, archive_of(named(BAD_NAMES[name], zipped=zipped), zipped=zipped))


@both_formats
@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\xae\xc0\xae/evil", b"\xed\xa0\x80", b"lib/caf\xe9"])
def test_names_that_are_no_utf_8_are_refused(tmp_path: Path, raw: bytes, zipped: bool) -> None:
    if zipped:
        refuse(tmp_path, zip_bytes(Zipped(raw)))
        refuse(tmp_path, zip_bytes(Zipped(raw, flags=0)))
    else:
        refuse(tmp_path, tar_bytes(Tarred(raw)))
        refuse(tmp_path, tar_bytes(pax(path=raw), Tarred("x")))


@both_formats
def test_a_name_with_a_nul_is_refused(tmp_path: Path, zipped: bool) -> None:
    refuse(tmp_path, archive_of(named("evil.so\0.txt", zipped=zipped), zipped=zipped))


CLASHES = {
    "twice": ("x", "x"),
    "twice, once with a dot": ("x", "./x"),
    "case": ("lib.so", "LIB.so"),
    "case of a folder": ("lib/a", "Lib/b"),
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "ligature": ("\ufb01le", "file"),
    "sharp s": ("stra\u00dfe", "STRASSE"),
    "wide letter": ("\uff41", "a"),
    "kelvin": ("\u212a", "k"),
    "file as a folder": ("a", "a/b"),
    "folder as a file": ("a/b", "a"),
    "file as a folder in another case": ("a", "A/b"),
}


@both_formats
@pytest.mark.parametrize("case", CLASHES)
def test_names_that_clash_are_refused(tmp_path: Path, case: str, zipped: bool) -> None:
    first, second = (named(name, zipped=zipped) for name in CLASHES[case])
    refuse(tmp_path, archive_of([*first, *second], zipped=zipped))


BAD_TARGETS = {
    "absolute": "/etc/passwd",
    "parent": "../outside/canary",
    "two dots": "..",
    "one dot": ".",
    "sibling with a dot": "./lib.so",
    "folder": "folder",
    "file in a folder": "folder/x",
    "missing": "nowhere",
    "another case": "LIB.so",
    "itself": "link",
    "backslash": "..\\lib.so",
    "drive": "C:lib.so",
    "nul": "lib.so\0x",
    "newline": "lib.so\n",
    "empty": "",
    "long": "x" * 256,
    "not utf-8": b"\xff",
}


@both_formats
@pytest.mark.parametrize("target", BAD_TARGETS)
def test_links_to_anything_but_a_sibling_file_are_refused(tmp_path: Path, target: str, zipped: bool) -> None:
    entries = [*named("lib.so", zipped=zipped), *named("folder/x", zipped=zipped)]
    link = linked("link", BAD_TARGETS[target], zipped=zipped)
    refuse(tmp_path, archive_of([*link, *entries], zipped=zipped))
    refuse(tmp_path, archive_of([*entries, *link], zipped=zipped))


CHAINS = {
    "loop of two": {"a": "b", "b": "a"},
    "loop of three, and a way into it": {"a": "b", "b": "c", "c": "d", "d": "b"},
    "longer than any real one": {f"l{number}": f"l{number + 1}" for number in range(9)} | {"l9": "lib.so"},
    "to a link that leaves": {"a": "b", "b": "../in"},
    "to a file of another folder": {"sub/a": "lib.so"},
}


@both_formats
@pytest.mark.parametrize("chain", CHAINS)
def test_chains_of_links_that_lead_nowhere_are_refused(tmp_path: Path, chain: str, zipped: bool) -> None:
    entries = named("lib.so", zipped=zipped)
    for name, target in CHAINS[chain].items():
        entries += linked(name, target, zipped=zipped)
    refuse(tmp_path, archive_of(entries, zipped=zipped))


@both_formats
def test_a_file_through_a_link_is_refused(tmp_path: Path, zipped: bool) -> None:
    link, file = linked("d", "../../outside", zipped=zipped), named("d/evil", zipped=zipped)
    refuse(tmp_path, archive_of([*link, *file], zipped=zipped))
    refuse(tmp_path, archive_of([*file, *link], zipped=zipped))


@both_formats
def test_a_file_over_a_link_is_refused(tmp_path: Path, zipped: bool) -> None:
    entries = [*named("y", zipped=zipped), *linked("x", "y", zipped=zipped), *named("x", zipped=zipped)]
    refuse(tmp_path, archive_of(entries, zipped=zipped))


@both_formats
def test_what_is_outside_the_root_is_judged_too(tmp_path: Path, zipped: bool) -> None:
    good = named("build/bin/x", zipped=zipped)
    for bad in (named("other/../../evil", zipped=zipped), linked("other/l", "/etc", zipped=zipped)):
        refuse(tmp_path, archive_of([*good, *bad], zipped=zipped), root="build/bin")
        for left in (tmp_path / "in" / "into").iterdir():
            left.unlink()


@both_formats
def test_content_outside_the_root_is_checked_too(tmp_path: Path, zipped: bool) -> None:
    if zipped:
        data = zip_bytes(Zipped("build/bin/x"), Zipped("other/y", crc=1))
    else:
        data = gzip.compress(tar_bytes(Tarred("build/bin/x"), Tarred("other/y", bytes(5000))))
        data = data[:-8] + bytes(8)
    assert "damaged" in refuse(tmp_path, data, root="build/bin").message


def shared_content() -> bytes:
    """Two entries of the directory with one header between them."""
    first = Zipped("x", bytes(1000))
    return zip_bytes(first, Zipped("x", bytes(1000), offset=0), locals_of=(first,))


def quoted_content() -> bytes:
    """The first entry's content has the second's header and content in it."""
    inner = Zipped("b", b"inner", method=0)
    quoted = zip_bytes(inner)[: 30 + 1 + 5]
    outer = Zipped("a", quoted, method=0)
    return zip_bytes(outer, Zipped("b", b"inner", method=0, offset=31), locals_of=(outer,))


GOOD = Zipped("good", b"good" * 50)
HIDDEN = Zipped("hidden")
PLAIN = zip_bytes(GOOD)


def second_archive() -> bytes:
    """Which archive it is depends on the end at which a reader begins."""
    size = len(PLAIN)
    inner = zip_bytes(Zipped("evil", offset=size), offset=size + 30 + 4 + len(deflated(b"x")))
    return zip_bytes(GOOD, comment=inner)


DESCRIBED = {"crc": 0, "size": 0, "packed": 0}
STREAMED = struct.pack("<LLL", zlib.crc32(b"x"), len(deflated(b"x")), 1)

BAD_ZIPS = {
    "encrypted": zip_bytes(Zipped("x", flags=1)),
    "encrypted only in the directory": zip_bytes(Zipped("x", flags=1, local={"flags": 0})),
    "encrypted only in its own header": zip_bytes(Zipped("x", flags=0, local={"flags": 1})),
    "strongly encrypted": zip_bytes(Zipped("x", flags=0x41)),
    "masked headers": zip_bytes(Zipped("x", flags=0x2000)),
    "patched data": zip_bytes(Zipped("x", flags=0x20)),
    "another name in its own header": zip_bytes(Zipped("good", local={"name": b"evil"})),
    "a longer name in its own header": zip_bytes(Zipped("good", local={"name": b"good/../../evil"})),
    "another method in its own header": zip_bytes(Zipped("x", local={"method": 0})),
    "another checksum in its own header": zip_bytes(Zipped("x", local={"crc": 1})),
    "another size in its own header": zip_bytes(Zipped("x", local={"size": 2})),
    "another packed size in its own header": zip_bytes(Zipped("x", local={"packed": 2})),
    "utf-8 in only one of its headers": zip_bytes(Zipped("x", local={"flags": 0})),
    "a second name for unicode": zip_bytes(
        Zipped("x", extra=struct.pack("<HHBL", 0x7075, 12, 1, 0) + b"../evil")
    ),
    "an extra field that is too long": zip_bytes(Zipped("x", extra=b"\x55\x54\xff\x00x")),
    "an extra field cut short": zip_bytes(Zipped("x", extra=b"\x55\x54\x00")),
    "bzip2": zip_bytes(Zipped("x", method=12)),
    "deflate64": zip_bytes(Zipped("x", method=9)),
    "lzma": zip_bytes(Zipped("x", method=14)),
    "zstd": zip_bytes(Zipped("x", method=93)),
    "aes": zip_bytes(Zipped("x", method=99)),
    "unknown method": zip_bytes(Zipped("x", method=0xFFFF)),
    "two entries with one content": shared_content(),
    "one entry inside another": quoted_content(),
    "more than it says": zip_bytes(Zipped("x", bytes(100_000), size=10)),
    "more than it says, by one": zip_bytes(Zipped("x", bytes(100), size=99)),
    "less than it says": zip_bytes(Zipped("x", b"abc", size=5)),
    "far more than the first mebibyte says": zip_bytes(Zipped("x", bytes(2_500_000), size=1 << 20)),
    "wrong checksum": zip_bytes(Zipped("x", crc=1)),
    "wrong checksum, stored": zip_bytes(Zipped("x", method=0, crc=1)),
    "wrong checksum of a link": zip_bytes(GOOD, Zipped("x", b"good", LINK, crc=1)),
    "stored with two sizes": zip_bytes(Zipped("x", b"xyz", method=0, size=2)),
    "no deflate": zip_bytes(Zipped("x", raw=b"\xff" * 20)),
    "deflate without an end": zip_bytes(Zipped("x", bytes(5000), raw=deflated(bytes(5000))[:-1])),
    "deflate, then more": zip_bytes(Zipped("x", raw=deflated(b"x") + b"more")),
    "something before it": zip_bytes(GOOD, before=b"#!/bin/sh\n"),
    "something before it, offsets right": zip_bytes(Zipped("x", before=b"MZ")),
    "a zip before it": PLAIN + PLAIN,
    "a gap between entries": zip_bytes(GOOD, Zipped("x", before=b"hidden")),
    "a gap before the directory": zip_bytes(Zipped("x", after=b"hidden")),
    "a hidden entry": zip_bytes(GOOD, locals_of=(GOOD, Zipped("hidden"))),
    "a hidden first entry": zip_bytes(GOOD, locals_of=(HIDDEN, GOOD)),
    "a second archive in the comment": second_archive(),
    "garbage after its end": PLAIN + b"garbage",
    "a zero after its end": PLAIN + b"\0",
    "another end record in the comment": zip_bytes(GOOD, comment=zip_bytes(Zipped("evil"))),
    "a comment cut short": zip_bytes(GOOD, comment=b"long comment")[:-1],
    "something after the directory": zip_bytes(GOOD, between=b"PK\5\5\0\0"),
    "more entries than it says": zip_bytes(GOOD, Zipped("x"), count=1),
    "fewer entries than it says": zip_bytes(GOOD, count=2),
    "a directory elsewhere": zip_bytes(GOOD, offset=0),
    "a directory beyond the end": zip_bytes(GOOD, offset=ONES - 1),
    "a directory too long": zip_bytes(GOOD, size=ONES - 1),
    "more in the directory than its entries": zip_bytes(GOOD, between=b"more", size=46 + 4 + 4),
    "several disks": zip_bytes(GOOD, disk=1),
    "an entry on another disk": zip_bytes(Zipped("x", disk=1)),
    "zip64 missing": zip_bytes(GOOD, offset=ONES),
    "zip64 record nowhere": zip64_end(PLAIN, record_at=1 << 62),
    "zip64 record at the start": zip64_end(PLAIN, record_at=0),
    "zip64 record of another length": zip64_end(PLAIN, length=1 << 40),
    "zip64 with endless entries": zip64_end(PLAIN, count=1 << 60),
    "zip64 with an endless directory": zip64_end(PLAIN, size=1 << 60),
    "zip64 with a directory at the end of time": zip64_end(PLAIN, offset=(1 << 64) - 1),
    "zip64 on several disks": zip64_end(PLAIN, disks=2),
    "zip64 and end record contradict": zip64_end(PLAIN)[:-14] + struct.pack("<HHLLH", 2, 2, ONES, ONES, 0),
    "zip64 sizes that nobody asked for": zip_bytes(Zipped("x", extra=zip64_extra(1, 3))),
    "zip64 sizes cut short": zip_bytes(Zipped("x", size=ONES, packed=ONES, extra=zip64_extra(1))),
    "zip64 sizes missing": zip_bytes(Zipped("x", size=ONES, packed=ONES)),
    "zip64 sizes twice": zip_bytes(Zipped("x", size=ONES, extra=zip64_extra(1) + zip64_extra(2))),
    "zip64 sizes twice the same": zip_bytes(
        Zipped("x", size=ONES, crc=zlib.crc32(b"x"), extra=zip64_extra(1) * 2, local={"size": 1})
    ),
    "huge size": zip_bytes(Zipped("x", size=ONES - 1)),
    "huge zip64 size": zip_bytes(Zipped("x", size=ONES, extra=zip64_extra((1 << 64) - 1))),
    "huge packed size": zip_bytes(Zipped("x", packed=ONES - 1)),
    "huge zip64 packed size": zip_bytes(Zipped("x", packed=ONES, extra=zip64_extra(1 << 63))),
    "huge zip64 packed size in both headers": zip_bytes(
        Zipped("x", packed=ONES, extra=zip64_extra(1 << 63), local={"extra": zip64_extra(1 << 63)})
    ),
    "huge offset": zip_bytes(Zipped("x", offset=ONES - 1)),
    "huge zip64 offset": zip_bytes(Zipped("x", offset=ONES, extra=zip64_extra((1 << 63) - 1))),
    "facts after the content, wrong": zip_bytes(Zipped("x", flags=8, local=DESCRIBED, after=bytes(12))),
    "facts after the content, missing": zip_bytes(Zipped("x", flags=8, local=DESCRIBED)),
    "facts after the content, then more": zip_bytes(
        Zipped("x", flags=8, local=DESCRIBED, after=STREAMED + b"!")
    ),
    "facts after the content, in one header only": zip_bytes(
        Zipped("x", flags=8, local=DESCRIBED | {"flags": 0})
    ),
    "fifo": zip_bytes(Zipped("x", mode=0o010644)),
    "character device": zip_bytes(Zipped("x", mode=0o020644)),
    "block device": zip_bytes(Zipped("x", mode=0o060644)),
    "socket": zip_bytes(Zipped("x", mode=0o140644)),
    "reparse point": zip_bytes(Zipped("x", mode=0, attributes=0x400)),
    "volume label": zip_bytes(Zipped("x", mode=0, attributes=0x08)),
    "folder without a slash": zip_bytes(Zipped("x", b"", FOLDER)),
    "dos folder without a slash": zip_bytes(Zipped("x", b"", 0, attributes=0x10)),
    "file with a slash": zip_bytes(Zipped("x/", b"")),
    "folder with content": zip_bytes(Zipped("x/", b"content", FOLDER)),
    "no folder of unix with content": zip_bytes(Zipped("x/", b"content", 0)),
    "link with a slash": zip_bytes(GOOD, Zipped("x/", b"good", LINK)),
    "too many entries": zip_bytes(*(Zipped(str(number)) for number in range(MAX_FILES + 1))),
    "too many entries, by its word": zip_bytes(GOOD, count=60_000),
    "too many bytes": zip_bytes(Zipped("x", os.urandom(MAX_BYTES + 1), method=0)),
    "too many bytes in all": zip_bytes(
        *(Zipped(str(i), os.urandom(MAX_BYTES // 2), method=0) for i in range(3))
    ),
    "bomb": zip_bytes(Zipped("x", bytes(MAX_BYTES))),
    "no entries": zip_bytes(),
    "only its first bytes": b"PK\3\4",
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_bad_zips_are_refused(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, BAD_ZIPS[name])


@pytest.mark.parametrize("name", [name for name in BAD_ZIPS if "checksum" not in name])
def test_a_zip_is_judged_before_anything_of_it_is_written(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, BAD_ZIPS[name])
    late = ("than it says", "deflate", "than the first")
    if not any(words in name for words in late):
        assert list((tmp_path / "in" / "into").iterdir()) == []


SPARSE = Tarred("x", b"", b"S", size=0)
OLD = b"ustar  \0"

BAD_TARS = {
    "hard link": tar_bytes(Tarred("y"), Tarred("x", b"", b"1", "y")),
    "hard link outside": tar_bytes(Tarred("x", b"", b"1", "../../outside/canary")),
    "fifo": tar_bytes(Tarred("x", b"", b"6")),
    "character device": tar_bytes(Tarred("x", b"", b"3")),
    "block device": tar_bytes(Tarred("x", b"", b"4")),
    "contiguous file": tar_bytes(Tarred("x", kind=b"7")),
    "sparse file": tar_bytes(SPARSE),
    "sparse file of pax": tar_bytes(pax(GNU__sparse__major="1", GNU__sparse__name="x"), Tarred("y")),
    "sparse file of pax, old": tar_bytes(pax(GNU__sparse__size="9999999999"), Tarred("y")),
    "volume label": tar_bytes(Tarred("x", b"", b"V")),
    "piece of another volume": tar_bytes(Tarred("x", b"", b"M")),
    "list of a folder": tar_bytes(Tarred("x", b"y\0\0", b"D")),
    "extended header of solaris": tar_bytes(Tarred("x", b"", b"X"), Tarred("y")),
    "unknown kind": tar_bytes(Tarred("x", b"", b"Z")),
    "name of a global header": tar_bytes(pax(b"g", path="../evil"), Tarred("x")),
    "harmless name of a global header": tar_bytes(pax(b"g", path="y"), Tarred("x")),
    "name twice in a header": tar_bytes(
        Tarred("pax", pax(path="good").data + pax(path="other").data, b"x"), Tarred("x")
    ),
    "two headers with a name": tar_bytes(pax(path="a"), pax(path="b"), Tarred("x")),
    "names of both kinds": tar_bytes(pax(path="a"), long_name("b"), Tarred("x")),
    "empty name": tar_bytes(pax(path=""), Tarred("x")),
    "name of no encoding": tar_bytes(pax(hdrcharset="BINARY", path="a"), Tarred("x")),
    "header that is no record": tar_bytes(Tarred("pax", b"path=evil\n", b"x"), Tarred("x")),
    "record that is too long": tar_bytes(Tarred("pax", b"99 path=evil\n", b"x"), Tarred("x")),
    "record that is too short": tar_bytes(Tarred("pax", b"9 path=evil\n", b"x"), Tarred("x")),
    "record of no length": tar_bytes(Tarred("pax", b"0 path=evil\n", b"x"), Tarred("x")),
    "record without a value": tar_bytes(Tarred("pax", b"8 path \n", b"x"), Tarred("x")),
    "header of a gigabyte": tar_bytes(Tarred("pax", b"", b"x", size=1 << 30), Tarred("x")),
    "long name of a gigabyte": tar_bytes(Tarred("x", b"", b"L", size=1 << 30), Tarred("x")),
    "long name with two ends": tar_bytes(long_name("good\0/../../evil"), Tarred("x")),
    "long name that leaves": tar_bytes(long_name("../outside/evil"), Tarred("x")),
    "long target that leaves": tar_bytes(long_name("../outside/evil", b"K"), Tarred("x", b"", b"2", "y")),
    "header for nothing": tar_bytes(pax(path="x")),
    "headers without an end": tar_bytes(*[pax(b"g", comment="x")] * (4 * MAX_FILES + 5), Tarred("x")),
    "front of a name, or times": tar_bytes(Tarred("x", prefix=b"../outside", magic=OLD)),
    "front of a harmless name, or times": tar_bytes(Tarred("x", prefix=b"folder", magic=OLD)),
    "header of another time": tar_bytes(Tarred("x"), Tarred("y", magic=b"")),
    "header of many records": tar_bytes(pax(comment="x" * 70_000), Tarred("x")),
    "front of a name that leaves": tar_bytes(Tarred("evil", prefix=b"../outside")),
    "target of a file": tar_bytes(Tarred("x", target="y")),
    "link with content": tar_bytes(Tarred("y"), Tarred("x", b"content", b"2", "y")),
    "link without a target": tar_bytes(Tarred("x", b"", b"2")),
    "folder with content": tar_bytes(Tarred("x/", b"content", b"5")),
    "two sizes": tar_bytes(pax(size="2"), Tarred("x", b"yz", size=1)),
    "size that is no number": tar_bytes(pax(size="-1"), Tarred("x")),
    "size of many digits": tar_bytes(pax(size="9" * 5000), Tarred("x", b"")),
    "negative size": tar_bytes(Tarred("x", b"", size=b"\xff" * 12)),
    "negative size of a header": tar_bytes(Tarred("x", b"", b"x", size=b"\xff" * 12), Tarred("y")),
    "huge size": tar_bytes(Tarred("x", b"", size=b"\x80" + b"\xff" * 11)),
    "size of no base": tar_bytes(Tarred("x", b"", size=b"0x10\0")),
    "size with a sign": tar_bytes(Tarred("x", b"", size=b"-1\0")),
    "wrong checksum": tar_bytes(Tarred("x", wrong_sum=True)),
    "wrong checksum later": tar_bytes(Tarred("x"), Tarred("y", wrong_sum=True)),
    "no header": tar_bytes(Tarred("x"))[:1024] + b"no header at all" * 64,
    "an archive after its end": tar_bytes(Tarred("x")) + tar_bytes(Tarred("hidden")),
    "garbage after its end": tar_bytes(Tarred("x")) + b"garbage",
    "an entry after an empty block": tar_bytes(Tarred("x"), end=bytes(512)) + tar_bytes(Tarred("hidden")),
    "one empty block at its end": tar_bytes(Tarred("x"), end=bytes(512)),
    "no end": tar_bytes(Tarred("x"), end=b""),
    "endless end": tar_bytes(Tarred("x"), end=bytes(2 << 20)),
    "too many entries": tar_bytes(*(Tarred(str(number)) for number in range(MAX_FILES + 1))),
    "too many bytes": tar_bytes(Tarred("x", os.urandom(MAX_BYTES + 1))),
    "too many bytes, by its word": tar_bytes(Tarred("x", b"", size=MAX_BYTES + 1)),
}


@pytest.mark.parametrize("packing", ["tar", "gz", "xz"])
@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tars_are_refused(tmp_path: Path, name: str, packing: str) -> None:
    pack = {
        "tar": bytes,
        "gz": lambda data: gzip.compress(data, 1),
        "xz": lambda d: lzma.compress(d, preset=0),
    }
    refuse(tmp_path, pack[packing](BAD_TARS[name]))


def test_an_endless_directory_is_refused(tmp_path: Path) -> None:
    padding = b"xx\xfa\xff" + bytes(0xFFFA)
    data = zip_bytes(*(Zipped(str(number), extra=padding) for number in range(130)))
    refuse(tmp_path, data, max_files=4000)


def test_no_more_is_written_than_an_entry_says(tmp_path: Path) -> None:
    """It would be found at the end all the same; but that may be terabytes away."""
    refuse(tmp_path, zip_bytes(Zipped("x", os.urandom(2_500_000), size=1_500_000)))
    assert (tmp_path / "in" / "into" / "x").stat().st_size <= 1_500_000


def xz_of(data: bytes, dictionary: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
    packed = bytearray(lzma.compress(data, filters=filters))
    # The size of the dictionary is one byte of the first block's header, which ends with its checksum.
    size = (packed[12] + 1) * 4
    assert packed[14] == 0x21
    packed[16] = dictionary
    packed[12 + size - 4 : 12 + size] = struct.pack("<L", zlib.crc32(packed[12 : 12 + size - 4]))
    return bytes(packed)


FINE = tar_bytes(Tarred("x", b"fine" * 500))
MANY_ZEROS = tar_bytes(Tarred("x", bytes(MAX_BYTES - 1)))

BAD_PACKINGS = {
    "gz, then garbage": gzip.compress(FINE) + b"garbage",
    "gz, then another archive": gzip.compress(FINE) + gzip.compress(FINE),
    "gz with a wrong checksum": gzip.compress(FINE)[:-8] + bytes(4) + gzip.compress(FINE)[-4:],
    "gz with a wrong size": gzip.compress(FINE)[:-4] + bytes(4),
    "gz of no tar": gzip.compress(b"no tar" * 1000),
    "gz of a zip": gzip.compress(PLAIN),
    "gz of nothing": gzip.compress(b""),
    "gz of a gz": gzip.compress(gzip.compress(FINE)),
    "gz without content": gzip.compress(FINE)[:10],
    "gz bomb": gzip.compress(MANY_ZEROS),
    "gz bomb of endless headers": gzip.compress(tar_bytes(*[pax(b"g", comment="x" * 60_000)] * 50)),
    "xz, then garbage": lzma.compress(FINE) + b"garbage",
    "xz, then another": lzma.compress(FINE) + lzma.compress(FINE),
    "xz, then nothing much": lzma.compress(FINE) + bytes(4),
    "xz with a wrong checksum": lzma.compress(FINE)[:-40] + b"!" + lzma.compress(FINE)[-39:],
    "xz of no tar": lzma.compress(b"no tar" * 1000),
    "xz bomb": lzma.compress(MANY_ZEROS),
    "xz that wants 128 MiB": xz_of(FINE, 30),
    "xz that wants 4 GiB": xz_of(FINE, 40),
    "lzma alone": lzma.compress(FINE, format=lzma.FORMAT_ALONE),
    "nothing": b"",
    "text": b"hello",
    "zeros": bytes(5000),
    "an html page": b"<!doctype html><title>404</title>" * 100,
    "an executable": b"\x7fELF" + bytes(1000),
}


@pytest.mark.parametrize("name", BAD_PACKINGS)
def test_bad_packings_are_refused(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, BAD_PACKINGS[name])


def test_the_made_up_dictionaries_are_well_formed(tmp_path: Path) -> None:
    """Else the tests of greedy ones would show nothing."""
    (tmp_path / "archive").write_bytes(xz_of(FINE, 24))
    assert unpack_archive(tmp_path / "archive", tmp_path) == [tmp_path / "x"]
    assert lzma.decompress(xz_of(FINE, 30)) == FINE


@both_formats
@pytest.mark.parametrize("place", ["x", "lib/x", "lib"])
def test_a_link_that_is_there_already_is_not_followed(tmp_path: Path, place: str, zipped: bool) -> None:
    into = tmp_path / "in" / "into"
    into.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_text("alive")
    (into / place).parent.mkdir(exist_ok=True)
    (into / place).symlink_to(tmp_path / "outside" / ("" if place == "lib" else "canary"))
    (tmp_path / "archive").write_bytes(
        archive_of(named("x" if place == "x" else "lib/x", zipped=zipped), zipped=zipped)
    )
    before = tree(tmp_path)
    with pytest.raises(DownloadError, match="there already"):
        unpack_archive(tmp_path / "archive", into)
    assert tree(tmp_path) == before


@both_formats
def test_a_dangling_link_that_is_there_already_is_not_followed(tmp_path: Path, zipped: bool) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "x").symlink_to(tmp_path / "new")
    (tmp_path / "archive").write_bytes(archive_of(named("x", zipped=zipped), zipped=zipped))
    with pytest.raises(DownloadError, match="there already"):
        unpack_archive(tmp_path / "archive", into)
    assert not (tmp_path / "new").exists()


@both_formats
def test_a_link_does_not_replace_what_is_there(tmp_path: Path, zipped: bool) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "l").write_text("mine")
    entries = [*named("x", zipped=zipped), *linked("l", "x", zipped=zipped)]
    (tmp_path / "archive").write_bytes(archive_of(entries, zipped=zipped))
    with pytest.raises(DownloadError, match="there already"):
        unpack_archive(tmp_path / "archive", into)
    assert (into / "l").read_text() == "mine"
