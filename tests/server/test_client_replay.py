"""The original's client, genai-lite, replayed: its exact requests, its polling, and what it reads of the answers."""

from __future__ import annotations

import asyncio
import base64

import pytest
from raw_http import RawReply, exchange
from serving import Served, serving

from sdmanager.engine import LocalGenerator
from sdmanager.settings import Settings

POLL_SECONDS = 0.5

# In the order in which Node's fetch sends them; there is no Authorization.
HEADERS = (
    "accept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\n"
    "user-agent: node\r\naccept-encoding: gzip, deflate\r\n"
)
FIELDS = '"width":128,"height":128,"steps":4,"cfgScale":7.5,"sampler":"euler_a","count":1'


@pytest.fixture
async def served(settings: Settings):
    async with LocalGenerator(settings=settings) as generator:
        await generator.prepare()
        async with serving(generator, settings.generations_dir) as served:
            yield served


async def fetch(served: Served, method: str, path: str, body: str = "", host: str = "localhost") -> RawReply:
    """What Node's ``fetch(url, {method, headers: {"Content-Type": "application/json"}, body})`` sends."""
    kind = "content-type: application/json\r\n"
    length = f"content-length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: {host}:{served.server.port}\r\nconnection: keep-alive\r\n"
    reply = await exchange(served.server.port, f"{head}{kind}{HEADERS}{length}\r\n{body}".encode())
    assert reply is not None
    return reply


async def poll(served: Served, generation_id: str) -> list[dict]:
    """As the client does: every 500 ms until a state that is final to it; all that it read."""
    seen = []
    async with asyncio.timeout(120):
        while True:
            reply = await fetch(served, "GET", f"/v1/images/generations/{generation_id}")
            assert reply.status == 200
            seen.append(reply.json)
            if seen[-1]["status"] in {"complete", "error", "cancelled"}:
                return seen
            await asyncio.sleep(POLL_SECONDS)


@pytest.mark.parametrize("more", ["", ',"negativePrompt":"fog","seed":42'])
async def test_a_picture_is_asked_for_polled_and_read(served: Served, more: str) -> None:
    reply = await fetch(
        served, "POST", "/v1/images/generations", f'{{"prompt":"a lighthouse",{FIELDS}{more}}}'
    )
    accepted = reply.json
    assert reply.status == 201
    assert accepted.keys() == {"id", "status", "createdAt"}
    assert (accepted["status"], type(accepted["createdAt"])) == ("pending", int)

    *running, done = await poll(served, accepted["id"])
    for body in running:
        assert body["status"] in {"pending", "in_progress"}
        if "progress" in body:
            names = {"currentStep", "totalSteps", "stage", "percentage", "currentImage", "totalImages"}
            assert names <= body["progress"].keys()
            assert body["progress"]["stage"] in {"loading", "diffusion", "decoding"}
    result = done["result"]
    assert (done["status"], result["format"]) == ("complete", "png")
    assert result["timeTaken"] > 0
    (image,) = result["images"]
    assert base64.b64decode(image["image"]).startswith(b"\x89PNG")
    assert (image["width"], image["height"]) == (128, 128)
    assert image["seed"] == 42 if more else image["seed"] >= 0


async def test_busy_and_bad_requests_have_the_errors_that_it_reads(served: Served) -> None:
    path = "/v1/images/generations"
    missing = await fetch(served, "POST", path, f"{{{FIELDS}}}")
    assert (missing.status, missing.code) == (400, "INVALID_REQUEST")
    assert "prompt" in missing.json["error"]["message"]
    body = '{"prompt":"a lighthouse","width":512,"height":512,"steps":500,"cfgScale":7.5,"sampler":"euler_a","count":1}'
    generation_id = (await fetch(served, "POST", path, body)).json["id"]
    busy = await fetch(served, "POST", path, body)
    assert (busy.status, busy.code) == (503, "SERVER_BUSY")
    assert busy.json["error"].keys() == {"message", "code", "suggestion"}
    assert (await fetch(served, "GET", "/health")).json == {"status": "ok", "busy": True}

    cancelled = await fetch(served, "DELETE", f"{path}/{generation_id}")  # newer versions do, on abort
    assert (cancelled.status, cancelled.json) == (200, {"id": generation_id, "status": "cancelled"})
    assert [state["status"] for state in await poll(served, generation_id)] == ["cancelled"]
    unknown = await fetch(served, "GET", f"{path}/undefined")  # what an id that it did not read becomes
    assert (unknown.status, unknown.code) == (404, "NOT_FOUND")
