"""Release archives as tools make them are unpacked whole; damaged ones and full disks end in their own errors."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
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
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmanager.binaries._unpack import UnpackCancelledError, unpack_archive
from sdmanager.errors import DownloadError

FORMATS = ("zip", "gztar", "xztar", "tar")
every_format = pytest.mark.parametrize("form", FORMATS)
both_formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "tar"])
Contents = dict[str, bytes]
# What was unpacked, by name, or None when it was refused.
Arena = Callable[[bytes], "dict[str, str | bytes] | None"]

CONTENTS: Contents = {
    "empty": b"",
    "sd-cli": b"\x7fELF" + bytes(2_000_000),
    "lib/libfoo.so.1": os.urandom(1_500_000),
    "lib/deep/er/x.txt": b"hello\n" * 1000,
    "caf\u00e9/\u6f22\u5b57.txt": b"unicode",
    "with space and (signs) + more-~.txt": b"x",
    "x" * 255: b"longest",
}


def pack(folder: Path, form: str, contents: Contents = CONTENTS) -> Path:
    """An archive made with the standard library, with explicit folders."""
    source = folder / "source"
    for name, data in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    return Path(shutil.make_archive(str(folder / "archive"), form, source))


def unpacked(folder: Path) -> Contents:
    return {name: data for name, (mode, data) in tree(folder).items() if stat.S_ISREG(mode)}


def put(folder: Path, data: bytes, **options: object) -> dict[str, tuple[int, str | bytes]]:
    """Unpack an archive into a new folder and tell what is in it."""
    (folder / "archive").write_bytes(data)
    (folder / "into").mkdir()
    written = unpack_archive(folder / "archive", folder / "into", **options)
    found = tree(folder / "into")
    files = [name for name, (mode, _) in found.items() if not stat.S_ISDIR(mode)]
    assert sorted(path.relative_to(folder / "into").as_posix() for path in written) == sorted(files)
    return found


@every_format
def test_an_archive_is_unpacked_whole(tmp_path: Path, form: str) -> None:
    archive = pack(tmp_path, form).rename(tmp_path / "told by its first bytes")
    into = tmp_path / "into"
    into.mkdir()
    written = unpack_archive(archive, into)
    assert unpacked(into) == CONTENTS
    assert sorted(written) == sorted(into / name for name in CONTENTS)


@both_formats
@pytest.mark.parametrize("dot", ["", "./"])
def test_only_what_is_below_the_root_is_written(tmp_path: Path, zipped: bool, dot: str) -> None:
    names = ("build/bin/sd-cli", "build/bin/sub/x", "build/binary", "build/lib/y", "README", "bin/z")
    entries = [entry for name in names for entry in named(dot + name, zipped=zipped)]
    found = put(tmp_path, archive_of(entries, zipped=zipped), root="build/bin")
    assert list(found) == ["sd-cli", "sub", "sub/x"]


@both_formats
def test_nothing_below_the_root_gives_nothing(tmp_path: Path, zipped: bool) -> None:
    assert put(tmp_path, archive_of(named("x", zipped=zipped), zipped=zipped), root="build/bin") == {}


@both_formats
def test_only_the_named_files_are_executable(tmp_path: Path, zipped: bool) -> None:
    names = ("bin/sd-cli", "bin/other", "setuid", "sd-cli", "secret")
    modes = (0o644, 0o755, 0o6777, 0o777, 0o000)
    if zipped:
        data = zip_bytes(
            *(Zipped(name, mode=stat.S_IFREG | mode) for name, mode in zip(names, modes, strict=True))
        )
    else:
        data = tar_bytes(*(Tarred(name, mode=mode) for name, mode in zip(names, modes, strict=True)))
    previous = os.umask(0o077)
    try:
        found = put(tmp_path, data, executables=["bin/sd-cli", "not/there"])
    finally:
        os.umask(previous)
    files = {name: stat.S_IMODE(mode) for name, (mode, _) in found.items() if stat.S_ISREG(mode)}
    assert files == dict.fromkeys(names, 0o644) | {"bin/sd-cli": 0o755}


@both_formats
@pytest.mark.parametrize("root", ["", "build/bin"])
def test_links_to_siblings_are_made(tmp_path: Path, zipped: bool, root: str) -> None:
    folder = f"./{root}/" if root else ""
    entries = linked(f"{folder}libfoo.so", "libfoo.so.1", zipped=zipped)
    entries += linked(f"{folder}libfoo.so.1", "libfoo.so.1.2", zipped=zipped)
    entries += named(f"{folder}libfoo.so.1.2", zipped=zipped, data=b"elf")
    entries += linked(f"{folder}sub/b", "a", zipped=zipped) + named(f"{folder}sub/a", zipped=zipped)
    found = put(tmp_path, archive_of(entries, zipped=zipped), root=root)
    into = tmp_path / "into"
    assert [str((into / name).readlink()) for name in ("libfoo.so", "libfoo.so.1", "sub/b")] == [
        *("libfoo.so.1", "libfoo.so.1.2", "a")
    ]
    assert (into / "libfoo.so").read_bytes() == b"elf"
    assert len(found) == 6


@both_formats
def test_folders_may_be_named_or_not_and_twice(tmp_path: Path, zipped: bool) -> None:
    entries = named("a/b/x", zipped=zipped)
    for name in ("./", "a/", "a/b/", "a/empty/", "a/"):
        entries.append(Zipped(name, b"", FOLDER) if zipped else Tarred(name, b"", b"5"))  # type: ignore[arg-type]
    assert list(put(tmp_path, archive_of(entries, zipped=zipped))) == ["a", "a/b", "a/b/x", "a/empty"]


@both_formats
def test_two_archives_go_into_one_folder(tmp_path: Path, zipped: bool) -> None:
    """The engine and its runtime; the second finds folders of the first, and may use them."""
    into = tmp_path / "into"
    into.mkdir()
    for number in range(2):
        archive = tmp_path / str(number)
        archive.write_bytes(archive_of(named(f"lib/{number}", zipped=zipped), zipped=zipped))
        unpack_archive(archive, into)
    assert list(tree(into)) == ["lib", "lib/0", "lib/1"]
    with pytest.raises(DownloadError, match="there already"):
        unpack_archive(tmp_path / "0", into)


STREAMED = struct.pack("<LLL", zlib.crc32(b"x"), len(deflated(b"x")), 1)
STREAMED64 = struct.pack("<LQQ", zlib.crc32(b"x"), len(deflated(b"x")), 1)
DESCRIBED = {"crc": 0, "size": 0, "packed": 0}
WIDE = {"size": ONES, "packed": ONES, "extra": zip64_extra(0, 0)}

# What tools make of one file named x that holds an x.
GOOD_ZIPS = {
    "stored": zip_bytes(Zipped("x", method=0)),
    "no flags": zip_bytes(Zipped("x", flags=0)),
    "made on dos": zip_bytes(Zipped("x", mode=0, attributes=0x20)),
    "facts after the content": zip_bytes(Zipped("x", flags=8, local=DESCRIBED, after=STREAMED)),
    "facts after the content, marked": zip_bytes(
        Zipped("x", flags=8, local=DESCRIBED, after=b"PK\7\x08" + STREAMED)
    ),
    "wide facts after the content": zip_bytes(
        Zipped("x", flags=8, local={"crc": 0} | WIDE, after=b"PK\7\x08" + STREAMED64)
    ),
    "comment": zip_bytes(Zipped("x"), comment=b"made by hand"),
    "longest comment": zip_bytes(Zipped("x"), comment=b"c" * 0xFFFF),
    "zip64 end": zip64_end(zip_bytes(Zipped("x"))),
    "zip64 sizes": zip_bytes(
        Zipped(
            *("x", b"x", 0o100644, 0),
            size=ONES,
            packed=ONES,
            crc=zlib.crc32(b"x"),
            extra=zip64_extra(1, 1),
            local={"extra": zip64_extra(1, 1)},
        )
    ),
    "times and owner": zip_bytes(
        Zipped("x", extra=b"UT\5\0\3aaaaux\0\0", local={"extra": b"UT\x09\0\3aaaabbbb"})
    ),
    "the same name for unicode": zip_bytes(Zipped("x", extra=struct.pack("<HHBL", 0x7075, 6, 1, 0) + b"x")),
}
GOOD_TARS = {
    "ustar": tar_bytes(Tarred("x")),
    "gnu": tar_bytes(Tarred("x", magic=b"ustar  \0")),
    "old kind of a file": tar_bytes(Tarred("x", kind=b"\0")),
    "padded": tar_bytes(Tarred("x"), end=bytes(10240)),
    "size in another base": tar_bytes(Tarred("x", size=b"\x80" + bytes(10) + b"\x01")),
    "long name": tar_bytes(long_name("x"), Tarred("y")),
    "name of pax": tar_bytes(pax(path="x", mtime="1.5", SCHILY__xattr__user="\0"), Tarred("y")),
    "size of pax": tar_bytes(pax(size="1"), Tarred("x")),
    "encoding of pax": tar_bytes(pax(hdrcharset="ISO-IR 10646 2000 UTF-8"), Tarred("x")),
    "global comment": tar_bytes(pax(b"g", comment="a commit"), Tarred("x")),
    "gz of two members": gzip.compress(tar_bytes(Tarred("x"))[:700])
    + gzip.compress(tar_bytes(Tarred("x"))[700:]),
    "gz, then zeros": gzip.compress(tar_bytes(Tarred("x"))) + bytes(100),
    "greatest xz": lzma.compress(tar_bytes(Tarred("x")), preset=9 | lzma.PRESET_EXTREME),
    "xz without a checksum": lzma.compress(tar_bytes(Tarred("x")), check=lzma.CHECK_NONE),
}


@pytest.mark.parametrize("name", [*GOOD_ZIPS, *GOOD_TARS])
def test_unusual_archives_that_mean_one_thing_are_unpacked(tmp_path: Path, name: str) -> None:
    found = put(tmp_path, (GOOD_ZIPS | GOOD_TARS)[name])
    assert found == {"x": (0o100644, b"x")}


def test_a_long_name_has_its_front_in_the_header(tmp_path: Path) -> None:
    found = put(tmp_path, tar_bytes(Tarred("x", prefix=b"some/folder")))
    assert list(found) == ["some", "some/folder", "some/folder/x"]


def test_a_zip_of_a_stream_is_unpacked(tmp_path: Path) -> None:
    with (tmp_path / "archive").open("wb") as file:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as pipe, zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("x", b"streamed")
        with os.fdopen(reader, "rb") as pipe:
            shutil.copyfileobj(pipe, file)
    (tmp_path / "into").mkdir()
    unpack_archive(tmp_path / "archive", tmp_path / "into")
    assert unpacked(tmp_path / "into") == {"x": b"streamed"}


TOOLS = {
    "zip, recursive with links": "cd source && zip -qry ../archive ./build && mv ../archive.zip ../archive",
    "zip, flat": "cd source && zip -qryj ../archive build/bin && mv ../archive.zip ../archive",
    "zip, to a pipe": "cd source && zip -qr - build | cat > ../archive",
    "tar, gz": "cd source && tar -czf ../archive ./build",
    "tar, xz": "cd source && tar -cJf ../archive build",
    "tar, pax": "cd source && tar --format=pax -czf ../archive build",
    "tar, ustar": "cd source && tar --format=ustar -cf ../archive build",
}


@pytest.mark.parametrize("tool", TOOLS)
def test_archives_of_the_usual_tools_are_unpacked(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool.partition(",")[0]) is None:
        pytest.skip("this machine has no such tool")
    folder = tmp_path / "source" / "build" / "bin"
    folder.mkdir(parents=True)
    (folder / "sd-cli").write_bytes(os.urandom(5000))
    (folder / "libfoo.so.1").write_bytes(bytes(5000))
    (folder / "libfoo.so").symlink_to("libfoo.so.1")
    subprocess.run(["sh", "-ec", TOOLS[tool]], cwd=tmp_path, check=True)
    (tmp_path / "into").mkdir()
    root = "" if "flat" in tool else "build/bin"
    unpack_archive(tmp_path / "archive", tmp_path / "into", root=root, executables=["sd-cli"])
    assert (tmp_path / "into" / "sd-cli").read_bytes() == (folder / "sd-cli").read_bytes()
    assert (tmp_path / "into" / "libfoo.so").read_bytes() == bytes(5000)
    assert (tmp_path / "into" / "libfoo.so").is_symlink() == ("pipe" not in tool)
    assert os.access(tmp_path / "into" / "sd-cli", os.X_OK)


@every_format
def test_progress_never_falls_and_ends_at_the_size(tmp_path: Path, form: str) -> None:
    archive = pack(tmp_path, form)
    size = archive.stat().st_size
    seen: list[tuple[int, int]] = []
    (tmp_path / "into").mkdir()
    unpack_archive(archive, tmp_path / "into", on_progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [size] * len(seen)
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    assert len(seen) > len(CONTENTS)


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else set()


@every_format
@pytest.mark.parametrize("asked", [1, 3, 8])
def test_it_stops_when_it_is_cancelled(tmp_path: Path, form: str, asked: int) -> None:
    archive = pack(tmp_path, form)
    (tmp_path / "into").mkdir()
    left = asked
    before = open_files()

    def cancelled() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    with pytest.raises(UnpackCancelledError):
        unpack_archive(archive, tmp_path / "into", cancelled=cancelled)
    assert left == 0
    assert open_files() == before
    assert len(unpacked(tmp_path / "into")) <= asked


@every_format
def test_what_the_callback_raises_arrives_as_it_is(tmp_path: Path, form: str) -> None:
    archive = pack(tmp_path, form)
    (tmp_path / "into").mkdir()

    def on_progress(done: int, total: int) -> None:
        raise KeyError(done)

    before = open_files()
    with pytest.raises(KeyError):
        unpack_archive(archive, tmp_path / "into", on_progress=on_progress)
    assert open_files() == before


def test_no_folder_to_unpack_into_is_an_error_of_the_system(tmp_path: Path) -> None:
    archive = pack(tmp_path, "zip")
    with pytest.raises(FileNotFoundError):
        unpack_archive(archive, tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        unpack_archive(tmp_path / "missing", tmp_path)


IN_A_MOUNT = """
import os, sys
from pathlib import Path
from sdmanager.binaries._unpack import unpack_archive
before = set(os.listdir("/proc/self/fd"))
try:
    unpack_archive(Path(sys.argv[1]), Path(sys.argv[2]))
