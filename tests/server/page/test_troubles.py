"""What goes wrong on the way, in a real Chromium: said where it happened, kept as long as it holds, and tried again."""

from __future__ import annotations

import asyncio
import re

import pytest
from scripted_generator import preview, progress, result_of
from serving import GENERATIONS
from tab import held

from sdmanager.errors import NoImageError

pytestmark = pytest.mark.browser

ROWS = "document.querySelectorAll('#waiting li').length"
TROUBLE = {"error": {"message": "Not now.", "code": "INTERNAL", "suggestion": "Later."}}


async def draw(tab, *prompts: str) -> None:
    for prompt in prompts:
        await tab.draw(prompt)
        await tab.until("!document.querySelector('#generate[aria-busy]')")


async def look(tab) -> None:
    """What the page does now and then, and whenever somebody turns to it."""
    await tab.page.evaluate("window.dispatchEvent(new Event('focus'))")


async def test_a_failure_stays_and_says_whose_it_is_while_the_next_one_is_drawn(queue, scripted, tab):
    await tab.open(queue.url)
    await draw(tab, "first fox", "second fox")
    await tab.until(f"{ROWS} === 1")
    scripted.finish(NoImageError("It drew nothing.", hint="Ask again."))
    await tab.until(f"{ROWS} === 0")
    await tab.until_said("stage-name", "Loading")
    assert "first fox" in await tab.text("failure")
    scripted.finish(NoImageError("It drew nothing, either."))
    said = await tab.until_said("failure", "second fox", "either")
    assert "first fox" in said
    assert "Ask again." in said
    await draw(tab, "third fox")
    assert await tab.text("failure") == ""


async def test_what_is_asked_for_while_the_list_is_on_its_way_is_not_taken_for_lost(queue, scripted, tab):
    await tab.open(queue.url)
    await draw(tab, "first", "second")
    async with held(tab, f"{GENERATIONS}$") as (there, go):
        await there.wait()
        await draw(tab, "third")
        go.set()
        await tab.until_said("waiting", "second", "third", "place 2")
    assert await tab.text("failure") == ""
    # A double click cancels what it was meant for, and not the next one, too.
    await tab.page.dblclick("#cancel")
    await tab.until(f"{ROWS} === 1")
    await tab.until_said("stage-name", "Loading")
    assert [str(found.status) for found in queue.service.registry.list()] == [
        "cancelled", "in_progress", "pending",
    ]  # fmt: skip


async def test_what_was_deleted_does_not_come_back_with_an_answer_that_was_on_its_way(kept, scripted, tab):
    old = await kept.begin(prompt="old")
    scripted.finish()
    await kept.until(old)
    await tab.open(kept.url)
    await tab.until_drawn_in_gallery(1)
    await tab.draw("new")
    await tab.until_said("stage-name", "Loading")
    await tab.until("document.querySelectorAll('.card').length === 2")
    await tab.page.click(".card >> nth=1")
    await tab.page.click("#delete")
    async with held(tab, r"/v1/history\?limit") as (there, go):
        await there.wait()
        await tab.page.click("#confirm-yes")
        await tab.until("document.querySelectorAll('.card').length === 1")
        await tab.page.evaluate(
            """() => { window.most = 0; new MutationObserver(() => {
              most = Math.max(most, document.querySelectorAll('.card').length); })
              .observe(document.getElementById('items'), { childList: true }); }"""
        )
        go.set()
    scripted.finish()
    await tab.until_drawn(1)
    assert await tab.page.evaluate("most") <= 1


async def test_a_picture_that_cannot_be_fetched_to_start_from_is_said(kept, scripted, tab):
    await tab.open(kept.url)
    await tab.draw("a fox")
    scripted.finish()
    await tab.until_drawn()
    await tab.page.route(re.compile(r"/v1/history/"), lambda route: route.abort())
    await tab.page.click("#from-it")
    await tab.until_said("start-failure", "The server does not answer.")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[-1].init_image is None


