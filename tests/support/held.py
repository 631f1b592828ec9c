"""A program that holds memory and can be put aside, in a process of its own, and a machine that is short of memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

from sdmanager.errors import OffloadError, RestoreError
from sdmanager.generation import MemoryChoices
from sdmanager.hardware import HardwareSnapshot
from sdmanager.models import Role
from sdmanager.resources import Footprint, Holding

FAKE = Path(__file__).parents[1] / "fakes" / "held_server.py"
GB = 10**9

TOTAL, FREE, HELD = 16 * GB, 15 * GB, 10 * GB
"""A machine on which the large model and what a program holds do not go together, and the small one does."""

CHOICES = MemoryChoices()


def footprint(size=5 * GB, **changes):
    """Of a model that computes on the CPU."""
    known = {
        "model": "key",
        "name": "large",
        "backend": "cpu",
        "on_gpu": False,
        "width": 512,
        "height": 512,
        "weights": {Role.DIFFUSION_MODEL: size},
    }
    return Footprint(**known | changes)


SMALL = footprint(10**6, name="small", width=64, height=64)


def supports(flag):
    return True


def snapshot(free, total=TOTAL):
    return HardwareSnapshot(
        platform="linux-x64",
        system="Test",
        cpu=None,
        cores=None,
        threads=None,
        ram_total=total,
        ram_available=free,
        glibc=None,
        gpus=(),
        problems=(),
    )


async def call(port, method, path, body=None, sent=lambda path: None):
    """One request; ``sent`` is called when it is on its way."""
    data = json.dumps(body or {}).encode()
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
            sent(path)
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


class Held:
    """Offloadable: the server at a port."""

    def __init__(self, port, name="held", sent=lambda path: None):
        self.port, self.name, self.sent = port, name, sent

    async def state(self):
        return await call(self.port, "GET", "/state")

    async def set(self, model, **seconds):
        await call(self.port, "POST", "/set", {"model": model, **seconds})

    async def holding(self):
        try:
            found = await self.state()
        except OSError:
            return None
        if found["state"] != "loaded":
            return None
        return Holding(found["model"], HELD, None, {"model": found["model"]})

    async def put_aside(self, holding):
        try:
            await call(self.port, "POST", "/unload", sent=self.sent)
        except OSError as exc:
            raise OffloadError("The server does not answer.") from exc

    async def restore(self, state):
        try:
            while (found := await self.state())["state"] in {"loading", "unloading"}:
                await asyncio.sleep(0.01)
            if found["state"] == "unloaded":
                await call(self.port, "POST", "/load", {"model": state["model"]}, sent=self.sent)
                found = await self.state()
        except (OSError, ValueError) as exc:
            raise RestoreError("The server does not answer.") from exc
        if found["state"] != "loaded":
            raise RestoreError("The server has not loaded its model.")

    async def look(self):
        """The machine, with what the server holds."""
        try:
            held = (await self.state())["bytes"]
        except OSError:
            held = 0
        return snapshot(FREE - HELD if held else FREE)


class HeldServer:
    """The process of a server, and what it was asked for."""

    def __init__(self, folder, model="llama", size=1 << 20, port=0):
        self.log = folder / "calls.log"
        self.log.touch()
        self.size, self.model, self.port = size, model, port
        self.process = None

    def __enter__(self):
        argv = [sys.executable, "-I", "-S", FAKE, self.port, self.log, self.model, self.size]
        self.process = subprocess.Popen([str(word) for word in argv], stdout=subprocess.PIPE, text=True)
        try:
            self.port = int(self.process.stdout.readline())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    @property
    def calls(self):
        """Each call that changed something, with its model."""
        return self.log.read_text().splitlines()