except OSError as exc:
    print(type(exc).__name__, exc.errno, before == set(os.listdir("/proc/self/fd")))
"""


@every_format
@pytest.mark.parametrize(
    ("options", "number"), [("size=1m", errno.ENOSPC), ("nr_inodes=4", errno.ENOSPC), ("ro", errno.EROFS)]
)
def test_a_disk_that_takes_no_more_is_an_error_of_the_system(
    tmp_path: Path, form: str, options: str, number: int
) -> None:
    archive, into = pack(tmp_path, form), tmp_path / "into"
    into.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", *user, "sh", "-c", script, "sh", str(into)]
    if shutil.which("unshare") is None or subprocess.run([*argv, "true"], check=False).returncode != 0:
        pytest.skip("this machine allows no private mounts")
    done = subprocess.run(
        [*argv, sys.executable, "-W", "error", "-c", IN_A_MOUNT, str(archive), str(into)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split()[1:], done.stderr) == ([str(number), "True"], "")


SMALL: dict[str, bytes] = {
    "zip": zip_bytes(
        Zipped("a", bytes(300)),
        Zipped("b/", b"", FOLDER),
        Zipped("l", b"a", LINK),
        Zipped(
            "s",
            b"stored",
            method=0,
            flags=8,
            local=DESCRIBED,
            after=struct.pack("<LLL", zlib.crc32(b"stored"), 6, 6),
        ),
        comment=b"comment",
    ),
    "zip64": zip64_end(zip_bytes(Zipped("a"), Zipped("c/d", b"abc"))),
    "tar": tar_bytes(Tarred("a", bytes(300)), pax(path="b/c"), Tarred("y"), Tarred("l", b"", b"2", "a")),
}
SMALL["gz"] = gzip.compress(SMALL["tar"])
SMALL["xz"] = lzma.compress(SMALL["tar"])
WHOLE: dict[str, dict[str, str | bytes]] = {
    "zip": {"a": bytes(300), "b": "", "l": "a", "s": b"stored"},
    "zip64": {"a": b"x", "c": "", "c/d": b"abc"},
    **{form: {"a": bytes(300), "b": "", "b/c": b"x", "l": "a"} for form in ("tar", "gz", "xz")},
}


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    """Unpacks whatever it is given; None when it was refused. Anything but that fails the test."""
    folder = tmp_path_factory.mktemp("arena")
    (folder / "canary").write_text("alive")

    def attempt(data: bytes) -> dict[str, str | bytes] | None:
        into, archive = folder / "in" / "into", folder / "archive"
        shutil.rmtree(folder / "in", ignore_errors=True)
        into.mkdir(parents=True)
        archive.write_bytes(data)
        before = open_files()
        try:
            unpack_archive(archive, into, max_files=50, max_bytes=1 << 20)
        except DownloadError:
            result = None
        else:
            result = {name: found[1] for name, found in tree(into).items()}
        assert open_files() == before
        assert sorted(os.listdir(folder)) == ["archive", "canary", "in"]
        assert os.listdir(folder / "in") == ["into"]
        assert (folder / "canary").read_text() == "alive"
        for path in into.rglob("*"):
            mode = path.lstat().st_mode
            assert result is None or stat.S_IMODE(mode) == 0o644 or not stat.S_ISREG(mode)
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.resolve(strict=True).parent == path.parent
        return result

    return attempt


@pytest.mark.parametrize("form", SMALL)
def test_an_archive_cut_anywhere_is_refused_or_whole(arena: Arena, form: str) -> None:
    data = SMALL[form]
    assert arena(data) == WHOLE[form]
    step = 1 if len(data) < 1000 else 13
    for cut in {*range(0, len(data), step), *range(max(len(data) - 60, 0), len(data))}:
        assert arena(data[:cut]) is None, cut


@pytest.mark.parametrize("form", ["zip", "zip64", "gz", "xz"])
def test_no_flipped_byte_changes_what_is_unpacked(arena: Arena, form: str) -> None:
    """Times, owners and comments may change; and a link may become a file that holds its target."""
    data = SMALL[form]
    for at in range(len(data)):
        found = arena(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        assert found is None or found | {"l": ""} == WHOLE[form] | {"l": ""}, at


@pytest.mark.slow
@pytest.mark.parametrize("form", SMALL)
def test_no_changed_byte_has_another_effect(arena: Arena, form: str) -> None:
    data = SMALL[form]
    for at in range(len(data)):
        for bit in (*(1 << shift for shift in range(8)), 0xFF):
            arena(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])


fuzz = settings(max_examples=200, deadline=None)
STARTS = [b"", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x1f\x8b\x08\0", b"\xfd7zXZ\0\0\4", SMALL["tar"][:512]]


@fuzz
@given(start=st.sampled_from(STARTS), data=st.binary(max_size=2000))
def test_random_bytes_are_refused(arena: Arena, start: bytes, data: bytes) -> None:
    assert not arena(start + data)


@st.composite
def mutated(draw: st.DrawFn, base: bytes) -> bytes:
    """A good archive with pieces of it replaced, removed, doubled or moved."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 30))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"PK\1\2", b"PK\3\4", b"PK\5\6", b"../", b"/"]
                ),
                st.integers(0, len(base)).map(lambda start: base[start : start + 60]),
            )
        )
        keep = draw(st.booleans())
        data[at : at + (len(piece) if keep else length)] = piece
    return bytes(data)


