"""Real servers on free ports: with a tiny application behind the door, and with the whole API."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web
from raw_http import RawReply, exchange, request_bytes
from scripted_generator import ScriptedGenerator
from serving import serving

from sdmanager.engine import LocalGenerator
from sdmanager.server.body import read_form, read_json
from sdmanager.server.connections import Connections
from sdmanager.server.door import install_door
from sdmanager.server.origins import DoorPolicy
from sdmanager.server.responses import json_response
from sdmanager.settings import Settings


@dataclass
class DoorServer:
    """A server and what reached its handlers."""

    port: int
    policy: DoorPolicy
    connections: Connections
    reached: list[str] = field(default_factory=list)

    async def ask(self, method, target="/", *headers, body=b"", host=True, version="1.1") -> RawReply | None:
        """An answer; with our Host unless told otherwise."""
        own = [("Host", f"127.0.0.1:{self.port}")] if host else []
        return await exchange(
            self.port, request_bytes(method, target, [*own, *headers], body, version=version)
        )

    async def post(self, body, content_type="application/json", target="/json") -> RawReply | None:
        return await self.ask("POST", target, ("Content-Type", content_type), body=body)


@pytest.fixture
async def real(settings: Settings, tmp_path: Path):
    """A server over the real engine with an empty folder of LoRAs, and with room for two to wait."""
    own = replace(settings, loras=tmp_path / "loras")
    async with LocalGenerator(settings=own) as generator:
        await generator.prepare()
        async with serving(generator, own.generations_dir, queue_size=2) as served:
            yield served


@pytest.fixture
def scripted() -> ScriptedGenerator:
    """Draws what the test says, when it says so."""
    return ScriptedGenerator()


@pytest.fixture
async def quick(scripted: ScriptedGenerator, home: Settings):
    """A server over it, without a queue."""
    async with serving(scripted, home.generations_dir) as served:
        yield served


@pytest.fixture
async def queue(scripted: ScriptedGenerator, home: Settings):
    """The same with room for two to wait."""
    async with serving(scripted, home.generations_dir, queue_size=2) as served:
        yield served


@pytest.fixture
async def door_serve():
    """Starts servers: ``await door_serve(routes=…, policy=dict, connections=dict, body=dict)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(
            routes: Callable[[web.Application], None] | None = None,
            policy: dict | None = None,
            connections: dict | None = None,
            body: dict | None = None,
        ) -> DoorServer:
            sock = socket.create_server(("127.0.0.1", 0), backlog=512)
            options = {"host": "127.0.0.1", **(policy or {})}
            rules = DoorPolicy.build(port=sock.getsockname()[1], **options)
            app = web.Application()
            install_door(app, rules)
            reached: list[str] = []
            tiny_routes(app, reached, body or {})
            if routes is not None:
                routes(app)
            runner = web.AppRunner(app, shutdown_timeout=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            limits = Connections(runner.server, **(connections or {}))
            server = await asyncio.get_running_loop().create_server(limits, sock=sock)
            stack.callback(server.close)
            return DoorServer(rules.port, rules, limits, reached)

        yield serve


def tiny_routes(app: web.Application, reached: list[str], limits: dict) -> None:
    """Handlers that say that they were reached, and read bodies."""

    async def any_method(request):
        reached.append(request.headers.get("X-Probe", request.method))
        return json_response({"ok": True})

    async def json_body(request):
        reached.append("json")
        return json_response({"got": await read_json(request, **limits)})

    async def form_body(request):
        form = await read_form(request, **limits)
        shown = {name: [type(value).__name__, len(value)] for name, value in form.items()}
        return json_response(shown)

    for method in ("GET", "POST", "DELETE", "PUT"):
        app.router.add_route(method, "/", any_method)
        app.router.add_route(method, "/things/{name}", any_method)
    app.router.add_post("/json", json_body)
    app.router.add_post("/form", form_body)
