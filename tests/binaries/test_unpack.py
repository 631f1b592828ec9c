"""Archives that mean harm, or are broken, write nothing outside their folder and are refused by name."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sdmanager.binaries._unpack import unpack_tar
from sdmanager.errors import DownloadError

Fill = Callable[[tarfile.TarFile], None]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", *, mode: int = 0o644, **fields: object) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = mode
    for key, value in fields.items():
        setattr(entry, key, value)
    tar.addfile(entry, io.BytesIO(data))


def special(name: str, kind: bytes, target: str = "") -> Fill:
    return lambda tar: add(tar, name, b"", type=kind, linkname=target)


def plain(*names: str) -> Fill:
    def fill(tar: tarfile.TarFile) -> None:
        for name in names:
            add(tar, name)

    return fill


def link_then_file(tar: tarfile.TarFile) -> None:
    add(tar, "top/dir", b"", type=tarfile.SYMTYPE, linkname="../../outside")
    add(tar, "top/dir/evil")


def file_then_folder(tar: tarfile.TarFile) -> None:
    add(tar, "top/x")
    add(tar, "top/x", b"", type=tarfile.DIRTYPE)


def four_files(tar: tarfile.TarFile) -> None:
    for number in range(4):
        add(tar, f"top/{number}", bytes(30_000))


def pax_name(tar: tarfile.TarFile) -> None:
    add(tar, "top/harmless", pax_headers={"path": "../../outside/evil"})


def pax_link(tar: tarfile.TarFile) -> None:
    add(tar, "top/x", b"", type=tarfile.SYMTYPE, linkname="y", pax_headers={"linkpath": "../../outside"})


def pack(path: Path, fill: Fill, *, mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as tar:
        fill(tar)
    return path


def unpack(
    archive: Path, into: Path, *, below: str = "", max_files: int = 50, max_bytes: int = 100_000
) -> None:
    into.mkdir(exist_ok=True)
    unpack_tar(archive, into, below=below, max_files=max_files, max_bytes=max_bytes)


HOSTILE: dict[str, Fill] = {
    "absolute": plain("/outside/evil"),
    "absolute, many slashes": plain("///outside/evil"),
    "parent": plain("../outside/evil"),
    "parent inside": plain("top/../../outside/evil"),
    "parent at the end": plain("top/.."),
    "parent that stays inside": plain("top/a/../b"),
    "dot": plain("./top/x"),
    "dot inside": plain("top/./x"),
    "empty part": plain("top//x"),
    "backslash": plain("top/..\\..\\evil"),
    "drive": plain("top/C:evil"),
    "drive at the top": plain("C:/evil"),
    "alternate stream": plain("top/x:stream"),
    "control character": plain("top/x\ny"),
    "escape character": plain("top/\x1b[2Jx"),
    "two tops": plain("top/x", "other/y"),
    "name of a pax header": pax_name,
    "symbolic link": special("top/x", tarfile.SYMTYPE, "/etc/passwd"),
    "relative symbolic link": special("top/x", tarfile.SYMTYPE, "y"),
    "link of a pax header": pax_link,
    "link, then a file through it": link_then_file,
    "hard link": special("top/x", tarfile.LNKTYPE, "top/y"),
    "hard link outside": special("top/x", tarfile.LNKTYPE, "../../etc/passwd"),
    "fifo": special("top/x", tarfile.FIFOTYPE),
    "character device": special("top/x", tarfile.CHRTYPE),
    "block device": special("top/x", tarfile.BLKTYPE),
    "contiguous file": special("top/x", tarfile.CONTTYPE),
    "same name twice": plain("top/x", "top/x"),
    "file under a file": plain("top/x", "top/x/y"),
    "folder where a file is": file_then_folder,
    "file where a folder is": plain("top/x/y", "top/x"),
    "too many entries": plain(*[f"top/{number}" for number in range(60)]),
    "too many bytes": lambda tar: add(tar, "top/x", bytes(100_001)),
    "too many bytes in all": four_files,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").mkdir()
    archive = pack(tmp_path / "bad.tar.gz", HOSTILE[name])
    with pytest.raises(DownloadError, match="not safe to unpack"):
        unpack(archive, tmp_path / "in" / "into")
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar.gz", "in", "outside"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["into"]
    assert not any(path.is_symlink() for path in (tmp_path / "in").rglob("*"))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("top/x")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"%011o\0" % 0
    header[398:410] = b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (1 << 33)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "sparse.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DownloadError):
        unpack(tmp_path / "sparse.tar", tmp_path / "into")


def test_what_is_outside_the_wanted_folder_is_checked_too(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "top/vendor/x")
        add(tar, "top/../../evil")

    with pytest.raises(DownloadError):
        unpack(pack(tmp_path / "bad.tar.gz", fill), tmp_path / "into", below="vendor")


@pytest.mark.parametrize("cut", [0, 1, 9, 100, 200, -100, -2000])
def test_a_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    archive = pack(tmp_path / "cut.tar.gz", lambda tar: add(tar, "top/x", os.urandom(5000)))
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(DownloadError, match="damaged"):
        unpack(archive, tmp_path / "into")


@pytest.mark.parametrize(
    "content", [b"hello", b"\x1f\x8b" + bytes(50), gzip.compress(b"no tar" * 500, mtime=0)]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DownloadError, match="damaged"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "into")


def test_a_file_cut_inside_its_content_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "cut.tar", lambda tar: add(tar, "top/x", bytes(5000)), mode="w")
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DownloadError, match="damaged"):
        unpack(archive, tmp_path / "into")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_good_archive_is_unpacked(tmp_path: Path, form: int) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "top", b"", type=tarfile.DIRTYPE, mode=0o700)
        add(tar, "top/README", b"not wanted")
        add(tar, "top/vendor/engine/empty", b"", type=tarfile.DIRTYPE)
        add(tar, "top/vendor/engine/a.txt", b"hello", mode=0o4644)
        add(tar, "top/vendor/engine/deep/run.sh", b"#!/bin/sh", mode=0o6755)
        add(tar, "top/vendor/engine2/b.txt", b"not wanted either")
        add(tar, f"top/vendor/engine/{'long' * 20}/{'name' * 10}", b"long")

    unpack(pack(tmp_path / "good.tar.gz", fill, form=form), tmp_path / "into", below="vendor/engine")
    into = tmp_path / "into"
    assert (into / "a.txt").read_bytes() == b"hello"
    assert (into / "empty").is_dir()
    assert (into / "deep" / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert not (into / "a.txt").stat().st_mode & 0o7111
    assert sorted(path.name for path in into.iterdir()) == ["a.txt", "deep", "empty", "long" * 20]


def test_nothing_below_the_folder_gives_nothing(tmp_path: Path) -> None:
    unpack(pack(tmp_path / "good.tar.gz", plain("top/x")), tmp_path / "into", below="vendor")
    assert list((tmp_path / "into").iterdir()) == []
