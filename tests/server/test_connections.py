"""Limits of connections: slow clients, clients without end, and the one good client among them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import time

import pytest
from aiohttp import web
from raw_http import RawConnection, connected, request_bytes

from sdmanager.server import connections as module

SHORT = {
    "connections": {"header_seconds": 1.0, "keepalive_seconds": 1.0},
    "body": {"seconds": 2.0, "stall_seconds": 1.0},
}


def host(server):
    return ("Host", f"127.0.0.1:{server.port}")


def stalled_header(server):
    return f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX: ".encode()


def stalled_body(server):
    head = request_bytes(
        "POST", "/json", [host(server), ("Content-Type", "application/json"), ("Content-Length", "50")]
    )
    return head + b'{"a": '


async def hundreds(server, count: int, stack: contextlib.AsyncExitStack) -> list[RawConnection]:
    clients = []
    for number in range(count):
        client = await stack.enter_async_context(connected(server.port))
        client.send(stalled_header(server) if number % 2 else stalled_body(server))
        clients.append(client)
    return clients


async def good_client(server, slow: list[asyncio.Task]) -> list[float]:
    """Asks one after the other until all slow clients have been closed; how long the answers before that took."""
    times = []
    async with connected(server.port) as client:
        while not all(task.done() for task in slow):
            start = time.perf_counter()
            client.send(request_bytes("GET", "/", [host(server)]))
            reply = await client.reply()
            assert reply is not None
            assert reply.status == 200
            if not all(task.done() for task in slow):
                times.append(time.perf_counter() - start)
            await asyncio.sleep(0.02)
    return times


async def slow_clients_and_a_good_one(server, count: int) -> tuple[list[float], float]:
    async with contextlib.AsyncExitStack() as stack:
        clients = await hundreds(server, count, stack)
        start = time.monotonic()
        ends = [asyncio.ensure_future(client.ended()) for client in clients]
        times = await good_client(server, ends)
        answers = [end.result() for end in ends]
        seconds = time.monotonic() - start
    assert all(answer == b"" for answer in answers[1::2])
    assert all(b" 408 " in answer and b"REQUEST_TIMEOUT" in answer for answer in answers[::2])
    return times, seconds


async def test_slow_clients_are_closed_and_a_good_one_is_served(door_serve):
    server = await door_serve(**SHORT)
    times, _ = await slow_clients_and_a_good_one(server, 200)
    assert times
    assert server.connections.open <= 1


@pytest.mark.slow
async def test_slow_clients_are_closed_with_the_real_deadlines(door_serve):
    server = await door_serve()
    times, seconds = await slow_clients_and_a_good_one(server, 200)
    p95 = sorted(times)[int(len(times) * 0.95)]
    print(f"good client: p95 {p95 * 1000:.1f} ms of {len(times)}; slow ones closed after {seconds:.1f} s")
    assert p95 < 0.2
    assert 9 < seconds < 15


async def test_a_client_that_drips_its_body_is_closed(door_serve):
    server = await door_serve(**SHORT)
    async with connected(server.port) as client:
        client.send(stalled_body(server))
        while client.reader.at_eof() is False and not client.reader._buffer:
            client.send(b" ")
            await asyncio.sleep(0.2)
        reply = await client.reply()
    assert (reply.status, reply.code) == (408, "REQUEST_TIMEOUT")


async def test_a_silent_client_is_closed(door_serve):
    server = await door_serve(connections={"header_seconds": 0.3, "keepalive_seconds": 1000.0})
    async with connected(server.port) as client:
        assert await client.ended() == b""


async def test_a_client_that_drips_its_header_is_closed(door_serve):
    server = await door_serve(connections={"header_seconds": 0.5, "keepalive_seconds": 1000.0})
    async with connected(server.port) as client:
        client.send(stalled_header(server))
        ended = asyncio.ensure_future(client.ended())
        while not ended.done():
            client.send(b"x")
            await asyncio.sleep(0.05)
        assert await ended == b""


async def test_a_second_header_that_stalls_is_closed_too(door_serve):
    server = await door_serve(connections={"keepalive_seconds": 0.5})
    async with connected(server.port) as client:
        client.send(request_bytes("GET", "/", [host(server)]))
        assert (await client.reply()).status == 200
        client.send(stalled_header(server))
        ended = asyncio.ensure_future(client.ended())
        while not ended.done():
            client.send(b"x")
            await asyncio.sleep(0.05)
        assert await ended == b""


async def test_a_handler_that_takes_longer_than_the_deadlines_is_not_cut(door_serve):
    async def slow(request):
        await asyncio.sleep(1.5)
        return module.error_response(module.ServerError("slow"))

    server = await door_serve(
        lambda app: app.router.add_get("/slow", slow),
        connections={"header_seconds": 0.3, "keepalive_seconds": 0.3},
    )
    assert (await server.ask("GET", "/slow")).status == 500


async def test_a_compressed_body_stays_as_it_is(door_serve):
    async def length(request):
        return web.Response(text=str(len(await request.content.read())))

    server = await door_serve(lambda app: app.router.add_put("/length", length))
    body = gzip.compress(b"0" * 1_000_000)
    pairs = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    assert (await server.ask("PUT", "/length", *pairs, body=body)).body == str(len(body)).encode()


async def test_beyond_the_cap_a_connection_is_told_so_and_closed(door_serve, caplog):
    server = await door_serve(connections={"limit": 3})
    async with contextlib.AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(connected(server.port)) for _ in range(3)]
        for client in kept:
            client.send(request_bytes("GET", "/", [host(server)]))
            assert (await client.reply()).status == 200
        refused = await server.ask("GET")
        assert (refused.status, refused.code, refused.get("Connection")) == (503, "SERVER_BUSY", "close")
        assert refused.get("Retry-After") == "1"
        async with connected(server.port) as silent:
            assert (await silent.reply()).status == 503
            assert await silent.ended() == b""
        kept[0].send(request_bytes("GET", "/", [host(server)]))
        assert (await kept[0].reply()).status == 200
    async with asyncio.timeout(60):
        while server.connections.open or server.connections.refused:
            await asyncio.sleep(0.01)
    assert (await server.ask("GET")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_beyond_the_cap_the_oldest_that_says_nothing_goes_first(door_serve):
    server = await door_serve(connections={"limit": 4, "header_seconds": 1000.0})
    async with contextlib.AsyncExitStack() as stack:

        async def another() -> RawConnection:
            return await stack.enter_async_context(connected(server.port))

        speaking = await another()
        speaking.send(request_bytes("GET", "/", [host(server)]))
        assert (await speaking.reply()).status == 200
        silent = []
        for number in range(3):
            silent.append(await another())
            silent[-1].send(stalled_header(server)[:number])
            while server.connections.open < number + 2:
                await asyncio.sleep(0.01)
        for number in range(2):
            new = await another()
            new.send(request_bytes("GET", "/", [host(server)]))
            assert (await new.reply()).status == 200
            assert await silent[number].ended() == b""
            assert server.connections.open == 4
        silent[2].send(stalled_header(server)[2:] + b"x\r\n\r\n")
        assert (await silent[2].reply()).status == 200
        assert (await server.ask("GET")).status == 503  # all four have spoken
        speaking.send(request_bytes("GET", "/", [host(server)]))
        assert (await speaking.reply()).status == 200


def large_answer(size: int):
    async def handler(request):
        return web.Response(body=bytes(size))

    return lambda app: app.router.add_get("/large", handler)


async def test_a_client_that_takes_nothing_of_a_large_answer_is_cut_off(door_serve, caplog):
    server = await door_serve(large_answer(30_000_000), connections={"stall_seconds": 0.5})
    async with connected(server.port) as client:
        client.writer.transport.pause_reading()
        client.send(request_bytes("GET", "/large", [host(server)]))
        async with asyncio.timeout(60):
            while not server.connections.open:
                await asyncio.sleep(0.01)
            while server.connections.open:
                await asyncio.sleep(0.01)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_takes_a_large_answer_slowly_gets_all_of_it(door_serve):
    server = await door_serve(large_answer(24_000_000), connections={"stall_seconds": 3.0})
    async with connected(server.port) as client:
        client.send(request_bytes("GET", "/large", [host(server), ("Connection", "close")]))
        got, began = 0, time.monotonic()
        while piece := await client.reader.read(200_000):
            got += len(piece)
            await asyncio.sleep(0.05)
        assert got > 24_000_000
        assert time.monotonic() - began > 3  # longer than nothing may be taken


@pytest.mark.parametrize("what", ["address", "header"])
async def test_up_to_32_kib_are_taken_and_more_is_refused(door_serve, what):
    server = await door_serve()

    async def ask(size: int):
        text = "x" * size
        return await (
            server.ask("GET", f"/?{text}") if what == "address" else server.ask("GET", "/", ("X-Long", text))
        )

    assert (await ask(30 << 10)).status == 200
    refused = await ask(33 << 10)
    assert (refused.status, refused.code) == (400, "INVALID_REQUEST")
    assert "longer than 32 KiB" in refused.json["error"]["message"]
    assert "xx" not in refused.body.decode()


async def test_many_refused_connections_do_not_stay(door_serve):
    server = await door_serve(connections={"limit": 1})
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(connected(server.port))
        first.send(request_bytes("GET", "/", [host(server)]))
        assert (await first.reply()).status == 200
        clients = [await stack.enter_async_context(connected(server.port)) for _ in range(200)]
        assert server.connections.open <= 1
        assert server.connections.refused <= 2 * module._REFUSALS_MAX
        await asyncio.gather(*(client.ended() for client in clients))


def test_the_cap_leaves_half_of_the_files():
    resource = pytest.importorskip("resource")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, files[1]))
        assert module.Connections(None).limit == 50
        assert module.Connections(None, limit=20).limit == 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
