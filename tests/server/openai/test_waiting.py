"""Who waits for a generation, what becomes of it when they leave, and of the key by which they come again."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from scripted_generator import ScriptedGenerator, png, result_of
from serving import Reply, Served
from sse_client import soon

from sdmanager.server import ModelEntry
from sdmanager.server.drawing import WAITERS

OPENAI = "/openai/v1/images/generations"
KEY = {"Idempotency-Key": "one"}
WHOLE = {"prompt": "a cat", "size": "64x64"}
STREAM = {**WHOLE, "steps": 4, "stream": True, "partial_images": 1}

either = pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])


class Asking:
    """A client that waits, over a connection of its own."""

    def __init__(self, served: Served, body: dict) -> None:
        self.session = aiohttp.ClientSession(served.url)
        self.task = asyncio.create_task(self._ask(body))

    async def _ask(self, body: dict) -> Reply:
        async with self.session.post(OPENAI, json=body, headers=KEY) as response:
            return Reply(response.status, response.headers, await response.read())

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.session.close()


@pytest.fixture
async def ask(quick: Served) -> AsyncIterator:
    """Has a client ask for something; it waits once this has returned."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(body: dict) -> Asking:
            known = waiting(quick)
            asking = Asking(quick, body)
            stack.push_async_callback(asking.leave)
            await soon(lambda: waiting(quick) == known + 1)
            return asking

        yield begin


def waiting(served: Served) -> int:
    return served.server._runner.app[WAITERS].counts.total()


@either
async def test_the_first_to_leave_does_not_cancel_it_for_the_other(
    quick: Served, scripted: ScriptedGenerator, ask, body: dict
) -> None:
    first, second = await ask(body), await ask(body)
    await first.leave()
    await soon(lambda: waiting(quick) == 1)
    scripted.finish()
    reply = await second.task
    assert (reply.status, reply.headers["Idempotency-Replayed"], scripted.cancelled) == (200, "true", 0)
    assert b'"error"' not in reply.body


@either
async def test_who_asked_again_does_not_cancel_it_by_leaving(
    quick: Served, scripted: ScriptedGenerator, ask, body: dict
) -> None:
    first, second = await ask(body), await ask(body)
    await second.leave()
    await soon(lambda: waiting(quick) == 1)
    scripted.finish()
    reply = await first.task
    assert (reply.status, scripted.cancelled) == (200, 0)
    assert b'"error"' not in reply.body


@either
async def test_the_last_to_leave_takes_it_along(
    quick: Served, scripted: ScriptedGenerator, ask, body: dict
) -> None:
    for asking in (await ask(body), await ask(body)):
        await asking.leave()
    await soon(lambda: scripted.cancelled == 1)
    await soon(lambda: waiting(quick) == 0)


@either
async def test_a_client_that_comes_again_with_its_key_gets_a_new_picture(
    quick: Served, scripted: ScriptedGenerator, ask, body: dict
) -> None:
    """As the SDKs do by themselves after a timeout."""
    await (await ask(body)).leave()
    await soon(lambda: scripted.cancelled == 1 and not quick.service.busy)
    again = await ask(body)
    scripted.finish(result_of(seed=5))
    reply = await again.task
    assert (reply.status, reply.headers.get("Idempotency-Replayed")) == (200, None)
    assert b'"seed": 5' in reply.body or b'"seed":5' in reply.body


async def test_a_key_still_tells_of_a_generation_that_was_cancelled_on_purpose(
    quick: Served, scripted: ScriptedGenerator, ask
) -> None:
    asking = await ask(WHOLE)
    await quick.service.cancel(quick.service.current)
    assert (await asking.task).status == 409
    again = await quick.ask("POST", OPENAI, json=WHOLE, headers=KEY)
    assert (again.status, again.headers["x-should-retry"], len(scripted.requests)) == (409, "false", 1)


# The same key, and other models


class Shelf:
    """Models that come and go."""

    def __init__(self) -> None:
        self.current = "demo"
        self.steps = {"demo": 4, "other": 20}

    async def list(self) -> list[ModelEntry]:
        return [
            ModelEntry(name, None, Path("/x"), None, 0, {"steps": steps, "width": 8 * steps, "height": 64})
            for name, steps in self.steps.items()
        ]


@pytest.fixture
def shelf(quick: Served) -> Shelf:
    shelf = Shelf()
    object.__setattr__(quick.face, "models", shelf)  # a Face is frozen
    return shelf


async def repeated(quick: Served, **options) -> None:
    """The same request once more gives the same picture."""
    reply = await quick.ask("POST", options.pop("path", OPENAI), headers=KEY, **options)
    assert (reply.status, reply.headers.get("Idempotency-Replayed")) == (200, "true"), reply.body


async def test_a_repeated_stream_is_the_same_after_a_switch_of_the_model(
    quick: Served, scripted: ScriptedGenerator, shelf: Shelf
) -> None:
    body = {"prompt": "a cat", "stream": True, "partial_images": 2}
    scripted.finish()
    await quick.ask("POST", OPENAI, json=body, headers=KEY)
    assert scripted.requests[0].previews.stride == 1
    shelf.current = "other"
    await repeated(quick, json=body)


async def test_a_repeated_edit_is_the_same_after_a_switch_of_the_model(
    quick: Served, scripted: ScriptedGenerator, shelf: Shelf
) -> None:
    def form() -> aiohttp.FormData:
        made = aiohttp.FormData({"prompt": "a cat", "stream": "true", "partial_images": "1"})
        picture = io.BytesIO()
        Image.open(io.BytesIO(png())).resize((512, 512)).save(picture, "PNG")
        made.add_field("image", picture.getvalue(), filename="in.png")
        return made

    path = "/openai/v1/images/edits"
    scripted.finish()
    await quick.ask("POST", path, data=form(), headers=KEY)
    shelf.current = "other"
    await repeated(quick, path=path, data=form())


@either
async def test_a_repeated_request_is_answered_also_when_its_model_is_gone(
    quick: Served, scripted: ScriptedGenerator, shelf: Shelf, body: dict
) -> None:
    scripted.finish()
    await quick.ask("POST", OPENAI, json={**body, "model": "other"}, headers=KEY)
    del shelf.steps["other"]
    await repeated(quick, json={**body, "model": "other"})
    fresh = await quick.ask("POST", OPENAI, json={**body, "model": "other"})
    assert fresh.status == 404
