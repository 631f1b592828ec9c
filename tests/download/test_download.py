"""A file from a server that does nothing wrong: published whole, gone on with, reported, broken off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
import time
from dataclasses import replace

import pytest
from scripted_server import File, Reply, serving, status

from sdmanager.download import DownloadProgress, Patience, download
from sdmanager.errors import DownloadError, InvalidRequestError

PATIENT = Patience(connect=600, read=600, first_pause=600, longest_pause=600)


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


async def cancelled(task):
    """Cancel a task; it must be gone long before any of its own timeouts."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_a_file_is_published_whole(fetch, file, target, remains):
    with serving(file.well) as server:
        assert await fetch(server.url()) == target
    assert target.read_bytes() == file.data
    assert not remains()
    target.with_name("other").write_bytes(b"")
    assert target.stat().st_mode == target.with_name("other").stat().st_mode


async def test_a_file_that_is_there_is_not_fetched(fetch, file, target):
    target.parent.mkdir()
    target.write_bytes(file.data)
    await fetch("http://127.0.0.1:1/never")
    await fetch("http://127.0.0.1:1/never", size=None)
    assert target.read_bytes() == file.data


@pytest.mark.parametrize("old", [b"", b"old", bytes(300_001)], ids=len)
@pytest.mark.parametrize("known", [True, False])
async def test_another_file_is_replaced(fetch, file, target, old, known, remains):
    target.parent.mkdir()
    target.write_bytes(old)
    with serving(file.well) as server:
        await fetch(server.url(), size=len(file.data) if known else None)
    assert target.read_bytes() == file.data
    assert not remains()


