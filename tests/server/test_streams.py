"""The writer of events: snapshots, coming back, heartbeats, readers that lag, leave or never read, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time

import aiohttp
import psutil
import pytest
from scripted_generator import ScriptedGenerator, preview, progress, result_of, stage
from serving import Served, serving
from sse_client import events_of, names, peers, set_times, soon, sse

from sdmanager.engine import LocalGenerator
from sdmanager.generation import Stage
from sdmanager.jobs import Feed
from sdmanager.server import streams
from sdmanager.server.streams import rendered
from sdmanager.settings import Settings

READERS = 500


@pytest.fixture
def served(queue: Served) -> Served:
    return queue


async def running(served: Served, scripted: ScriptedGenerator, *events) -> str:
    """A generation that has told these."""
    generation_id = await served.begin(previews={})
    feed = served.service.feed(generation_id)
    await soon(lambda: feed.last_number == 1)
    scripted.tell(*events)
    await soon(lambda: feed.last_number == 1 + len(events))
    return generation_id


def connections(served: Served) -> list:
    return served.server._runner.server.connections


# How a stream begins


async def test_a_stream_begins_with_the_time_to_come_back_after(served: Served, scripted) -> None:
    generation_id = await running(served, scripted)
    async with sse(served.client, events_of(generation_id)) as reader:
        await reader.next()
        assert reader.retry == "2000"
        assert reader.comments == ["connected"]
        headers = reader.response.headers
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_new_reader_gets_how_things_stand_and_then_what_comes(served: Served, scripted) -> None:
    generation_id = await running(
        served, scripted, progress(1), preview(1), progress(2), preview(2), progress(3)
    )
    async with sse(served.client, events_of(generation_id)) as reader:
        standing = [await reader.next(), await reader.next()]
        assert names(standing) == ["progress", "preview"]
        assert [event.data.get("currentStep") or event.data["step"] for event in standing] == [3, 2]
        # Only the last one moves the id on: who is cut off between them must get the second, too.
        assert [event.id for event in standing] == ["", "6"]
        scripted.tell(progress(4))
        live = await reader.next()
        assert (live.name, live.data["currentStep"], live.id) == ("progress", 4, "7")


async def test_a_new_stage_is_told_once(served: Served, scripted) -> None:
    generation_id = await running(served, scripted)
    async with sse(served.client, events_of(generation_id)) as reader:
        told = [await reader.next()]
        scripted.tell(progress(1), stage(Stage.DECODING), progress(2))
        told += [await reader.next(), await reader.next()]
        assert [(event.id, event.data["stage"]) for event in told] == [
            ("1", "loading"),
            ("2", "diffusion"),
            ("4", "diffusion"),
        ]
        scripted.finish()
        assert names(await reader.rest()) == ["complete"]


async def test_the_first_stage_is_told_before_there_is_progress(served: Served, scripted) -> None:
    await running(served, scripted)
    waiting = await served.begin(count=2)
    async with sse(served.client, events_of(waiting)) as reader:
        assert (await reader.next()).name == "queued"
        scripted.finish()
        told = await reader.next()
        assert (told.name, told.data["stage"], told.data["totalImages"]) == ("progress", "loading", 2)


async def test_who_waits_is_told_its_place_and_each_new_one(served: Served, scripted) -> None:
    first, second = await running(served, scripted), await served.begin()
    third = await served.begin()
    async with sse(served.client, events_of(third)) as reader:
        told = [await reader.next()]
        await served.ask("DELETE", f"/v1/images/generations/{second}")
        told.append(await reader.next())
        assert [(event.name, event.data["position"]) for event in told] == [("queued", 2), ("queued", 1)]
        scripted.finish()
        assert names(await reader.until("progress")) == ["progress"]
    assert first != third


# Coming back


@pytest.mark.parametrize("how", ["header", "?last_event_id=3", "?lastEventId=3"])
async def test_who_comes_back_gets_what_it_missed_and_no_more(served: Served, scripted, how) -> None:
    generation_id = await running(served, scripted, *(progress(step, 5) for step in range(1, 6)))
    query, header = ("", "3") if how == "header" else (how, None)
    async with sse(served.client, events_of(generation_id, query), header) as reader:
        missed = [await reader.next() for _ in range(3)]
        assert [(event.id, event.data["currentStep"]) for event in missed] == [("4", 3), ("5", 4), ("6", 5)]
        scripted.finish()
        assert [event.id for event in await reader.rest()] == ["end"]


async def test_the_header_of_a_reader_that_comes_back_beats_its_old_address(served: Served, scripted) -> None:
    generation_id = await running(served, scripted, *(progress(step, 5) for step in range(1, 6)))
    async with sse(served.client, events_of(generation_id, "?last_event_id=1"), "5") as reader:
        assert (await reader.next()).id == "6"


@pytest.mark.parametrize("seen", ["7", "999999999999999999999999", "-1", "1.5", "²", "end", "x" * 4000])
async def test_an_id_that_is_none_of_this_generation_gives_how_things_stand(
    served: Served, scripted, seen
) -> None:
    generation_id = await running(served, scripted, *(progress(step, 5) for step in range(1, 6)))
    async with sse(served.client, events_of(generation_id), seen) as reader:
        told = await reader.next()
        assert (told.id, told.data["currentStep"]) == ("6", 5)


async def test_of_the_previews_that_were_missed_only_the_newest_comes(served: Served, scripted) -> None:
    events = [event for step in range(1, 5) for event in (progress(step), preview(step))]
    generation_id = await running(served, scripted, *events)
    async with sse(served.client, events_of(generation_id), "1") as reader:
        missed = [await reader.next() for _ in range(5)]
    assert names(missed) == ["progress"] * 4 + ["preview"]
    assert missed[-1].data["step"] == 4


async def test_a_generation_that_has_ended_tells_its_end_once(served: Served, scripted) -> None:
    generation_id = await running(served, scripted, progress(1))
    scripted.finish()
    await served.until(generation_id)
    for seen in (None, "2"):
        async with sse(served.client, events_of(generation_id), seen) as reader:
            told = await reader.rest()
            assert [(event.name, event.id) for event in told] == [("complete", "end")]
    reply = await served.get(events_of(generation_id), headers={"Last-Event-ID": "end"})
    assert (reply.status, reply.body) == (204, b"")


@pytest.mark.parametrize("seen", [{}, {"Last-Event-ID": "end"}, {"Last-Event-ID": "3"}])
async def test_an_unknown_generation_is_an_error_before_the_stream_begins(served: Served, seen) -> None:
    reply = await served.get(events_of("gen_0123"), headers=seen)
    assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_a_generation_that_ends_while_its_reader_connects_is_not_missed(
    served: Served, scripted
) -> None:
    for _ in range(20):
        generation_id = await running(served, scripted, progress(1))
        scripted.finish()
        async with sse(served.client, events_of(generation_id)) as reader:
            assert names(await reader.rest())[-1:] == ["complete"]


async def test_a_reader_that_is_cut_off_misses_nothing_of_the_real_engine(settings: Settings) -> None:
    async with (
        LocalGenerator(settings=settings) as generator,
        serving(generator, settings.generations_dir) as served,
    ):
        generation_id = await served.begin(steps=12, width=256, height=256, previews={})
        async with sse(served.client, events_of(generation_id)) as witness:
            told, cuts, seen = [], 0, None
            while not told or told[-1].name != "complete":
                async with sse(served.client, events_of(generation_id), seen) as reader:
                    for _ in range(3):
                        event = await reader.next()
                        told.append(event)
                        if event.name == "complete":
                            break
                    seen = reader.last_id
                    reader.cut()
                    cuts += 1
            whole = await witness.rest()
        assert cuts > 4
        # Previews that a newer one has replaced are not kept; everything else came once, and in order.
        told = [event for event in told if event.name != "preview"]
        known = [event for event in whole if event.name != "preview"]
        ids = [event.id for event in known]
        assert told[1:] == known[ids.index(told[0].id) + 1 :]


# Silence, and readers that are no longer there


async def test_silence_is_broken_by_comments(served: Served, scripted) -> None:
    set_times(served, heartbeat=0.05)
    generation_id = await running(served, scripted, progress(1))
    async with sse(served.client, events_of(generation_id)) as reader:
        await reader.next()
        assert [await reader.heartbeat() for _ in range(3)] == ["keep-alive"] * 3
        scripted.tell(progress(2))
        assert (await reader.until("progress"))[-1].data["currentStep"] == 2
        assert reader.last_id == "3"


async def test_a_reader_that_leaves_is_let_go_and_nothing_is_said(served: Served, scripted, caplog) -> None:
    caplog.set_level(logging.INFO)
    set_times(served, heartbeat=0.05)
    generation_id = await running(served, scripted, progress(1))
    tasks = len(asyncio.all_tasks())
    for _ in range(10):
        async with sse(served.client, events_of(generation_id)) as reader:
            await reader.next()
            reader.cut()
    await soon(lambda: len(asyncio.all_tasks()) <= tasks)
    assert caplog.records == []


@contextlib.contextmanager
def closing(*socks: socket.socket):
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


async def stalled_reader(served: Served, path: str) -> socket.socket:
    """A connection that asks and never reads, with as little room as the system gives."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", served.server.port))
    host = f"127.0.0.1:{served.server.port}"
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return sock