async def test_what_others_draw_and_delete_is_seen(kept, scripted, tab):
    await tab.open(kept.url)
    # At the beginning, the page looks twice; then it is quiet.
    async with asyncio.timeout(60):
        while sum("/v1/history?" in url for _, url in tab.asked) < 2:
            await asyncio.sleep(0.02)
    await kept.begin(prompt="by somebody else")
    await look(tab)
    await tab.until("document.querySelectorAll('.card').length === 1")
    scripted.tell(progress(1), preview(1))
    await tab.until("document.querySelector('.card img.forming')?.naturalWidth > 0")
    scripted.finish()
    await tab.until_drawn_in_gallery(1)
    (image,) = (await kept.get("/v1/history")).json["images"]
    await kept.ask("DELETE", f"/v1/history/{image['id']}")
    await look(tab)
    await tab.until("document.querySelectorAll('.card').length === 0")


async def test_what_is_sent_while_the_server_is_away_can_be_withdrawn(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.route("**/v1/**", lambda route: route.abort())
    await tab.draw("a fox")
    await tab.until_said("sending", "sent once it is back")
    assert await tab.page.get_attribute("#generate", "aria-busy") == "true"
    await tab.page.click("#withdraw")
    await tab.until("!document.querySelector('#generate[aria-busy]') && sending.hidden")
    await tab.page.unroute_all()
    await tab.until("banner.hidden")
    assert await tab.text("failure") == ""
    assert not quick.service.registry.list()
    await tab.draw("a ship")
    await tab.until_said("stage-name", "Loading")
    assert [request.prompt for request in scripted.requests] == ["a ship"]


async def test_a_refusal_at_the_beginning_is_said_and_does_not_last(quick, scripted, tab):
    drawing = await quick.begin(prompt="a fox")
    refused = []

    async def refuse(route):
        refused.append(route.request.url)
        await route.fulfill(status=503, json=TROUBLE)

    await tab.page.route("**/v1/models", refuse)
    await tab.page.goto(quick.url)
    assert "There is no model" not in await tab.until_said("model-note", "Not now.", "Later.")
    # The pictures do not wait for that.
    scripted.finish()
    await quick.until(drawing)
    await look(tab)
    await tab.until_drawn_in_gallery(1)
    await tab.page.unroute_all()
    await look(tab)
    await tab.ready()
    await tab.until_said("model-note", "demo model")
    assert refused


async def test_a_picture_that_does_not_come_is_tried_again_and_said_to_be_missing(quick, scripted, tab):
    tries = []

    async def drop(route):
        tries.append(route.request.resource_type)
        await route.abort()

    await tab.open(quick.url)
    await tab.page.route(re.compile("/images/0"), drop)
    await tab.turn_away()  # else it tries again whenever it looks around
    await tab.draw("a fox")
    scripted.finish()
    await tab.until_said("gallery-failure", "could not be fetched", "a fox")
    assert tries.count("fetch") == 3
    await tab.page.unroute_all()
    await tab.until("banner.hidden")
    await tab.turn_to()
    await tab.until("document.querySelector('.card img')?.src.startsWith('blob:')")


async def test_what_goes_wrong_with_the_gallery_is_said_there_and_not_asked_for_without_end(
    kept, scripted, tab
):
    for _ in range(3):
        drawn = await kept.begin(count=10)
        scripted.finish(result_of(10))
        await kept.until(drawn)
    asked = []

    async def refuse(route):
        asked.append(route.request.url)
        await route.fulfill(status=500, json=TROUBLE)

    await tab.page.set_viewport_size({"width": 700, "height": 500})
    await tab.page.route(re.compile("after="), refuse)
    await tab.open(kept.url)
    await tab.page.locator("#load-more").scroll_into_view_if_needed()
    await tab.until_said("gallery-failure", "Not now.")
    await tab.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert len(asked) == 1
    assert await tab.text("failure") == ""
    await tab.page.unroute_all()
    await tab.page.click("#load-more")
    await tab.until("document.getElementById('gallery-failure').hidden")
