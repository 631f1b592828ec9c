"""The WebSocket: everything that happens, as JSON and as bytes."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import struct

import aiohttp
import pytest
from aiohttp import WSMsgType
from PIL import Image
from scripted_generator import preview, progress
from serving import GENERATIONS, Served
from sse_client import SECONDS, peers, port_of, set_times, soon

from sdmanager.errors import EngineCrashedError


class Listener:
    """What a socket has said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def next(self) -> dict:
        """The next JSON; the bytes of a preview stand with it."""
        async with asyncio.timeout(SECONDS):
            message = await self.socket.receive()
            assert message.type is WSMsgType.TEXT, message
            told = json.loads(message.data)
            assert set(told) == {"type", "data"}
            if told["type"] == "preview":
                message = await self.socket.receive()
                assert message.type is WSMsgType.BINARY
                told["bytes"] = message.data
            return told

    async def until(self, *kinds: str) -> list[dict]:
        seen: list[dict] = []
        while not seen or seen[-1]["type"] not in kinds:
            seen.append(await self.next())
        return seen

    async def closed(self) -> int | None:
        """With which code."""
        async with asyncio.timeout(SECONDS):
            message = await self.socket.receive()
        assert message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED}, message
        return self.socket.close_code


def connect(served: Served, query: str = "", **options):
    return served.client.ws_connect(f"/ws{query}", **options)


def kinds(told: list[dict]) -> list[str]:
    return [event["type"] for event in told]


@pytest.mark.parametrize(("image_format", "number"), [("jpeg", 1), ("png", 2), ("webp", 3)])
async def test_a_generation_is_told_with_the_bytes_of_its_previews(
    real: Served, image_format, number
) -> None:
    async with connect(real) as socket:
        listener = Listener(socket)
        status = await listener.next()
        assert status == {"type": "status", "data": {"busy": False, "waiting": 0, "generations": []}}
        generation_id = await real.begin(steps=4, previews={"format": image_format})
        told = await listener.until("complete")
    assert {event["data"]["id"] for event in told} == {generation_id}
    assert set(kinds(told)) == {"stage", "progress", "preview", "complete"}
    stages = [event["data"]["stage"] for event in told if event["type"] == "stage"]
    assert stages[0] == "loading"
    assert stages[-1] == "decoding"
    for event in told:
        if event["type"] == "preview":
            assert "image" not in event["data"]
            assert event["data"]["format"] == image_format
            assert struct.unpack(">II", event["bytes"][:8]) == (1, number)
            picture = Image.open(io.BytesIO(event["bytes"][8:]))
            picture.load()
            assert (picture.format, picture.size) == (
                image_format.upper(),
                (event["data"]["width"], event["data"]["height"]),
            )
    assert told[-1]["data"]["images"][0]["url"] == f"{GENERATIONS}/{generation_id}/images/0"


async def test_who_connects_is_told_how_things_stand(queue: Served, scripted) -> None:
    first = await queue.begin(previews={})
    second = await queue.begin()
    scripted.tell(progress(1), preview(1))
    await soon(lambda: queue.service.feed(first).preview is not None)
    async with connect(queue) as socket:
        listener = Listener(socket)
        status = (await listener.next())["data"]
        assert (status["busy"], status["waiting"]) == (True, 1)
        assert [generation["id"] for generation in status["generations"]] == [first, second]
        assert status["generations"][0]["progress"]["currentStep"] == 1
        assert status["generations"][1]["queuePosition"] == 1
        newest = await listener.next()
        assert (newest["type"], newest["data"]["step"]) == ("preview", 1)


async def test_several_generations_are_told_apart(queue: Served, scripted) -> None:
    async with connect(queue) as socket:
        listener = Listener(socket)
        await listener.next()
        first = await queue.begin()
        second = await queue.begin()
        assert (await listener.until("queued"))[-1]["data"] == {"id": second, "position": 1}
        scripted.finish(EngineCrashedError("The engine crashed."))
        failed = (await listener.until("error"))[-1]["data"]
        assert (failed["id"], failed["code"]) == (first, "ENGINE_CRASHED")
        assert (await listener.until("stage"))[-1]["data"] == {"id": second, "stage": "loading"}
        await queue.ask("DELETE", f"{GENERATIONS}/{second}")
        assert (await listener.until("cancelled"))[-1]["data"] == {"id": second}


