"""A real server over a service, and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDict

from sdmanager.engine import LocalGenerator, check_input_images
from sdmanager.errors import ModelNotFoundError
from sdmanager.generation import ImageRequest
from sdmanager.jobs import GenerationRegistry, GenerationService
from sdmanager.manager.shelf import ModelShelf
from sdmanager.server import DoorPolicy, EngineInfo, Face, HttpServer, Metrics, ModelEntry, ServerInfo, bind

GENERATIONS = "/v1/images/generations"
WAIT = 120.0  # only where hanging is the failure
TERMINAL = {"complete", "error", "cancelled"}


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Any
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of an error; None of anything else."""
        return self.json["error"]["code"] if self.status >= 400 else None


@dataclass
class Served:
    """A running server, what is behind it, and a client."""

    server: HttpServer
    face: Face
    service: GenerationService
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.server.url

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        async with self.client.request(method, path, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def post(self, fields: object, **options: Any) -> Reply:
        # A file, because aiohttp warns of large bodies that are none.
        data = io.BytesIO(json.dumps(fields).encode())
        headers = CIMultiDict(options.pop("headers", ()))
        headers.setdefault("Content-Type", "application/json")
        return await self.ask("POST", GENERATIONS, data=data, headers=headers, **options)

    async def begin(self, **fields: object) -> str:
        """Have something drawn; its id."""
        reply = await self.post({"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2, **fields})
        assert reply.status == 201, reply.body
        return reply.json["id"]

    async def state(self, generation_id: str) -> dict[str, Any]:
        reply = await self.get(f"{GENERATIONS}/{generation_id}")
        assert reply.status == 200, reply.body
        return reply.json

    async def until(self, generation_id: str, *statuses: str) -> dict[str, Any]:
        """Poll until it has one of these states, or has ended."""
        async with asyncio.timeout(WAIT):
            while True:
                body = await self.state(generation_id)
                if body["status"] in {*statuses, *TERMINAL}:
                    return body
                await asyncio.sleep(0.02)

    async def drawn(self, **fields: object) -> dict[str, Any]:
        """Have something drawn and wait for it; its last state."""
        return await self.until(await self.begin(**fields))


class OneModel:
    """The models of a server whose generator knows none."""

    current = "demo"

    async def list(self) -> list[ModelEntry]:
        return [ModelEntry("demo", None, Path("/demo.safetensors"), None, 0, {})]

    async def use(self, name: str) -> None:
        if name != "demo":
            raise ModelNotFoundError(f"There is no model named {name!r}.")


@contextlib.asynccontextmanager
async def serving(
    generator,
    folder=None,
    *,
    queue_size=0,
    policy=None,
    clock=time.monotonic,
    info=None,
    history=None,
    models=None,
):
    """A server on a free port, over a generator; what the engine's own checks refuse is refused at the door."""
    registry = GenerationRegistry(folder, clock=clock)
    registry.open()

    async def check(request: ImageRequest) -> None:
        await check_input_images(request)
        if isinstance(generator, LocalGenerator):
            generator.check(request)

    metrics = Metrics()
    service = GenerationService(
        generator,
        registry,
        queue_size=queue_size,
        complete=generator.bound if isinstance(generator, LocalGenerator) else lambda request: request,
        on_event=metrics.take,
        recorder=history,
    )
    sock = bind("127.0.0.1", "auto")
    port = sock.getsockname()[1]
    facts = {
        "version": "0", "status": "running", "model": "demo", "engine": EngineInfo(variant="cpu"), "pid": os.getpid(),
        "host": "127.0.0.1", "port": port, "started_at": 1_700_000_000_000,
        "gallery": history is not None, **(info or {}),
    }  # fmt: skip

    def info_now() -> ServerInfo:
        return ServerInfo(**facts, busy=service.busy, waiting=service.waiting, queue_size=service.queue_size)

    if models is None:
        local = isinstance(generator, LocalGenerator)
        models = ModelShelf(generator, generator._settings) if local else OneModel()
    face = Face(service, info_now, check, models, history, metrics)
    server = HttpServer(face, sock, DoorPolicy.build("127.0.0.1", port, **(policy or {})))
    await server.start()
    client = aiohttp.ClientSession(server.url)
    try:
        yield Served(server, face, service, client)
    finally:
        await client.close()
        await service.aclose()
        await server.aclose()
        registry.destroy()
