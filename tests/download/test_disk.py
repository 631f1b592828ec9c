"""Disks that are full, folders that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
import time

import pytest
from scripted_server import serving

from sdmanager.download._transfer import MARGIN
from sdmanager.errors import StorageError


async def test_too_little_room_is_told_before_anything_is_asked(fetch, file, small_disk):
    folder = small_disk(400_000)
    with pytest.raises(StorageError) as caught:
        await fetch("http://127.0.0.1:1/never", to=folder / "file.bin")
    assert caught.value.details["needed_bytes"] == len(file.data) + MARGIN
    assert 0 < caught.value.details["free_bytes"] < 2 * 400_000
    assert caught.value.details["errno"] == errno.ENOSPC
    assert not list(folder.iterdir())


async def test_too_little_room_is_told_as_soon_as_the_server_says_the_size(fetch, file, small_disk):
    folder = small_disk(400_000)
    with serving(file.well) as server, pytest.raises(StorageError) as caught:
        await fetch(server.url(), to=folder / "file.bin", size=None)
    assert caught.value.details["needed_bytes"] == len(file.data) + MARGIN
    assert not list(folder.iterdir())


async def test_a_disk_that_gets_full_half_way_is_not_kept_full(fetch, file, small_disk):
    folder = small_disk(200_000)

    def chunked(request, reply):
        reply.head(200, Transfer_Encoding="chunked", ETag=file.etag)
        reply.chunks(file.data)

    with serving(chunked) as server, pytest.raises(StorageError) as caught:
        await fetch(server.url(), to=folder / "file.bin", size=None)
    assert caught.value.details["errno"] == errno.ENOSPC
    assert caught.value.details["needed_bytes"] is None
    assert not list(folder.iterdir())


async def test_a_disk_that_others_fill_meanwhile(fetch, file, small_disk):
    # Large: a tmpfs counts its pages for each processor, and is full on one a little before the other.
    file.data = random.Random(2).randbytes(5_000_000)
    folder = small_disk(MARGIN + 6_000_000)
    half = len(file.data) // 2

    def filled(request, reply):
        reply.head(200, Content_Length=len(file.data), ETag=file.etag)
        reply.send(file.data[:half])
        while sum(path.stat().st_size for path in folder.glob("*.download")) < half:
            time.sleep(0.001)
        with open(folder / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        reply.send(file.data[half:])

    with serving(filled, file.well) as server:
        with pytest.raises(StorageError) as caught:
            await fetch(server.url(), to=folder / "file.bin")
        assert caught.value.details["errno"] == errno.ENOSPC
        assert [path.name for path in folder.iterdir()] == ["filler"]
        (folder / "filler").unlink()
        await fetch(server.url(), to=folder / "file.bin")
    assert (folder / "file.bin").read_bytes() == file.data


async def test_a_folder_that_is_read_only(fetch, file, small_disk):
    folder = small_disk(2 * MARGIN)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with serving(file.well) as server:
        for target in (folder / "file.bin", folder / "deeper" / "file.bin"):
            with pytest.raises(StorageError, match="Read-only file system") as caught:
                await fetch(server.url(), to=target)
            assert caught.value.details == {"path": str(target), "errno": errno.EROFS}
        assert not server.requests


async def test_a_target_that_cannot_be(fetch, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    places = {
        tmp_path / "file" / "x": errno.EEXIST,
        tmp_path / "folder": errno.EISDIR,
        tmp_path / ("x" * 300): errno.ENAMETOOLONG,
    }
    for target, number in places.items():
        with pytest.raises(StorageError) as caught:
            await fetch("http://127.0.0.1:1/never", to=target)
        assert caught.value.details == {"path": str(target), "errno": number}
        assert str(tmp_path) not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
