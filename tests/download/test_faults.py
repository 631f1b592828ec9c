"""What servers and networks do wrong: the file is whole and right afterwards, or not there."""

from __future__ import annotations

import gzip
import hashlib
import random
from dataclasses import dataclass, replace

import pytest
from scripted_server import File, Reply, serving, status

from sdmanager.download import Patience, download
from sdmanager.errors import DownloadError

DATA = random.Random(7).randbytes(200_003)
SIZE = len(DATA)
FILE = File(DATA)
HALF = FILE.serve(until=SIZE // 2)
CHANGED = File(DATA[::-1], '"tag-2"')
GROWN = File(DATA + b"more", '"tag-2"')


@dataclass(frozen=True)
class Fault:
    """A script, and what comes of it: None for the right file, else the reason of the error."""

    script: tuple
    reason: str | None = None
    size: int | None = SIZE
    ranges: tuple | None = None


def chunked(data, **more):
    def handler(request, reply):
        reply.head(200, Transfer_Encoding="chunked", ETag=FILE.etag)
        reply.chunks(data, **more)

    return handler


def close_delimited(request, reply):
    reply.head(200, ETag=FILE.etag)
    reply.send(DATA)


def zipped(request, reply):
    body = gzip.compress(DATA)
    reply.head(200, Content_Length=len(body), Content_Encoding="gzip", ETag=FILE.etag)
    reply.send(body)


def garbage(request, reply):
    reply.send(b"SMTP 220 not HTTP at all\r\n\r\n")


def said_twice(request, reply):
    content_range = f"bytes {request.first}-{SIZE - 1}/{SIZE}"
    reply.head(206, Content_Length=SIZE - request.first, ETag='"tag-2"', Content_Range=content_range)
    reply.send(DATA[::-1][request.first :])


def unsatisfiable(request, reply):
    reply.head(416, Content_Length=0, Content_Range=f"bytes */{SIZE}")


def endless(request, reply):
    reply.head(200, Transfer_Encoding="chunked")
    while True:
        reply.chunks(DATA[::-1], end=False)


HALF_WAY = SIZE // 2
FAULTS = {
    "cut at 0 %": Fault((FILE.serve(until=0), FILE.well), ranges=(None, None)),
    "cut at 50 %": Fault((HALF, FILE.well), ranges=(None, HALF_WAY)),
    "cut at 99 %": Fault((FILE.serve(until=SIZE * 99 // 100), FILE.well), ranges=(None, SIZE * 99 // 100)),
    "cut before the head": Fault((lambda request, reply: None, FILE.well)),
    "cut in the head": Fault((lambda request, reply: reply.send(b"HTTP/1.1 20"), FILE.well)),
    "reset at 50 %": Fault((FILE.serve(until=HALF_WAY, then=Reply.reset), FILE.well)),
    "cut again and again": Fault((*(FILE.serve(until=SIZE * n // 20) for n in range(1, 20)), FILE.well)),
    "another ETag": Fault((HALF, File(DATA, '"tag-2"').well), ranges=(None, HALF_WAY)),
    "another ETag in a 206": Fault((HALF, said_twice, FILE.well), ranges=(None, HALF_WAY, None)),
    "a weak ETag": Fault((File(DATA, 'W/"tag"').serve(until=HALF_WAY), FILE.well), ranges=(None, None)),
    "no ETag": Fault((File(DATA, None).serve(until=HALF_WAY), FILE.well), ranges=(None, None)),
    "200 to a Range": Fault((HALF, FILE.serve(ranges=False)), ranges=(None, HALF_WAY)),
    "a wrong Content-Range": Fault(
        (HALF, FILE.serve(content_range=f"bytes {HALF_WAY + 1}-{SIZE - 1}/{SIZE}"), FILE.well),
        ranges=(None, HALF_WAY, None),
    ),
    "no Content-Range": Fault(
        (HALF, FILE.serve(content_range=" "), FILE.well), ranges=(None, HALF_WAY, None)
    ),
    "206 to no Range": Fault((status(206, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}"),), "protocol"),
    "short, and says so": Fault((File(DATA[:-1]).well,), "size"),
    "short, and says so too late": Fault((chunked(DATA[:-1]), FILE.well), ranges=(None, SIZE - 1)),
    "long, and says so": Fault((File(DATA + b"x").well,), "size"),
    "long, and does not say so": Fault((chunked(DATA + DATA),)),
    "another file, endless": Fault((endless,), "mismatch"),
    "chunked": Fault((chunked(DATA),), size=None),
    "chunked, cut": Fault((chunked(DATA[:HALF_WAY], end=False), FILE.well), size=None),
    "no length at all": Fault((close_delimited,), size=None),
    "gzip": Fault((zipped, FILE.well)),
    "gzip, always": Fault((zipped,), "protocol"),
    "gzip, of unknown size": Fault((zipped,), "protocol", size=None),
    "gzip in name only": Fault((FILE.serve(Content_Encoding="gzip"),)),
    "a flipped byte": Fault((FILE.serve(flip=10), FILE.well), "mismatch", ranges=(None,)),
    "a flipped byte in what is gone on with": Fault(
        (FILE.serve(flip=10, until=HALF_WAY), FILE.well, FILE.well), ranges=(None, HALF_WAY, None)
    ),
    "a flipped byte again and again": Fault(
        (FILE.serve(flip=10, until=HALF_WAY), FILE.well, FILE.serve(flip=10)), "mismatch"
    ),
    "5xx": Fault((status(500), status(502), status(503), status(504), FILE.well)),
    "5xx half way": Fault((HALF, status(503), FILE.well), ranges=(None, HALF_WAY, HALF_WAY)),
    "5xx, always": Fault((status(503),), "status", ranges=(None,) * 5),
    "408": Fault((status(408), FILE.well)),
    "429 with a wait": Fault((status(429, Retry_After="0"), FILE.well)),
    "429 with too long a wait": Fault((status(429, Retry_After="86400"),), "status", ranges=(None,)),
    "404": Fault((status(404),), "status", ranges=(None,)),
    "401": Fault((status(401, WWW_Authenticate="Basic"),), "status", ranges=(None,)),
    "204": Fault((status(204),), "protocol"),
    "304": Fault((status(304),), "protocol"),
    "a redirect to nowhere": Fault((status(302, Location="ftp://127.0.0.1/x"),), "redirect"),
    "a redirect to nonsense": Fault((status(302, Location="http://[/"),), "redirect"),
    "a redirect without an address": Fault((status(302),), "protocol"),
    "416": Fault((HALF, status(416), FILE.well), ranges=(None, HALF_WAY, None)),
    "416 that knows the size": Fault((HALF, unsatisfiable, FILE.well), ranges=(None, HALF_WAY, None)),
    "416 to no Range": Fault((status(416),), "status"),
    "a changed file": Fault((HALF, CHANGED.well), "mismatch"),
    "a changed size": Fault((HALF, GROWN.well), "size"),
    "a changed size that nobody knew": Fault((HALF, GROWN.well), "size", size=None),
    "a changed size in a 206": Fault(
        (HALF, FILE.serve(content_range=f"bytes {HALF_WAY}-{SIZE}/{SIZE + 1}"), FILE.well)
    ),
    "not HTTP": Fault((garbage, FILE.well)),
    "not HTTP, always": Fault((garbage,), "interrupted"),
}
STALLS = {
    "a stall": Fault((FILE.serve(until=HALF_WAY, then=Reply.stall), FILE.well), ranges=(None, HALF_WAY)),
    "a stall before the head": Fault((lambda request, reply: reply.stall(), FILE.well)),
    "a stall, always": Fault((lambda request, reply: reply.stall(),), "interrupted", ranges=(None,) * 5),
}


async def try_out(fault, target, patience):
    with serving(*fault.script) as server:
        wanted = {"sha256": hashlib.sha256(DATA).hexdigest(), "size": fault.size, "patience": patience}
        if fault.reason is None:
            assert await download(server.url(), target, **wanted) == target
            assert target.read_bytes() == DATA
        else:
            begin = (
                f"^'{target.name}' could not be downloaded from 127.0.0.1:{server.port}: ([^.]|[.][0-9])+[.]$"
            )
            with pytest.raises(DownloadError, match=begin) as caught:
                await download(server.url(), target, **wanted)
            assert caught.value.details["reason"] == fault.reason
            assert caught.value.hint
            assert not target.exists()
        if fault.ranges is not None:
            assert tuple(server.ranges) == fault.ranges
        assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_ends_in_the_right_file_or_none(name, target, quick, remains):
    await try_out(FAULTS[name], target, quick)
    assert FAULTS[name].reason or not remains()


@pytest.mark.parametrize("name", STALLS)
async def test_a_stall_ends_in_the_right_file_or_none(name, target, quick, remains):
    await try_out(STALLS[name], target, replace(quick, read=0.25))
    assert not remains()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS | STALLS)
async def test_a_fault_twenty_times(name, tmp_path, quick):
    fault = (FAULTS | STALLS)[name]
    for number in range(20):
        await try_out(
            fault, tmp_path / f"{number}.bin", replace(quick, read=0.25) if name in STALLS else quick
        )


async def test_an_attempt_that_brought_something_new_starts_the_count_again(fetch, file, target, quick):
    step = len(file.data) // 12
    script = [file.serve(until=step * n) for n in range(1, 12)]
    with serving(*script, file.well) as server:
        await fetch(server.url(), patience=replace(quick, attempts=2))
        assert server.ranges == [None, *(step * n for n in range(1, 12))]
    assert target.read_bytes() == file.data


async def test_a_server_that_always_stops_at_the_same_byte_is_given_up(fetch, file, target, remains):
    half = len(file.data) // 2
    with serving(file.serve(until=half, ETag=None)) as server:
        with pytest.raises(DownloadError, match="was cut") as caught:
            await fetch(server.url())
        # The first brought something new, and then five in a row did not.
        assert len(server.requests) == 5
    assert caught.value.details["reason"] == "interrupted"
    assert not target.exists()
    assert not remains()


async def test_what_came_before_a_failure_is_gone_on_with_by_the_next_call(fetch, file, target, remains):
    half = len(file.data) // 2
    with serving(file.serve(until=half), status(404), file.well) as server:
        with pytest.raises(DownloadError, match="404"):
            await fetch(server.url())
        assert remains() == ["download", "json"]
        assert not target.exists()
        seen = []
        await fetch(server.url(), on_progress=seen.append)
        assert server.ranges == [None, half, half]
    assert target.read_bytes() == file.data
    assert (seen[-1].done, seen[-1].total, seen[-1].resumed) == (len(file.data), len(file.data), half)
    assert not remains()


async def test_credentials_are_in_no_message(fetch, file):
    with serving(status(403)) as server:
        port = server.port
        url = f"http://tom:secret@127.0.0.1:{server.port}/folder/file.bin?token=secret#secret"
        with pytest.raises(DownloadError) as caught:
            await fetch(url)
        assert server.requests[0].headers["authorization"].startswith("Basic ")
    shown = f"{caught.value} {caught.value.hint} {caught.value.details}"
    assert "secret" not in shown
    assert "tom" not in shown
    assert caught.value.details["url"] == f"http://127.0.0.1:{port}/folder/file.bin"
    assert caught.value.details["status"] == 403


async def test_a_server_that_is_not_there(fetch):
    with serving(status(200)) as server:
        url = server.url()
    with pytest.raises(DownloadError, match="connection refused") as caught:
        await fetch(url)
    assert caught.value.details["reason"] == "unreachable"
    assert "HTTPS_PROXY" in caught.value.hint
    assert "SDMANAGER_MIRROR" in caught.value.hint


async def test_a_name_that_does_not_resolve(fetch):
    with pytest.raises(DownloadError, match="cannot be resolved") as caught:
        await fetch("http://no-such-host.invalid/file", patience=Patience(first_pause=0.001, attempts=2))
    assert caught.value.details["reason"] == "unreachable"


@pytest.mark.parametrize(
    "url",
    ["", "file", "ftp://host/file", "file:///etc/passwd", "http://", "http:///x", "http://[::1", "http://h:9999999/",
     "http://h:x/", "http://\x00/", "http://a b/", "http://.../x", "http://*.host/", "http://" + "a" * 300 + "/x",
     "\n", "http://h\udcff/"],
    ids=ascii,
)  # fmt: skip
async def test_an_address_that_is_none(fetch, url, target):
    with pytest.raises(DownloadError) as caught:
        await fetch(url, patience=Patience(first_pause=0.001, attempts=1))
    assert caught.value.details["reason"] in ("url", "unreachable")
    assert not target.exists()
