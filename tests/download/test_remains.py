"""What is left of downloads that were killed, by whom it is used, and when it goes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from scripted_server import File, Reply, serving, status

from sdmanager.download._remains import STALE_SECONDS, USELESS_SECONDS
from sdmanager.errors import DownloadError

CHILD = Path(__file__).parents[1] / "fakes" / "download_child.py"
TOKENS = ("0123456789abcdef", "fedcba9876543210")


def child(url, target, file, size=True):
    digest = hashlib.sha256(file.data).hexdigest()
    argv = [sys.executable, str(CHILD), url, str(target), digest, str(len(file.data) if size else None)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return [tuple(map(int, line.split())) for line in said.splitlines()]


def leave(target, file, count, *, token=TOKENS[0], url="http://127.0.0.1:1/x", age=0.0, **about):
    """Leave what a writer leaves that was killed after so many bytes; an `about` of None leaves that out."""
    target.parent.mkdir(exist_ok=True)
    base = target.with_name(f".{target.name[:50]}.{token}")
    digest = hashlib.sha256(file.data).hexdigest()
    said = {"url": url, "sha256": digest, "etag": file.etag, "total": len(file.data)} | about
    paths = [Path(f"{base}.{kind}") for kind in ("download", "json", "lock")]
    for path, data in zip(paths, (file.data[:count], json.dumps(said).encode(), b""), strict=True):
        path.write_bytes(data)
        os.utime(path, (time.time() - age,) * 2)
    return paths


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("whole", [False, True])
async def test_the_part_of_a_dead_process_is_gone_on_with(fetch, file, target, whole):
    count = len(file.data) - (0 if whole else 7)
    with serving(file.well) as server:
        leave(target, file, count, url=server.url())
        seen = []
        await fetch(server.url(), on_progress=seen.append)
        assert server.ranges == ([] if whole else [count])
    assert target.read_bytes() == file.data
    assert (seen[-1].done, seen[-1].resumed) == (len(file.data), count)
    assert names(target) == [target.name]


async def test_the_larger_of_two_parts_is_gone_on_with_and_the_other_goes(fetch, file, target):
    for order in (TOKENS, TOKENS[::-1]):
        target.unlink(missing_ok=True)
        with serving(file.well) as server:
            leave(target, file, 1000, token=order[0], url=server.url())
            leave(target, file, 2000, token=order[1], url=server.url())
            await fetch(server.url())
            assert server.ranges == [2000]
        assert names(target) == [target.name]


async def test_a_part_with_wrong_bytes_costs_one_start_from_zero(fetch, file, target):
    with serving(file.well) as server:
        about = {"sha256": digest_of(file), "etag": file.etag, "total": len(file.data)}
        leave(target, File(bytes(5000)), 5000, url=server.url(), **about)
        await fetch(server.url())
        assert server.ranges == [5000, None]
    assert target.read_bytes() == file.data
    assert names(target) == [target.name]


def digest_of(file):
    return hashlib.sha256(file.data).hexdigest()


OTHERS = {
    "of another file": {"sha256": "0" * 64},
    "from another address": {"url": "http://127.0.0.1:1/other"},
    "of another size": {"total": 299_999},
}
USELESS = {
    "with a weak ETag": {"etag": 'W/"a"'},
    "with a hostile ETag": {"etag": '"a"\r\nX-Evil: 1'},
    "with no ETag": {"etag": None},
    "with a size that is none": {"total": "many"},
    "larger than its file": {"total": 999},
    "with no digest": {"sha256": None},
}


@pytest.mark.parametrize("about", (OTHERS | USELESS).values(), ids=OTHERS | USELESS)
async def test_a_part_that_does_not_fit_is_not_used(fetch, file, target, about):
    with serving(file.well) as server:
        paths = leave(target, file, 1000, **({"url": server.url()} | about))
        await fetch(server.url())
        assert server.ranges == [None]
    assert target.read_bytes() == file.data
    assert paths[0].exists()  # it is young: its writer may be about to say what it is


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_a_part_that_says_nothing_sensible_is_not_used_and_goes_in_time(fetch, file, target, text):
    with serving(file.well) as server:
        paths = leave(target, file, 1000, url=server.url(), age=USELESS_SECONDS + 10)
        paths[1].write_bytes(text)
        os.utime(paths[1], (time.time() - USELESS_SECONDS - 10,) * 2)
        await fetch(server.url())
        assert server.ranges == [None]
    assert names(target) == [target.name]


@pytest.mark.parametrize("about", USELESS.values(), ids=USELESS)
async def test_a_useless_part_goes_in_time(fetch, file, target, about):
    with serving(file.well) as server:
        leave(target, file, 1000, age=USELESS_SECONDS + 10, **({"url": server.url()} | about))
        await fetch(server.url())
    assert names(target) == [target.name]


@pytest.mark.parametrize("kind", ["download", "json", "lock"])
async def test_one_file_of_a_part_alone_goes_in_time(fetch, file, target, kind):
    with serving(file.well) as server:
        for age, token in ((0, TOKENS[0]), (USELESS_SECONDS + 10, TOKENS[1])):
            for path in leave(target, file, 1000, url=server.url(), age=age, token=token):
                if path.suffix != f".{kind}":
                    path.unlink()
        await fetch(server.url())
    assert names(target) == [f".file.bin.{TOKENS[0]}.{kind}", target.name]


async def test_the_part_of_another_file_stays_until_it_is_old(fetch, file, target):
    other = target.with_name("other.bin")
    with serving(file.well) as server:
        young = leave(other, file, 1000, sha256="0" * 64, age=STALE_SECONDS - 100)
        leave(other, file, 1000, token=TOKENS[1], sha256="0" * 64, age=STALE_SECONDS + 100)
        await fetch(server.url())
    assert names(target) == sorted([target.name, *(path.name for path in young)])


async def test_the_part_of_a_living_writer_is_left_alone_however_old(fetch, file, target):
    with serving(file.well) as server:
        paths = leave(target, file, 1000, url=server.url(), age=STALE_SECONDS + 100)
        with FileLock(paths[2]):
            await fetch(server.url())
        assert server.ranges == [None]
    assert target.read_bytes() == file.data
    assert all(path.exists() for path in paths)


async def test_files_with_similar_names_are_left_alone(fetch, file, target):
    target.parent.mkdir()
    similar = [
        ".download",
        ".x.download",
        f"x.{TOKENS[0]}.download",
        f".x.{TOKENS[0]}.lock.bak",
        f".x.{'A' * 16}.lock",
    ]
    for name in similar:
        path = target.with_name(name)
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    with serving(file.well) as server:
        await fetch(server.url())
    assert names(target) == sorted([*similar, target.name])


async def test_no_credentials_are_on_the_disk(fetch, file, target):
    with serving(file.serve(until=100), status(404)) as server, pytest.raises(DownloadError):
        await fetch(f"http://tom:secret@127.0.0.1:{server.port}/x?token=secret")
    contents = [path.read_bytes() for path in target.parent.iterdir() if path.suffix == ".json"]
    assert len(contents) == 1
    assert b"secret" not in contents[0]
    assert b"tom" not in contents[0]


async def kill_and_go_on(file, target, fetch, rng):
    """Kill a downloading process at some byte; the next call must go on from what it left.

    Returns:
        How many bytes it went on from.
    """
    size = len(file.data)
    offset = rng.choice([0, 1, size - 1, size, rng.randrange(size)])
    sent = threading.Event()

    def up_to(request, reply):
        reply.head(200, Content_Length=size, ETag=file.etag)
        for start in range(0, offset, 65_536):
            reply.send(file.data[start : min(start + 65_536, offset)])
        sent.set()
        if offset < size:
            reply.stall()

    with serving(up_to, file.well) as server:
        process = child(server.url(), target, file)
        try:
            assert sent.wait(60)
            time.sleep(rng.choice([0, 0, 0.002, 0.02]))  # no assertion waits for it: the moment is arbitrary
        finally:
            process.kill()
            process.communicate()
        assert not target.exists() or target.read_bytes() == file.data
        was_there = target.exists()
        await fetch(server.url(), **({"size": None} if rng.random() < 0.3 else {}))
        assert target.read_bytes() == file.data
        assert not was_there or len(server.requests) == 1
    # A part without a byte in it is left alone while it is young: its writer may have only just begun.
    for path in target.parent.iterdir():
        assert path == target or path.suffix != ".download" or not path.stat().st_size
        path.unlink()
    return server.ranges[1] if len(server.requests) > 1 else None


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.slow)])
async def test_a_killed_process_leaves_a_part_to_go_on_from(fetch, file, target, rounds):
    file.data = random.Random(rounds).randbytes(3_000_001)
    rng = random.Random(rounds)
    went_on_from = [await kill_and_go_on(file, target, fetch, rng) for _ in range(rounds)]
    assert any(went_on_from)


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_four_processes_on_one_file(file, target, rounds):
    """All begin at the same moment, one of them is cut off, and all find the file right."""
    file.data = random.Random(3).randbytes(2_000_001)
    for _ in range(rounds):
        together = threading.Barrier(4)

        def at_once(request, reply, together=together, **fault):
            together.wait(60)
            file.serve(**fault)(request, reply)

        def cut(request, reply, at_once=at_once):
            at_once(request, reply, until=1_000_000)

        with serving(cut, *[at_once] * 3, file.well) as server:
            processes = [child(server.url(), target, file, size=n % 2 == 0) for n in range(4)]
            for process in processes:
                assert ended(process)[-1] == (len(file.data), 0)
            assert target.read_bytes() == file.data
            assert len(server.requests) == 5
        assert names(target) == [target.name]
        target.unlink()


def test_four_processes_after_four_that_were_killed(file, target):
    """Each of the four takes over a part of its own, or begins anew; none takes one from a living writer."""
    half = len(file.data) // 2
    stuck = file.serve(until=half, then=Reply.stall)
    with serving(*[stuck] * 4, file.well) as server:
        dying = [child(server.url(), target, file) for _ in range(4)]
        for process in dying:
            assert process.stdout.readline()  # the first progress: all four are writing
        for process in dying:
            process.kill()
            process.communicate()
        assert len(list(target.parent.glob(".*.download"))) == 4
        processes = [child(server.url(), target, file) for _ in range(4)]
        for process in processes:
            ended(process)
        assert any(server.ranges[4:])
    assert target.read_bytes() == file.data
    assert names(target) == [target.name]
