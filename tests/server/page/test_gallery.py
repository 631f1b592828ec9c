"""What was made, in the page, in a real Chromium: of this session, and of the server's gallery."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from scripted_generator import preview, progress, result_of
from tab import held

from sdmanager.generation import ImageRequest

pytestmark = pytest.mark.browser

CARDS = "document.querySelectorAll('.card').length"


async def drawn(tab, scripted, prompt="a lighthouse", *, count=1, cards=1, seed=1) -> None:
    await tab.page.fill("#count", str(count))
    await tab.draw(prompt)
    scripted.finish(result_of(count, seed))
    await tab.until_drawn(cards)


async def confirm(tab) -> None:
    await tab.until("document.getElementById('confirm').open")
    await tab.page.click("#confirm-yes")


async def test_without_a_gallery_the_page_says_how_long_pictures_stay(quick, scripted, tab):
    await tab.open(quick.url)
    assert "sdmanager serve --gallery DIR" in await tab.text("gallery-note")
    assert await tab.page.is_hidden("#search")
    assert await tab.page.is_hidden("#delete-all")
    await tab.until_said("nothing", "Nothing was drawn yet.")


async def test_settings_are_used_again_with_the_seed_that_was_drawn(quick, scripted, tab):
    await tab.open(quick.url)
    page = tab.page
    await page.fill("#negative", "snow")
    await page.click("#more summary")
    await page.fill("#cfg", "3.5")
    await drawn(tab, scripted, "a fox", count=2, cards=2, seed=41)
    for name in ("#negative", "#cfg", "#steps", "#prompt"):
        await page.fill(name, "")
    await page.select_option("#size", "1024x1024")
    await page.click(".card >> nth=0")  # the newest: the second of the two
    assert "42" in await tab.text("facts")
    await page.click("#reuse")
    assert await page.evaluate("document.activeElement.id") == "prompt"
    shown = "['prompt','negative','size','width','height','steps','seed','count','cfg','model']"
    assert await page.evaluate(f"{shown}.map(id => document.getElementById(id).value)") == [
        "a fox", "snow", "own", "64", "64", "2", "42", "1", "3.5", "demo",
    ]  # fmt: skip
    await page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    first, second = (request.model_dump(exclude={"seed", "count"}) for request in scripted.requests)
    assert second == first
    assert scripted.requests[1].seed == 42


async def test_settings_without_a_field_are_carried_along_and_can_be_left_out(kept, scripted, tab):
    await kept.begin(guidance=3.5, clipSkip=2)
    scripted.finish()
    await tab.open(kept.url)
    await tab.until_drawn_in_gallery(1)
    await tab.page.click(".card")
    await tab.page.click("#reuse")
    await tab.until_said("carried", "guidance 3.5", "clipSkip 2")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert (scripted.requests[1].guidance, scripted.requests[1].clip_skip) == (3.5, 2)
    await tab.page.get_by_role("button", name="Leave out").click()
    assert await tab.text("carried") == ""


async def test_a_picture_is_downloaded_under_a_name_that_says_what_it_is(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted, "A fox, in the «snow» & far/away ../x", seed=7)
    await tab.page.click(".card")
    async with tab.page.expect_download() as download:
        await tab.page.click("#download")
    loaded = await download.value
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-a-fox-in-the-snow-far-7\.png", loaded.suggested_filename)
    assert (await loaded.path()).read_bytes() == result_of(1, 7).images[0].png


async def test_a_picture_is_what_the_next_one_starts_from(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted, seed=5)
    await tab.page.click(".card")
    await tab.page.click("#as-init")
    await tab.until("!starting.hidden && init.naturalWidth === 64")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[1].init_image == result_of(1, 5).images[0].png
    assert scripted.requests[1].strength == 0.75
    assert scripted.requests[1].mask_image is None


async def test_a_picture_that_is_on_its_way_is_what_the_next_one_starts_from(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted, seed=5)
    async with held(tab, r"/v1/history/") as (there, go):
        await tab.page.click("#from-it")
        await there.wait()
        await tab.page.click("#generate")
        await tab.until("generate.getAttribute('aria-busy')")
        go.set()
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[1].init_image == result_of(1, 5).images[0].png


async def test_a_picture_is_removed_only_after_a_question(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted, count=3, cards=3)
    await tab.page.click(".card >> nth=0")
    await tab.page.click("#delete")
    await tab.page.click("#confirm-no")
    assert await tab.page.evaluate(CARDS) == 3
    await tab.page.click("#delete")
    await confirm(tab)
    await tab.until(f"{CARDS} === 2")
    # Who works by keyboard goes on where the picture was.
    assert await tab.page.evaluate("document.activeElement === document.querySelector('.card')")
    await tab.page.reload()
    await tab.ready()
    await tab.until(f"{CARDS} === 2")


async def test_pictures_of_a_session_come_back_with_their_settings_after_a_reload(quick, scripted, tab):
    scripted.finish(replace(result_of(), request=ImageRequest(prompt="a ship")))
    await quick.begin()
    await tab.open(quick.url)
    await tab.until_drawn_in_gallery(1)
    await drawn(tab, scripted, "a fox", cards=2, seed=9)
    await tab.page.reload()
    await tab.ready()
    await tab.until_drawn_in_gallery(2)
    assert await tab.page.eval_on_selector_all(".card img", "all => all.map(each => each.alt)") == [
        "a fox, seed 9", "a ship, seed 1",
    ]  # fmt: skip


async def test_pictures_stay_while_the_page_is_open(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted)
    (generation,) = quick.service.registry.list()
    quick.service.registry.delete(generation.id)
    await tab.page.click(".card")
    await tab.until("large.naturalWidth === 64")


async def test_the_gallery_shows_a_frame_while_a_picture_forms(kept, scripted, tab):
    await tab.open(kept.url)
    assert await tab.text("gallery-note") == ""
    await tab.draw("a fox")
    scripted.tell(progress(1), preview(1))
    await tab.until("document.querySelector('.card img.forming')?.naturalWidth > 0")
    early = await tab.page.get_attribute(".card img", "src")
    scripted.tell(progress(2), preview(2))
    await tab.until(f"document.querySelector('.card img').getAttribute('src') !== '{early}'")
    await tab.page.click(".card")
    assert await tab.page.is_hidden("#delete")
    scripted.finish()
    await tab.until("!document.getElementById('delete').hidden")  # also where it is open, large
    await tab.page.keyboard.press("Escape")
    await tab.until_drawn()


async def test_the_frame_of_what_was_cancelled_goes(kept, scripted, tab):
    await tab.open(kept.url)
    await tab.draw("a fox")
    scripted.tell(progress(1), preview(1))
    await tab.until(f"{CARDS} === 1")
    await tab.page.click("#cancel")
    await tab.until(f"{CARDS} === 0")


async def test_the_gallery_is_searched_paged_and_emptied(kept, scripted, tab):
    for prompt, count in (("a lighthouse", 10), ("a fox", 3), ("a harbour", 10), ("a mill", 10)):
        generation_id = await kept.begin(prompt=prompt, count=count)
        scripted.finish(result_of(count))
        await kept.until(generation_id)
    await tab.page.set_viewport_size({"width": 700, "height": 500})
    await tab.open(kept.url)
    await tab.until(f"{CARDS} === 24")
    assert await tab.text("total") == "33"
    await tab.page.locator("#load-more").scroll_into_view_if_needed()
    await tab.until(f"{CARDS} === 33")
    assert await tab.page.is_hidden("#load-more")
    await tab.page.fill("#search", "fo")
    await tab.until(f"{CARDS} === 3")
    await tab.page.fill("#search", "nothing of the kind")
    await tab.until_said("nothing", "No picture was drawn with these words.")
    await tab.page.fill("#search", "fox")
    await tab.until(f"{CARDS} === 3")
    await tab.page.click(".card >> nth=0")
    await tab.page.click("#delete")
    await confirm(tab)
    await tab.until(f"{CARDS} === 2")
    assert (await kept.get("/v1/history")).json["total"] == 32
    await tab.page.fill("#search", "")
    await tab.until(f"{CARDS} === 24")
    await tab.page.click("#delete-all")
    await confirm(tab)
    await tab.until(f"{CARDS} === 0")
    assert (await kept.get("/v1/history")).json["total"] == 0


async def test_more_pictures_than_a_page_that_came_meanwhile_are_all_there(kept, scripted, tab):
    async def begun() -> None:
        drawing = await kept.begin()
        scripted.finish(result_of(10))
        await kept.until(drawing)

    for _ in range(3):
        await begun()
    await tab.open(kept.url)
    await tab.until(f"{CARDS} === 24")
    await tab.turn_away()
    for _ in range(3):
        await begun()
    await tab.turn_to()
    await tab.until_said("total", "60")
    async with asyncio.timeout(60):
        while await tab.page.evaluate(CARDS) < 60:
            await tab.page.evaluate(
                "(it => { if (!it.hidden) it.click(); })(document.getElementById('load-more'))"
            )
    assert await tab.page.is_hidden("#load-more")


async def test_a_picture_of_a_batch_that_is_deleted_is_not_offered_any_more(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted, count=3, cards=3)
    assert await tab.page.evaluate("batch.children.length") == 3
    await tab.page.click(".card >> nth=0")  # the newest: the third
    await tab.page.click("#delete")
    await confirm(tab)
    await tab.until("batch.children.length === 2")
    await tab.page.click("#batch button >> nth=1")
    assert (await tab.page.get_attribute("#save", "download")).endswith("-2.png")


async def test_a_picture_that_is_gone_already_is_taken_off(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted)
    await tab.page.click(".card")
    await kept.ask("DELETE", "/v1/history?all=true")
    await tab.page.click("#delete")
    await confirm(tab)
    await tab.until(f"{CARDS} === 0")
    assert await tab.text("failure") == ""


async def test_one_looks_through_the_pictures_with_arrow_keys(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted, count=3, cards=3, seed=1)
    await tab.page.click(".card >> nth=0")
    assert await tab.page.is_disabled("#newer")
    for seed in ("2", "1"):
        await tab.page.keyboard.press("ArrowRight")
        await tab.until(f"[...facts.querySelectorAll('dd')].some(it => it.textContent === '{seed}')")
    assert await tab.page.is_disabled("#older")
    await tab.page.keyboard.press("ArrowLeft")
    await tab.until("[...facts.querySelectorAll('dd')].some(it => it.textContent === '2')")