async def test_who_never_reads_delays_nobody_and_costs_no_memory(served: Served, scripted) -> None:
    generation_id = await running(served, scripted)
    stalled = [await stalled_reader(served, events_of(generation_id)) for _ in range(20)]
    process = psutil.Process()
    data = os.urandom(300_000)
    with closing(*stalled):
        async with sse(served.client, events_of(generation_id)) as reader:
            await reader.next()
            before = process.memory_info().rss
            for step in range(1, 101):
                scripted.tell(preview(step, 100, data))
                assert (await reader.until("preview"))[-1].data["step"] == step
            # What was sent, 20 x 40 MB, stands nowhere: each has what its connection holds, and the newest preview.
            grown = process.memory_info().rss - before
            scripted.finish()
            assert names(await reader.rest()) == ["complete"]
    assert grown < 100 * 2**20


async def test_who_takes_nothing_for_too_long_is_given_up(served: Served, scripted) -> None:
    set_times(served, patience=0.2)
    generation_id = await running(served, scripted)
    stalled = await stalled_reader(served, events_of(generation_id))
    with closing(stalled):
        port = stalled.getsockname()[1]
        await soon(lambda: port in peers(served))
        for step in range(1, 40):
            scripted.tell(preview(step, 100, os.urandom(300_000)))
            await asyncio.sleep(0.01)
        await soon(lambda: port not in peers(served))
    assert served.service.feed(generation_id) is not None


