"""Ensures an engine as an application does, with a prover that only runs -h; to be killed, or run by several."""

import asyncio
import sys
from pathlib import Path

from sdmanager import binaries, process
from sdmanager.binaries import EngineBinary, Proof
from sdmanager.settings import Settings


async def prove(engine: EngineBinary) -> Proof:
    done = await process.run([engine.path, "-h"])
    assert done.status.ok
    return Proof(True, "demo", 64, 64, 4, 0.1)


home, manifest = map(Path, sys.argv[1:])
settings = Settings(home / "data", home / "cache", home / "state", manifest=manifest)
print("ready", flush=True)
print(asyncio.run(binaries.ensure_binary(settings, prove=prove, variant="cpu")).engine.path, flush=True)