async def test_one_generation_alone_can_be_followed(queue: Served, scripted) -> None:
    first, second = await queue.begin(), await queue.begin()
    async with connect(queue, f"?id={second}") as socket:
        listener = Listener(socket)
        status = (await listener.next())["data"]
        assert [generation["id"] for generation in status["generations"]] == [second]
        scripted.tell(progress(1))
        scripted.finish()
        await queue.until(first)
        scripted.finish()
        told = await listener.until("complete")
        assert {event["data"]["id"] for event in told} == {second}
        assert await listener.closed() == 1000
    async with connect(queue, f"?id={first}") as socket:
        listener = Listener(socket)
        assert kinds([await listener.next(), await listener.next()]) == ["status", "complete"]
        assert await listener.closed() == 1000


async def test_what_is_no_websocket_or_no_generation_is_an_answer(queue: Served) -> None:
    plain = await queue.get("/ws")
    assert (plain.status, plain.code) == (400, "INVALID_REQUEST")
    unknown = await queue.get("/ws?id=gen_0123")
    assert (unknown.status, unknown.code) == (404, "NOT_FOUND")


async def test_a_page_of_strangers_may_not_listen(queue: Served) -> None:
    for origin in ("https://example.org", "null"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
            await connect(queue, headers={"Origin": origin})
        assert raised.value.status == 403


async def test_what_clients_say_is_ignored_and_bounded(queue: Served, scripted) -> None:
    async with connect(queue) as socket:
        listener = Listener(socket)
        await listener.next()
        for _ in range(1000):
            await socket.send_str("{}")
        await socket.send_bytes(b"\0" * 4000)
        await queue.begin()
        assert (await listener.next())["type"] == "stage"
        await socket.send_bytes(b"\0" * 5000)
        assert await listener.closed() == 1009
    async with connect(queue) as socket:  # and others are served as before
        assert (await Listener(socket).next())["type"] == "status"


async def test_silence_is_broken_by_pings(queue: Served) -> None:
    set_times(queue, ping=2.0)
    async with connect(queue, autoping=False) as socket:
        await Listener(socket).next()
        async with asyncio.timeout(SECONDS):
            ping = await socket.receive()
            assert ping.type is WSMsgType.PING
            await socket.pong(ping.data)
            assert (await socket.receive()).type is WSMsgType.PING


async def test_who_does_not_answer_a_ping_is_let_go(queue: Served) -> None:
    set_times(queue, ping=0.2)
    async with connect(queue, autoping=False) as socket:
        port = port_of(socket._response)
        assert port in peers(queue)
        await soon(lambda: port not in peers(queue))


async def test_who_leaves_is_let_go_and_nothing_is_said(queue: Served, scripted, caplog) -> None:
    caplog.set_level(logging.INFO)
    await queue.begin(previews={})
    tasks = len(asyncio.all_tasks())
    for polite in (True, False):
        socket = await connect(queue)
        await Listener(socket).next()
        if polite:
            await socket.close()
        else:
            socket._response.connection.transport.abort()
    await soon(lambda: len(asyncio.all_tasks()) <= tasks)
    assert caplog.records == []


async def test_who_never_reads_delays_nobody_and_is_given_up(queue: Served, scripted) -> None:
    set_times(queue, patience=3.0)
    async with connect(queue) as deaf, connect(queue) as socket:
        port = port_of(deaf._response)
        deaf._response.connection.transport.pause_reading()
        listener = Listener(socket)
        await listener.next()
        await queue.begin(previews={})
        for step in range(1, 61):
            scripted.tell(preview(step, 100, os.urandom(300_000)))
            assert (await listener.until("preview"))[-1]["data"]["step"] == step
        await soon(lambda: port not in peers(queue))
        scripted.tell(progress(1))
        assert (await listener.next())["type"] == "progress"
        deaf._response.connection.transport.abort()


@pytest.mark.parametrize("first", ["server", "service"])
async def test_a_server_that_stops_says_that_it_goes_away(queue: Served, scripted, first) -> None:
    generation_id = await queue.begin()
    async with connect(queue) as socket, connect(queue, f"?id={generation_id}") as one:
        listeners = [Listener(socket), Listener(one)]
        for listener in listeners:
            await listener.next()
        stopping = asyncio.create_task(queue.server.aclose() if first == "server" else queue.service.aclose())
        if first == "service":
            assert [(await listener.next())["type"] for listener in listeners] == ["cancelled"] * 2
        assert [await listener.closed() for listener in listeners] == [
            1001,
            1001 if first == "server" else 1000,
        ]
        await stopping
