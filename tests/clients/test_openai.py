"""The SDKs of OpenAI in other languages and versions than the one that is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from scripted_generator import ScriptedGenerator
from serving import serving

from sdmanager.engine import LocalGenerator
from sdmanager.settings import Settings

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
NODE = ["4.104.0", "6.49.0"]
PYTHON = ["1.109.1", "2.9.0"]


@contextlib.asynccontextmanager
async def servers(settings: Settings, path: str) -> AsyncIterator[list[str]]:
    """Base URLs of a server over the real engine, and of one that is busy."""
    async with LocalGenerator(settings=settings) as generator:
        await generator.prepare()
        async with (
            serving(generator, settings.generations_dir / "real") as real,
            serving(ScriptedGenerator(), settings.generations_dir / "busy") as busy,
        ):
            await busy.begin()
            yield [real.url + path, busy.url + path]


async def said_by(command: list[str], folder: Path, **variables: str) -> dict:
    """What a script of ours printed."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, **variables}, stdout=-1, stderr=-1
    )
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    return json.loads(output)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "in.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return str(path)


def check(seen: dict, version: str) -> None:
    assert seen["version"] == version
    assert seen["generate"] == [["jpeg", 7, None], ["jpeg", 8, None]]
    partials = [["image_generation.partial_image", index, "png"] for index in (0, 1)]
    events = [*partials, ["image_generation.completed", None, "png"]]
    assert seen["post_stream"] == events
    assert seen["stream"] in (events, None)
    assert (seen["edit"], seen["variation"]) == (["png"], ["png"])
    assert "demo" in seen["models"]
    invalid = {"name": "BadRequestError", "status": 400, "code": "invalid_value", "param": "size"}
    missing = {"name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    busy = {"name": "RateLimitError", "status": 429, "code": "rate_limit_exceeded", "param": None}
    assert (seen["invalid"], seen["missing"], seen["busy"]) == (invalid, missing, busy)


@pytest.mark.parametrize("path", ["/openai/v1", "/v1"])
@pytest.mark.parametrize("version", NODE)
async def test_the_node_sdk(settings: Settings, node_sdk, picture: str, version: str, path: str) -> None:
    folder = await asyncio.to_thread(node_sdk, version)
    # Modules are looked for beside the script; another run may be reading it.
    script = folder / "openai_images.mjs"
    fresh = folder / f"openai_images.{os.getpid()}.mjs"
    shutil.copyfile(HERE / script.name, fresh)
    fresh.replace(script)
    async with servers(settings, path) as urls:
        check(await said_by(["node", str(script), *urls, picture], folder), version)


@pytest.mark.parametrize("path", ["/openai/v1", "/v1"])
@pytest.mark.parametrize("version", PYTHON)
async def test_other_python_sdks(
    settings: Settings, python_sdk, picture: str, version: str, path: str
) -> None:
    folder = await asyncio.to_thread(python_sdk, version)
    script = str(HERE / "openai_images.py")
    async with servers(settings, path) as urls:
        command = [sys.executable, "-W", "ignore", script, *urls, picture]
        check(await said_by(command, folder, PYTHONPATH=str(folder)), version)
