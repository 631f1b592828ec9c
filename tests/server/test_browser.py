"""What a real browser makes of the streams, across connections that drop."""

from __future__ import annotations

import re
from pathlib import Path

import chromium
import pytest
from scripted_generator import ScriptedGenerator, preview, progress
from serving import GENERATIONS, serving
from sse_client import set_times

from sdmanager.engine import LocalGenerator
from sdmanager.errors import NoImageError
from sdmanager.settings import Settings

pytestmark = pytest.mark.browser

PAGE = Path(__file__).parent / "browser" / "page.html"
NAMES = ["queued", "progress", "preview", "complete", "error", "cancelled"]
FIELDS = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 4, "previews": {}}
CLOSED = 2


@pytest.fixture
async def proxy():
    async with chromium.cutting_proxy(PAGE) as proxy:
        yield proxy


@pytest.fixture
async def page(proxy, tmp_path: Path):
    async with chromium.chromium(tmp_path / "browser") as page:
        await page.goto(proxy.origin)
        yield page


def policy(proxy) -> dict:
    return {"allow_origin": [proxy.origin]}


async def test_an_event_source_comes_back_misses_nothing_and_stops(proxy, page, home: Settings) -> None:
    scripted = ScriptedGenerator()
    async with serving(scripted, home.generations_dir, policy=policy(proxy)) as served:
        proxy.target = served.server.port
        proxy.cuts = [3]
        generation_id = (await page.evaluate("fields => begin('/v1/images/generations', fields)", FIELDS))[
            "id"
        ]
        path = f"{GENERATIONS}/{generation_id}/events"
        await page.evaluate("([path, names]) => watch(path, names)", [path, NAMES])
        await chromium.until(page, "seen.events.length === 1")
        scripted.tell(progress(1), preview(1))
        await chromium.until(page, "seen.events.length === 3 && seen.drawn === 1")
        # The connection is gone by now, and the browser waits for two seconds: all of this it has to fetch later.
        scripted.tell(progress(2), preview(2), progress(3), preview(3), progress(4))
        await chromium.until(page, "seen.opens === 2 && seen.events.at(-1).step === 4")
        scripted.finish()
        await chromium.until(page, "seen.picture === 64")
        await chromium.until(page, f"source.readyState === {CLOSED}")

        told = [(event["name"], event["step"]) for event in await page.evaluate("seen.events")]
        assert told == [
            ("progress", 0), ("progress", 1), ("preview", 1),
            ("progress", 2), ("progress", 3), ("preview", 3), ("progress", 4),
            ("complete", None),
        ]  # fmt: skip
        assert [seen for asked, seen in proxy.asked if asked == path] == [None, "3", "end"]
        assert await page.evaluate("seen.drawn") == 2


async def test_a_browser_sees_the_real_engine_draw(proxy, page, settings: Settings) -> None:
    async with (
        LocalGenerator(settings=settings) as generator,
        serving(generator, settings.generations_dir, policy=policy(proxy)) as served,
    ):
        proxy.target = served.server.port
        proxy.cuts = [4]
        fields = FIELDS | {"steps": 12}
        generation_id = (await page.evaluate("fields => begin('/v1/images/generations', fields)", fields))[
            "id"
        ]
        path = f"{GENERATIONS}/{generation_id}/events"
        await page.evaluate("([path, names]) => watch(path, names)", [path, NAMES])
        await chromium.until(page, f"source.readyState === {CLOSED}")
        await chromium.until(page, "seen.picture === 64")
        told = await page.evaluate("seen.events")
        assert told[-1]["name"] == "complete"
        assert len({event["id"] for event in told}) == len(told)
        asked = [seen for asked, seen in proxy.asked if asked == path]
        assert asked == [None, told[3]["id"], "end"]


async def test_a_browser_follows_a_job(proxy, page, home: Settings) -> None:
    scripted = ScriptedGenerator()
    async with serving(scripted, home.generations_dir, policy=policy(proxy)) as served:
        proxy.target = served.server.port
        proxy.cuts = [2]
        fields = {"operation": "ImageGeneration", "prompt": "a lighthouse"}
        taken = await page.evaluate("fields => begin('/v1/jobs', fields)", fields)
        await page.evaluate("([path, names]) => watch(path, names)", [taken["sse_url"], NAMES])
        await chromium.until(page, "seen.events.length === 1")
        scripted.tell(progress(1), preview(1))
        scripted.finish()
        await chromium.until(page, f"source.readyState === {CLOSED}")
        told = await page.evaluate("seen.events")
        assert [event["name"] for event in told] == ["progress", "progress", "complete"]
        assert len(told[-1]["data"]["images"]) == 1


