"""Binding, starting and closing the server itself."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import time

import aiohttp
import pytest
from scripted_generator import ScriptedGenerator
from serving import GENERATIONS, Served, serving

from sdmanager.errors import PortInUseError
from sdmanager.server import DoorPolicy, HttpServer, bind
from sdmanager.settings import Settings

SMALL = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2}


@pytest.fixture
async def served(home: Settings):
    async with serving(ScriptedGenerator(), home.generations_dir) as served:
        yield served


def another(served: Served, sock: socket.socket, **policy: object) -> HttpServer:
    """One more server that shows the same."""
    return HttpServer(
        served.face, sock, DoorPolicy.build(port=sock.getsockname()[1], **{"host": "127.0.0.1", **policy})
    )


# bind


def test_auto_takes_a_free_port() -> None:
    with bind("127.0.0.1", "auto") as one, bind("127.0.0.1", "auto") as other:
        ports = {sock.getsockname()[1] for sock in (one, other)}
    assert len(ports) == 2
    assert 0 not in ports


def test_a_bound_port_answers_nothing_yet() -> None:
    with bind("127.0.0.1", "auto") as sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname())


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"Another program listens on port {port}.") as caught:
            bind("127.0.0.1", port)
    assert caught.value.details == {"port": port, "errno": errno.EADDRINUSE}
    assert "--port auto" in (caught.value.hint or "")


def test_a_port_can_be_taken_again_at_once_by_the_next_server() -> None:
    with bind("127.0.0.1", "auto") as first:
        first.listen()
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = first.accept()
            accepted.close()  # this side closes first, and so keeps the port in TIME_WAIT
            client.recv(1)
    with bind("127.0.0.1", port) as again:
        again.listen()


def test_an_address_that_is_none_of_ours() -> None:
    with pytest.raises(PortInUseError, match="none of this machine's"):
        bind("192.0.2.1", "auto")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.1.1.1", "a" * 300, "host\0name"])
def test_a_host_without_an_address(host: str) -> None:
    with pytest.raises(PortInUseError, match="has no address"):
        bind(host, "auto")


@pytest.mark.skipif(sys.platform == "win32", reason="low ports are free for all there")
def test_a_port_that_only_the_administrator_may_take() -> None:
    code = (
        "import os\n"
        "from sdmanager.errors import PortInUseError\n"
        "from sdmanager.server import bind\n"
        "bind('127.0.0.1', 'auto').close()  # all that it imports: the other user may not read it\n"
        "os.setgid(65534), os.setuid(65534)\n"
        "try: bind('127.0.0.1', 1)\n"
        "except PortInUseError as error: print(error.message, error.hint)\n"
        "else: print('taken')\n"
    )
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 1:
            pytest.skip("all ports are free for all users here")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this user cannot become another one")
    assert done.stdout == "This user may not listen on port 1. Use a port above 1023.\n", done.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_names_are_bound_to_ipv4_first(host: str) -> None:
    with bind(host, "auto") as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


# HttpServer


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "[::1]")]
)
async def test_the_url_is_one_that_the_server_lets_in(served: Served, host: str, url: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    sock = bind(host, "auto")
    server = another(served, sock, host=host)
    assert server.url == f"http://{url}:{server.port}"
    await server.start()
    try:
        async with aiohttp.ClientSession() as client, client.get(f"{server.url}/health") as response:
            assert await response.json() == {"status": "ok", "busy": False}
    finally:
        await server.aclose()


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
async def test_a_server_on_all_addresses_names_one_that_can_be_reached(
    served: Served, host: str, url: str
) -> None:
    if host == "::" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    server = another(served, bind(host, "auto"), host=host, token="t")
    assert server.url == f"http://{url}:{server.port}"
    await server.start()
    try:
        headers = {"Authorization": "Bearer t"}
        async with (
            aiohttp.ClientSession(headers=headers) as client,
            client.get(f"{server.url}/health") as response,
        ):
            assert response.status == 200
    finally:
        await server.aclose()


async def test_a_port_that_another_program_took_meanwhile(served: Served) -> None:
    sock = bind("127.0.0.1", "auto")
    port = sock.getsockname()[1]
    with bind("127.0.0.1", port) as other:  # both may bind, but one may listen
        other.listen()
        server = another(served, sock)
        with pytest.raises(PortInUseError, match=f"Another program listens on port {port}."):
            await server.start()
        await server.aclose()


async def test_closing_twice_at_once_and_before_the_start(served: Served) -> None:
    server = another(served, bind("127.0.0.1", "auto"))
    await asyncio.gather(server.aclose(), server.aclose())
    await server.aclose()


async def test_closing_gives_the_port_back(served: Served) -> None:
    port = served.server.port
    await served.get("/health")  # a kept connection
    await served.server.aclose()
    with pytest.raises(aiohttp.ClientConnectionError):
        await served.get("/health")
    with bind("127.0.0.1", port) as again:
        again.listen()


async def test_closing_ends_streams_and_kept_connections_and_stalled_ones(served: Served) -> None:
    generation_id = await served.begin()
    host = f"Host: 127.0.0.1:{served.server.port}\r\n"
    asked = {
        "stream": f"GET {GENERATIONS}/{generation_id}/events HTTP/1.1\r\n{host}\r\n",
        "kept": f"GET /health HTTP/1.1\r\n{host}\r\n",
        "stalled header": "GET /health HT",
        "stalled body": f"POST {GENERATIONS} HTTP/1.1\r\n{host}Content-Type: application/json\r\n"
        "Content-Length: 99\r\n\r\n{",
    }
    readers = {}
    writers = []
    for name, data in asked.items():
        readers[name], writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(data.encode())
        writers.append(writer)
    assert b"200 OK" in await readers["stream"].readline()
    assert b"200 OK" in await readers["kept"].readline()
    began = time.monotonic()
    await served.server.aclose()
    for reader in readers.values():
        async with asyncio.timeout(30):
            await reader.read()
    assert time.monotonic() - began < 20  # aiohttp alone waits a minute
    for writer in writers:
        writer.close()


async def test_closing_does_not_wait_for_a_request_that_takes_long(home: Settings) -> None:
    class Stubborn(ScriptedGenerator):
        async def generate(self, request, on_event=None):
            try:
                return await super().generate(request, on_event)
            except asyncio.CancelledError:
                await released.wait()
                raise

    released = asyncio.Event()
    async with serving(Stubborn(), home.generations_dir) as served:
        generation_id = await served.begin()
        deleting = asyncio.create_task(served.ask("DELETE", f"{GENERATIONS}/{generation_id}"))
        for _ in range(5):
            await served.get("/health")  # so that it has come
        async with asyncio.timeout(20):
            await served.server.aclose()
        assert served.service.busy
        with pytest.raises(aiohttp.ClientConnectionError):
            await deleting
        released.set()


async def test_a_request_in_hand_is_answered_before_the_end(served: Served) -> None:
    generation_id = await served.begin()
    deleting = asyncio.create_task(served.ask("DELETE", f"{GENERATIONS}/{generation_id}"))
    while served.service.busy:
        await asyncio.sleep(0)
    await served.server.aclose()
    assert (await deleting).status == 200


def test_the_layers_below_do_not_import_the_http_server() -> None:
    code = "import sys, sdmanager.jobs, sdmanager.engine; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def _has_ipv6() -> bool:
    try:
        bind("::1", "auto").close()
    except PortInUseError:
        return False
    return True