async def test_a_slow_reader_gets_the_newest_preview_and_not_those_before(served: Served, scripted) -> None:
    generation_id = await running(served, scripted)
    async with sse(served.client, events_of(generation_id)) as reader:
        await reader.next()
        feed = served.service.feed(generation_id)
        for step in range(1, 201):
            scripted.tell(preview(step, 200, os.urandom(300_000)))
            await soon(lambda n=step: feed.last_number == n + 1)
        got = await reader.until("preview")
        while got[-1].data["step"] < 200:
            got += await reader.until("preview")
    assert len(got) < 150
    assert [event.data["step"] for event in got] == sorted(event.data["step"] for event in got)


def test_one_encoding_serves_all_readers() -> None:
    asked = []

    class Dialect:
        name = "counting"

        def word(self, event, number, feed):
            asked.append(number)
            return "progress", {"n": number}

        async def end(self, event):
            raise NotImplementedError

    feed = Feed()
    feed.publish(progress(1))
    (item,) = feed.since(0)
    frames = {id(rendered(item, feed, Dialect())) for _ in range(100)}
    assert len(frames) == 1
    assert asked == [1]


def test_a_preview_that_was_replaced_since_it_was_looked_for_is_not_sent() -> None:
    class Dialect:
        name = "any"

        def word(self, event, number, feed):
            return "preview", {"step": event.step}

        async def end(self, event):
            raise NotImplementedError

    feed = Feed()
    feed.publish(preview(1))
    (item,) = feed.since(0)
    assert rendered(item, feed, Dialect())
    feed.publish(preview(2))
    assert rendered(item, feed, Dialect()) == b""


