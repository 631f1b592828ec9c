"""What it costs a server to be asked how a generation is: requests per second, and what they take from the engine.

The client is this process, over plain sockets that are kept open; servers are processes of their own.
"""

from __future__ import annotations

import os
import re
import selectors
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import psutil
from _common import Figure, Options, Pairs, Report, by_turns, main, spread
from _server import (
    GENERATIONS,
    PATIENCE,
    STEPS,
    Client,
    Home,
    Server,
    Streams,
    environment,
    is_whole,
    process,
    real,
    scripted,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THROUGHPUT_RATIO: Final = 0.6
POLLED_RATIO: Final = 1.02
CONNECTIONS: Final = 8
POLLS_A_SECOND: Final = 200

EMPTY: Final = """
import asyncio
from aiohttp import web

async def empty(request):
    return web.Response()

async def serve():
    app = web.Application()
    app.router.add_get("/", empty)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""

SAMPLED: Final = re.compile(rb"sampling completed, taking (\d+\.\d+)s")


def measure(options: Options) -> Report:
    """Requests per second, the price of a poll, and what the real engine feels of it."""
    report = Report()
    with scripted(STEPS) as home, serving(home) as ours, empty_server(home) as bare:
        generation_id = ours.begin(width=home.size, height=home.size, steps=1000)
        path = f"{GENERATIONS}/{generation_id}"
        with Streams(ours.port, f"{path}/events", 1) as streams:
            os.write(home.pipe, b"\n" * 20)
            next(event for _, event, _ in streams.events() if b'"currentStep":20,' in event)
        throughput(report, options, bare.port, ours.port, path)
        price_of_polls(report, options, ours, path)
        ours.cancel(generation_id)
    with real() as drawing, serving(drawing, "--log-level", "debug") as server:
        engine_polled(report, options, drawing, server)
    return report


@contextmanager
def empty_server(home: Home) -> Iterator[Server]:
    """An aiohttp server with one handler that does nothing."""
    with process([sys.executable, "-c", EMPTY], environment(home)) as child:
        assert child.stdout is not None
        yield Server(int(child.stdout.readline()), psutil.Process(child.pid))


def throughput(report: Report, options: Options, bare: int, ours: int, path: str) -> None:
    """Seconds of so many requests to either, by turns."""
    count = 200 if options.quick else 5_000
    shares: dict[int, list[float]] = {bare: [], ours: []}

    def hammer(port: int, path: str, count: int) -> float:
        began, computed = time.perf_counter(), time.process_time()
        ask_often(port, path, count)
        taken = time.perf_counter() - began
        shares[port].append((time.process_time() - computed) / taken)
        return taken

    sides = [(bare, "/"), (ours, path)]
    for port, each in sides:
        hammer(port, each, count // 10)
    pairs = Pairs(*by_turns(options.runs, [partial(hammer, port, each, count) for port, each in sides]))
    report.figures["get_running_to_empty_handler"] = Figure(
        1 / pairs.ratio, "ratio", at_least=THROUGHPUT_RATIO
    )
    report.details["requests_per_second"] = {
        "empty_handler": spread([count / seconds for seconds in pairs.bare], 0),
        "get_running": spread([count / seconds for seconds in pairs.ours], 0),
        "connections": CONNECTIONS,
        # Near 1, the client would be what is measured.
        "client_share_of_a_core": {
            "empty_handler": spread(shares[bare]),
            "get_running": spread(shares[ours]),
        },
    }


def ask_often(port: int, path: str, count: int) -> None:
    """So many requests over several connections, each of which asks anew when it has its answer."""
    clients = [Client(port) for _ in range(CONNECTIONS)]
    request = clients[0].request("GET", path)
    buffers = {client.socket: bytearray() for client in clients}
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client.socket)
            client.socket.sendall(request)
        asked, answered = len(clients), 0
        while answered < count:
            for key, _ in selector.select(PATIENCE):
                connection = key.data
                buffer = buffers[connection]
                data = connection.recv(65536)
                buffer += data
                if not data:
                    raise SystemExit("The server closed a connection.")
                if is_whole(buffer):
                    if not buffer.startswith(b"HTTP/1.1 200 "):
                        raise SystemExit(buffer.decode())
                    buffer.clear()
                    answered += 1
                    if asked < count:
                        asked += 1
                        connection.sendall(request)
    for client in clients:
        client.socket.close()


def price_of_polls(report: Report, options: Options, server: Server, path: str) -> None:
    """What the server and this client compute for 200 polls a second, while no engine is in their way."""
    length = 0.5 if options.quick else 10.0
    served, computed, began = server.cpu_seconds(), time.process_time(), time.perf_counter()
    polls = poll(server.port, path, lambda: time.perf_counter() - began >= length)
    taken = time.perf_counter() - began
    report.figures["polls_server_share_of_a_core"] = Figure((server.cpu_seconds() - served) / taken, "share")
    report.figures["polls_client_share_of_a_core"] = Figure((time.process_time() - computed) / taken, "share")
    report.details["polls_per_second"] = round(polls / taken, 1)


def poll(port: int, path: str, is_over: Callable[[], bool]) -> int:
    """Ask at an even pace until something is over; how often that was."""
    with Client(port) as client:
        request = client.request("GET", path)
        began, polls = time.perf_counter(), 0
        while not is_over():
            polls += 1
            pause = began + polls / POLLS_A_SECOND - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            client.ask(request)
    return polls


def engine_polled(report: Report, options: Options, home: Home, server: Server) -> None:
    """The real engine's own sampling time without polls, with them, and without again."""
    size, steps = (64, 4) if options.quick else (256, 20)
    polls: list[float] = []

    def draw(*, polled: bool) -> float:
        began = time.perf_counter()
        generation_id = server.begin(width=size, height=size, steps=steps, cfgScale=1.0, seed=7)
        path = f"{GENERATIONS}/{generation_id}"
        if polled:
            with Streams(server.port, f"{path}/events?previews=url", 1) as streams:
                # Told by its events, as the other side is.
                count = poll(
                    server.port,
                    path,
                    lambda: any(b"event: complete\n" in event for _, event, _ in streams.there()),
                )
            polls.append(count / (time.perf_counter() - began))
        else:
            server.wait(generation_id)
        said = (home.folder / "logs" / "server.log").read_bytes()
        return float(SAMPLED.findall(said)[-1])

    draw(polled=False)
    sides = [partial(draw, polled=polled) for polled in (False, True, False)]
    plain, polled, again = by_turns(options.runs, sides)
    for name, pairs in (
        ("polled_to_not", Pairs(plain, polled)),
        ("not_polled_to_itself", Pairs(plain, again)),
    ):
        target = POLLED_RATIO if name == "polled_to_not" else None
        report.figures[f"engine_{name}"] = Figure(pairs.ratio, "ratio", at_most=target)
        report.details[f"engine_{name}"] = pairs.to_json()
    report.details["polls_per_second_of_the_engine"] = spread(polls)


if __name__ == "__main__":
    main("server_requests", __doc__, measure, runs=10)
