"""Where the focus is, and what is said to the ears, while the page changes under them, in a real Chromium."""

from __future__ import annotations

import pytest
from scripted_generator import preview, progress, result_of
from tab import held

pytestmark = pytest.mark.browser

FOCUSED = "document.activeElement.id"
CARDS = "document.querySelectorAll('.card').length"
ROWS = "document.querySelectorAll('#waiting li').length"


async def drawn(tab, scripted, *, count=1, cards=1) -> None:
    await tab.page.fill("#count", str(count))
    await tab.draw()
    scripted.finish(result_of(count))
    await tab.until_drawn(cards)


async def draw(tab, *prompts: str) -> None:
    for number, prompt in enumerate(prompts):
        await tab.draw(prompt)
        await tab.until(f"!document.querySelector('#generate[aria-busy]') && {ROWS} === {number}")


async def test_an_end_is_said_also_where_the_next_one_begins(queue, scripted, tab):
    await tab.open(queue.url)
    await draw(tab, "first", "second")
    scripted.finish()
    await tab.until_drawn(1)
    await tab.until("seen.spoken.some((words) => words.includes('ready'))")
    await tab.until_said("stage-name", "Loading")
    await tab.page.click("#cancel")
    await tab.until_said("said", "Cancelled.")
    await tab.until("seen.spoken.some((words) => words.includes('Cancelled.'))")


async def test_one_that_waits_is_cancelled_aloud_and_the_focus_stays_on_the_page(queue, scripted, tab):
    await tab.open(queue.url)
    await draw(tab, "first", "second")
    await tab.page.get_by_role("button", name="Cancel: second").focus()
    await tab.page.keyboard.press("Enter")
    await tab.until(f"{ROWS} === 0")
    assert await tab.page.evaluate(FOCUSED) == "generate"
    await tab.until("seen.spoken.some((words) => words.includes('Cancelled.'))")


async def test_what_is_turned_to_in_the_viewer_is_said_in_it(quick, scripted, tab):
    await tab.open(quick.url)
    await drawn(tab, scripted, count=3, cards=3)
    await tab.page.click(".card >> nth=0")
    await tab.page.focus("#older")
    await tab.page.keyboard.press("Enter")
    await tab.until("viewer.querySelector('[role=status]').textContent.includes('2 of 3')")
    # The last one: the button that led there keeps the focus, and with it the arrow keys work.
    await tab.page.keyboard.press("Enter")
    await tab.until("viewer.querySelector('[role=status]').textContent.includes('3 of 3')")
    assert await tab.page.evaluate(FOCUSED) == "older"
    assert await tab.page.get_attribute("#older", "aria-disabled") == "true"
    await tab.page.keyboard.press("ArrowLeft")
    await tab.until("viewer.querySelector('[role=status]').textContent.includes('2 of 3')")


async def test_the_arrow_keys_still_work_at_a_picture_that_forms(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted, count=2, cards=2)
    await tab.page.fill("#count", "1")
    await tab.draw()
    await tab.until(f"{CARDS} === 3")
    await tab.page.click(".card >> nth=1")
    await tab.page.focus("#download")
    for key, words in (("ArrowLeft", "1 of 3"), ("ArrowRight", "2 of 3")):
        await tab.page.keyboard.press(key)
        await tab.until(f"viewer.querySelector('[role=status]').textContent.includes('{words}')")
    await tab.page.keyboard.press("Escape")
    await tab.page.click(".card >> nth=2")
    assert await tab.page.evaluate("viewer.querySelector('[role=status]').textContent") == ""


async def test_undo_and_clear_keep_the_focus(quick, tab):
    await tab.open(quick.url)
    await tab.page.evaluate("document.getElementById('start').open = true")
    data = result_of().images[0].png
    await tab.page.set_input_files("#file", {"name": "p.png", "mimeType": "image/png", "buffer": data})
    await tab.until("!starting.hidden")
    for name in ("undo", "clear"):
        await tab.page.click("#whole")
        assert await tab.page.get_attribute(f"#{name}", "aria-disabled") == "false"
        await tab.page.focus(f"#{name}")
        await tab.page.keyboard.press("Enter")
        assert await tab.page.get_attribute(f"#{name}", "aria-disabled") == "true"
        assert await tab.page.evaluate(FOCUSED) == name


async def test_the_focus_stays_on_a_picture_while_one_above_it_goes(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted, count=3, cards=3)
    newest = (await kept.get("/v1/history")).json["images"][0]["id"]
    await tab.page.focus(".card >> nth=2")
    await tab.page.evaluate("window.chosen = document.activeElement")
    await kept.ask("DELETE", f"/v1/history/{newest}")
    await tab.page.evaluate("window.dispatchEvent(new Event('focus'))")
    await tab.until(f"{CARDS} === 2")
    assert await tab.page.evaluate("document.activeElement === chosen && chosen.className === 'card'")


async def test_the_focus_is_not_lost_with_the_picture_that_was_shown(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted)
    await tab.page.focus("#enlarge")
    await tab.page.keyboard.press("Control+Enter")
    await tab.until_said("stage-name", "Loading")
    scripted.tell(preview(1))
    await tab.until("picture.src.startsWith('data:')")
    assert await tab.page.evaluate(FOCUSED) == "generate"
    scripted.finish(result_of(1, 2))
    await tab.until_drawn(2)
    await tab.page.focus("#delete-all")
    await tab.page.keyboard.press("Enter")
    await tab.until("document.getElementById('confirm').open")
    await tab.page.click("#confirm-yes")
    await tab.until(f"{CARDS} === 0 && document.activeElement.id === 'prompt'")


async def test_deleting_all_leaves_the_focus_where_somebody_types(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted)
    async with held(tab, r"/v1/history\?all=true", "DELETE") as (there, go):
        await tab.page.click("#delete-all")
        await tab.until("document.getElementById('confirm').open")
        await tab.page.click("#confirm-yes")
        await there.wait()
        await tab.page.focus("#negative")
        go.set()
        await tab.until_said("live", "deleted")
    assert await tab.page.evaluate(FOCUSED) == "negative"


async def test_the_page_stays_where_it_is_read_when_the_next_one_begins(queue, scripted, tab):
    await tab.page.set_viewport_size({"width": 360, "height": 640})
    await tab.open(queue.url)
    await tab.draw("first")
    await tab.until("figure.getBoundingClientRect().top < innerHeight * 0.6")  # it is brought into sight
    await tab.draw("second")
    await tab.until(f"{ROWS} === 1")
    await tab.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    await tab.page.focus("#prompt")
    before = await tab.page.evaluate("scrollY")
    scripted.finish()
    await tab.until_drawn(1)
    await tab.until(f"{ROWS} === 0")
    scripted.tell(progress(1))
    await tab.until_said("detail", "step 1")
    assert await tab.page.evaluate("scrollY") == before


async def test_a_picture_that_comes_late_leaves_the_focus_where_somebody_types(kept, scripted, tab):
    await tab.open(kept.url)
    await drawn(tab, scripted)
    async with held(tab, r"/v1/history/") as (there, go):
        await tab.page.click("#from-it")
        await there.wait()
        await tab.page.focus("#prompt")
        go.set()
        await tab.until("!starting.hidden && init.naturalWidth === 64")
    assert await tab.page.evaluate(FOCUSED) == "prompt"