@fuzz
@given(data=st.sampled_from(["zip", "zip64"]).flatmap(lambda form: mutated(SMALL[form])))
def test_mutated_zips_are_refused_or_harmless(arena: Arena, data: bytes) -> None:
    arena(data)


@fuzz
@given(
    data=mutated(SMALL["tar"]),
    packing=st.sampled_from([bytes, gzip.compress, lzma.compress]),
    heal=st.booleans(),
)
def test_mutated_tars_are_refused_or_harmless(
    arena: Arena, data: bytes, packing: Callable[[bytes], bytes], heal: bool
) -> None:
    if heal:
        data = healed(data)
    arena(packing(data))


def healed(data: bytes) -> bytes:
    """With right checksums in all that may be headers, so that a mutation gets past them."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            blank = block[:148] + b" " * 8 + block[156:]
            blocks[number] = blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
    return b"".join(blocks)


@fuzz
@given(
    names=st.lists(
        st.text(st.sampled_from("abA./\\: \u00e9\u0301e~\0\n"), min_size=1, max_size=12), max_size=6
    ),
    zipped=st.booleans(),
    kinds=st.lists(st.sampled_from(["file", "link", "folder"]), min_size=6, max_size=6),
)
def test_made_up_names_are_refused_or_harmless(
    arena: Arena, names: list[str], zipped: bool, kinds: list[str]
) -> None:
    entries: list[Zipped] | list[Tarred] = []
    for name, kind, other in zip(names, kinds, reversed(names), strict=False):
        if kind == "folder":
            entries += [Zipped(name, b"", FOLDER)] if zipped else [pax(path=name), Tarred("x", b"", b"5")]
        else:
            entries += named(name, zipped=zipped) if kind == "file" else linked(name, other, zipped=zipped)
    arena(archive_of(entries, zipped=zipped))


def test_the_standard_library_agrees(tmp_path: Path) -> None:
    """The made-up archives that are good are so for others too: else the hostile ones might prove nothing."""
    for name, data in GOOD_ZIPS.items():
        (tmp_path / "archive").write_bytes(data)
        with zipfile.ZipFile(tmp_path / "archive") as made:
            assert made.read("x") == b"x", name
            assert made.testzip() is None, name
    for name, data in GOOD_TARS.items():
        (tmp_path / "archive").write_bytes(data)
        with tarfile.open(tmp_path / "archive") as made:
            member = made.getmember("x")
            content = made.extractfile(member)
            assert content is not None, name
            assert content.read() == b"x", name