async def test_another_file_stays_if_the_download_fails(fetch, file, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with serving(file.serve(flip=0)) as server, pytest.raises(DownloadError) as caught:
        await fetch(server.url())
    assert target.read_bytes() == b"old"
    wrong = bytearray(file.data)
    wrong[0] ^= 1
    assert caught.value.details["reason"] == "mismatch"
    assert caught.value.details["expected"] == hashlib.sha256(file.data).hexdigest()
    assert caught.value.details["actual"] == hashlib.sha256(wrong).hexdigest()


async def test_a_digest_in_upper_case(fetch, file, target):
    with serving(file.well) as server:
        await fetch(server.url(), sha256=hashlib.sha256(file.data).hexdigest().upper())
    assert target.read_bytes() == file.data


@pytest.mark.parametrize("wrong", [{"sha256": "x"}, {"sha256": "0" * 63}, {"sha256": "٣" * 64}, {"size": -1}])
async def test_a_digest_or_size_that_is_none(fetch, target, wrong):
    with pytest.raises(InvalidRequestError):
        await fetch("http://127.0.0.1:1/never", **wrong)
    assert not target.parent.exists()


@pytest.mark.parametrize("size", [0, None])
async def test_an_empty_file(fetch, target, size):
    with serving(File(b"").well) as server:
        await fetch(server.url(), sha256=hashlib.sha256(b"").hexdigest(), size=size)
    assert target.read_bytes() == b""


@pytest.mark.parametrize("name", ["x" * 255, "灯" * 85, "🗼" * 63, ".hidden", " ", "a[b]*?"])
async def test_every_name_that_the_disk_takes(fetch, file, target, name, remains):
    half = len(file.data) // 2
    with serving(file.serve(until=half), status(404), file.well) as server:
        with pytest.raises(DownloadError):
            await fetch(server.url(), to=target.with_name(name))
        await fetch(server.url(), to=target.with_name(name))
        assert server.ranges == [None, half, half]
    assert [path.name for path in target.parent.iterdir()] == [name]


async def test_progress_comes_on_the_loop_and_ends_at_the_whole(fetch, file):
    seen = []
    size = len(file.data)
    with serving(file.well) as server:
        await fetch(server.url(), on_progress=lambda p: seen.append((p, threading.current_thread())))
    assert {thread for _, thread in seen} == {threading.main_thread()}
    assert seen[-1][0] == DownloadProgress(size, size, 0)
    counts = [progress.done for progress, _ in seen]
    assert counts == sorted(counts)


async def test_progress_is_not_told_of_every_piece(fetch, file):
    """A server that sends a thousand pieces at once does not make a thousand calls."""

    def in_pieces(request, reply):
        reply.head(200, Content_Length=len(file.data), ETag=file.etag)
        for start in range(0, len(file.data), 300):
            reply.send(file.data[start : start + 300])

    seen = []
    began = time.monotonic()
    with serving(in_pieces) as server:
        await fetch(server.url(), on_progress=seen.append)
    assert len(seen) <= (time.monotonic() - began) / 0.1 + 2


async def test_what_the_callback_raises_ends_the_download(fetch, file, target):
    def fail(progress):
        raise KeyError("of the callback")

    stuck = file.serve(until=100, then=Reply.stall)
    with serving(stuck) as server, pytest.raises(KeyError, match="of the callback"):
        await asyncio.wait_for(fetch(server.url(), on_progress=fail, patience=PATIENT), 5)
    assert not target.exists()


async def test_two_files_at_once(fetch, file, target, quick, remains):
    """Neither waits for the other: the server answers only once both have asked."""
    other = File(os.urandom(200_000), '"other"')
    both = threading.Barrier(2)

    def together(request, reply):
        both.wait(10)
        (file if "file.bin" in request.target else other).well(request, reply)

    with serving(together) as server:
        await asyncio.gather(
            fetch(server.url()),
            download(
                server.url("/other.bin"),
                target.with_name("other.bin"),
                sha256=hashlib.sha256(other.data).hexdigest(),
                size=200_000,
                patience=quick,
            ),
        )
    assert target.read_bytes() == file.data
    assert target.with_name("other.bin").read_bytes() == other.data
    target.with_name("other.bin").unlink()
    assert not remains()


async def test_the_same_file_twice_at_once(fetch, file, target, remains):
    """A live writer's part is not touched."""
    half = len(file.data) // 2
    second_is_done = threading.Event()

    def slow(request, reply):
        reply.head(200, Content_Length=len(file.data), ETag=file.etag)
        reply.send(file.data[:half])
        second_is_done.wait(10)
        reply.send(file.data[half:])

    seen = []
    with serving(slow, file.well) as server:
        first = asyncio.create_task(fetch(server.url(), on_progress=seen.append))
        await until(lambda: seen)
        await fetch(server.url())
        second_is_done.set()
        await first
        assert server.ranges == [None, None]
    assert target.read_bytes() == file.data
    assert not remains()


async def test_cancelling_in_a_stall_leaves_a_part_for_the_next_call(fetch, file, target, remains):
    half = len(file.data) // 2
    seen = []
    with serving(file.serve(until=half, then=Reply.stall), file.well) as server:
        task = asyncio.create_task(fetch(server.url(), patience=PATIENT, on_progress=seen.append))
        await until(lambda: seen)
        await cancelled(task)
        assert not target.exists()
        told = len(seen)
        assert remains() == ["download", "json"]
        await fetch(server.url())
        assert server.ranges[0] is None
        assert 0 < server.ranges[1] <= half
        assert len(seen) == told
    assert target.read_bytes() == file.data
    assert not remains()


async def test_cancelling_before_the_head(fetch, target, remains, quick):
    """The thread is let go at once, and comes to its end by itself."""
    with serving(lambda request, reply: reply.stall()) as server:
        task = asyncio.create_task(fetch(server.url(), patience=replace(quick, read=3)))
        await until(lambda: server.requests)
        await cancelled(task)
        assert not remains()
        assert not target.exists()


async def test_cancelling_before_the_head_leaves_what_came_earlier(fetch, file, target, remains, quick):
    half = len(file.data) // 2
    with serving(file.serve(until=half), lambda request, reply: reply.stall(), file.well) as server:
        task = asyncio.create_task(fetch(server.url(), patience=replace(quick, read=3)))
        await until(lambda: len(server.requests) == 2)
        await cancelled(task)
        await fetch(server.url())
        assert server.ranges == [None, half, half]
    assert target.read_bytes() == file.data
    assert not remains()


async def test_cancelling_while_it_connects(fetch, target, remains, quick):
    """A listener whose queue is full lets a connection wait."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/file"
            task = asyncio.create_task(fetch(url, patience=replace(quick, connect=3)))
            await until(lambda: target.parent.exists() and remains_of_a_writer(target))
            await asyncio.sleep(0.1)
            assert not task.done()
            await cancelled(task)
            assert not remains()
        finally:
            for filler in fillers:
                filler.close()


def remains_of_a_writer(target):
    return any(path.name.endswith(".download") for path in target.parent.iterdir())


async def test_cancelling_between_two_attempts(fetch, file, remains):
    half = len(file.data) // 2
    with serving(file.serve(until=half)) as server:
        task = asyncio.create_task(fetch(server.url(), patience=PATIENT))
        await until(lambda: server.requests and "json" in str(remains_or_lock(remains)))
        await asyncio.sleep(0.05)
        await cancelled(task)
        assert remains() == ["download", "json"]


def remains_or_lock(remains):
    try:
        return remains()
    except AssertionError as exc:  # the lock of a live writer
        return exc


async def test_cancelling_at_once(fetch, target):
    task = asyncio.create_task(fetch("http://127.0.0.1:1/never", patience=PATIENT))
    await asyncio.sleep(0)
    await cancelled(task)
    assert not target.exists()


async def test_cancelling_at_any_moment(fetch, file, target, remains):
    """From the first moment on to the last, in small steps: the target is right or absent."""
    with serving(file.well) as server:
        for step in range(40):
            target.unlink(missing_ok=True)
            task = asyncio.create_task(fetch(server.url()))
            for _ in range(step):
                await asyncio.sleep(0.0005)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)
            assert not target.exists() or target.read_bytes() == file.data
        await fetch(server.url())
    assert target.read_bytes() == file.data
    remains()