async def test_heartbeats_and_a_server_that_is_gone_do_no_harm(proxy, page, home: Settings) -> None:
    scripted = ScriptedGenerator()
    async with serving(scripted, home.generations_dir, policy=policy(proxy)) as served:
        set_times(served, heartbeat=0.05)
        proxy.target = served.server.port
        generation_id = await served.begin(previews={})
        path = f"{GENERATIONS}/{generation_id}/events"
        await page.evaluate("([path, names]) => watch(path, names)", [path, NAMES])
        await chromium.until(page, "seen.events.length === 1")
        await page.wait_for_timeout(500)
        await served.ask("DELETE", f"{GENERATIONS}/{generation_id}")
        await chromium.until(page, f"source.readyState === {CLOSED}")
        assert [event["name"] for event in await page.evaluate("seen.events")] == ["progress", "cancelled"]


async def test_a_websocket_comes_back_and_shows_previews(proxy, page, home: Settings) -> None:
    scripted = ScriptedGenerator()
    async with serving(scripted, home.generations_dir, policy=policy(proxy)) as served:
        proxy.target = served.server.port
        await page.evaluate("listen('/ws')")
        await chromium.until(page, "seen.messages.length === 1")
        generation_id = (await page.evaluate("fields => begin('/v1/images/generations', fields)", FIELDS))[
            "id"
        ]
        scripted.tell(progress(1), preview(1))
        await chromium.until(page, "seen.drawn === 1")
        proxy.cut()
        await chromium.until(page, "seen.sockets === 2 && seen.drawn === 2")  # the newest preview comes again
        scripted.tell(progress(2), preview(2))
        await chromium.until(page, "seen.drawn === 3")
        scripted.finish()
        await chromium.until(page, "seen.messages.at(-1).type === 'complete'")
        told = await page.evaluate("seen.messages")
        assert [event["type"] for event in told] == [
            "status", "stage", "progress", "preview", "bytes",
            "status", "preview", "bytes", "progress", "preview", "bytes", "complete",
        ]  # fmt: skip
        assert {event["data"]["media"] for event in told if event["type"] == "bytes"} == {"image/png"}
        assert told[5]["data"]["generations"][0]["id"] == generation_id
        await served.server.aclose()
        await chromium.until(page, "seen.codes.length === 2")
        assert await page.evaluate("seen.codes") == [1006, 1001]


DOCS = Path(__file__).parent.parent.parent / "docs" / "server.md"
ELEMENTS = """
    document.body.innerHTML = '<img id="picture"><progress id="bar" max="100"></progress><p id="message"></p>'
"""
SHOWN = "document.getElementById('picture').naturalWidth === 64 && document.getElementById('picture').src"


@pytest.mark.parametrize("token", [None, "s3cret"])
async def test_the_page_of_the_documentation_works_as_it_is_written(
    proxy, page, home: Settings, token
) -> None:
    # For the browser, "localhost" is another site than the server's address: that is the strictest case.
    origin = proxy.origin.replace("127.0.0.1", "localhost")
    await page.goto(origin)
    await page.evaluate(ELEMENTS)
    scripted = ScriptedGenerator()
    async with serving(
        scripted, home.generations_dir, policy={"allow_origin": [origin], "token": token}
    ) as served:
        (snippet,) = re.findall(r"^```js\n(.*?)^```", DOCS.read_text(), re.M | re.S)
        assert {'"http://127.0.0.1:8081"', 'token = ""'} <= set(
            re.findall(r'"http:[^"]+"|token = ""', snippet)
        )
        snippet = snippet.replace("http://127.0.0.1:8081", served.url)
        await page.evaluate(snippet.replace('token = ""', f'token = "{token or ""}"'))
        scripted.tell(progress(1), preview(1))
        await chromium.until(page, f"{SHOWN}.startsWith('data:image/png')")
        await chromium.until(page, "document.getElementById('bar').value === 20")
        scripted.finish()
        await chromium.until(page, f"{SHOWN}.startsWith('{served.url}')")
        assert await page.evaluate("document.getElementById('message').textContent") == ""

        for outcome, said in ((NoImageError("It drew nothing."), "It drew nothing."), (None, "Cancelled.")):
            await page.evaluate("fields => draw(fields)", FIELDS)
            if outcome is None:
                (drawing,) = (
                    found for found in served.service.registry.list() if not found.status.is_terminal
                )
                await served.service.cancel(drawing.id)
            else:
                scripted.finish(outcome)
            await chromium.until(page, f"document.getElementById('message').textContent === '{said}'")


async def test_a_page_of_another_origin_gets_nothing(proxy, page, home: Settings) -> None:
    async with serving(ScriptedGenerator(), home.generations_dir) as served:
        proxy.target = served.server.port
        generation_id = await served.begin()
        direct = f"{served.url}{GENERATIONS}/{generation_id}/events"
        await page.evaluate("([path, names]) => watch(path, names)", [direct, NAMES])
        await chromium.until(page, f"source.readyState === {CLOSED}")
        await page.evaluate("path => listen(path)", f"ws://127.0.0.1:{served.server.port}/ws")
        await chromium.until(page, "seen.codes.length >= 1")  # the page tries again and again
        assert await page.evaluate("[seen.opens, seen.sockets, seen.events.length]") == [0, 0, 0]