async def test_who_leaves_while_it_is_written_to_is_no_fault_of_ours(
    served: Served, scripted, caplog
) -> None:
    generation_id = await running(served, scripted, preview(1, data=os.urandom(5_000_000)))
    stalled = await stalled_reader(served, events_of(generation_id))
    port = stalled.getsockname()[1]
    await soon(lambda: any(connection.writing_paused for connection in connections(served)))
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
    stalled.close()
    await soon(lambda: port not in peers(served))
    await soon(lambda: not served.server._runner.server.connections)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_end_as_a_whole_has_a_time_limit(served: Served, scripted, monkeypatch) -> None:
    set_times(served, patience=1.0)
    monkeypatch.setattr(streams, "_PIECE", 1)  # so that each piece for itself is quick
    monkeypatch.setattr(streams, "_PATIENCES", 0.2)
    slept, write = asyncio.sleep, aiohttp.web.StreamResponse.write

    async def slow(self, data):
        await slept(0.02)
        await write(self, data)

    monkeypatch.setattr(aiohttp.web.StreamResponse, "write", slow)
    generation_id = await served.begin()
    scripted.finish()
    await served.until(generation_id)
    with pytest.raises(aiohttp.ClientError):
        async with sse(served.client, events_of(generation_id)) as reader:
            await reader.rest()


# The end of the server


@pytest.mark.parametrize("first", ["server", "service"])
async def test_a_server_that_stops_ends_all_streams_at_once(served: Served, scripted, first) -> None:
    generation_id = await running(served, scripted, progress(1))
    async with sse(served.client, events_of(generation_id)) as reader:
        await reader.next()
        began = time.monotonic()
        stalled = await stalled_reader(served, events_of(generation_id))
        with closing(stalled):
            if first == "server":
                await served.server.aclose()
                assert await reader.rest() == []  # a proper end, in which nothing is missing
            else:
                await served.service.aclose()
                assert names(await reader.rest()) == ["cancelled"]
                await served.server.aclose()
        assert time.monotonic() - began < 20


async def test_five_hundred_streams_are_served_and_closed(served: Served, scripted) -> None:
    generation_id = await running(served, scripted, progress(1))
    async with (
        aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=0)) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        readers = [
            await stack.enter_async_context(sse(client, events_of(generation_id))) for _ in range(READERS)
        ]
        for reader in readers:
            assert (await reader.next()).data["currentStep"] == 1
        scripted.tell(progress(2), preview(2))
        for told in await asyncio.gather(*(reader.until("preview") for reader in readers)):
            assert names(told) == ["progress", "preview"]
        reply = await served.get("/health")  # and others are answered meanwhile
        assert reply.json == {"status": "ok", "busy": True}
        stopping = asyncio.create_task(served.server.aclose())
        for rest in await asyncio.gather(*(reader.rest() for reader in readers)):
            assert rest == []
        await stopping


async def test_the_end_reaches_five_hundred(served: Served, scripted) -> None:
    generation_id = await running(served, scripted, progress(1))
    async with (
        aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=0)) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        readers = [
            await stack.enter_async_context(sse(client, events_of(generation_id))) for _ in range(READERS)
        ]
        scripted.finish(result_of(2))
        for told in await asyncio.gather(*(reader.rest() for reader in readers)):
            assert names(told) == ["progress", "complete"]
            assert len(told[-1].data["images"]) == 2
