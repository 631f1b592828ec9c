"""Servers as clients of this API meet them: the names that the engine knows, its previews, two models, some LoRAs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webuiapi
from loras import write_lora
from named_models import install, own_models
from scripted_generator import ScriptedGenerator
from serving import Served, serving

from sdmanager.binaries import Capabilities
from sdmanager.engine import LocalGenerator
from sdmanager.settings import Settings


@pytest.fixture(scope="session")
def two_models(built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the models ``demo`` and ``red`` and the LoRA ``ink``, which no test changes."""
    folder = tmp_path_factory.mktemp("two-models")
    own = own_models(built, folder / "data")
    asyncio.run(install(own, folder, "red"))
    write_lora(own.loras_dir / "ink.safetensors")
    return own.data_dir


@pytest.fixture
async def real(settings: Settings, two_models: Path) -> AsyncIterator[Served]:
    """A server over the real engine, which can draw with ``demo`` and ``red``, with room for two to wait."""
    own = replace(settings, data_dir=two_models)
    async with LocalGenerator(settings=own) as generator:
        engine = await generator.prepare()
        facts = facts_of(engine.capabilities)
        async with serving(generator, own.generations_dir, queue_size=2, info=facts) as served:
            object.__setattr__(served.face, "loras_dir", own.loras_dir)
            yield served


@pytest.fixture
async def quick(scripted: ScriptedGenerator, home: Settings) -> AsyncIterator[Served]:
    """A server that draws when the test says so, without a queue."""
    async with serving(scripted, home.generations_dir, info=KNOWN) as served:
        yield served


@pytest.fixture
async def queue(scripted: ScriptedGenerator, home: Settings) -> AsyncIterator[Served]:
    """The same with room for two to wait."""
    async with serving(scripted, home.generations_dir, queue_size=2, info=KNOWN) as served:
        yield served


@pytest.fixture
async def client(real: Served) -> AsyncIterator[Client]:
    """The library ``webuiapi``, pointed at the real engine."""
    api = await asyncio.to_thread(webuiapi.WebUIApi, host="127.0.0.1", port=real.server.port)
    yield Client(api)
    api.session.close()


class Client:
    """The library, whose methods block, called in threads."""

    def __init__(self, api: webuiapi.WebUIApi) -> None:
        self.api = api

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.api, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


def facts_of(capabilities: Capabilities) -> dict[str, object]:
    """What a server says of an engine."""
    return {
        "samplers": capabilities.samplers,
        "schedulers": capabilities.schedulers,
        "preview_methods": capabilities.preview_methods,
    }


KNOWN = facts_of(
    replace(
        Capabilities(),
        samplers=("euler", "euler_a", "dpm++2m", "ddim_trailing"),
        schedulers=("discrete", "karras"),
        preview_methods=("none", "proj", "tae", "vae"),
    )
)
