"""What is done with a picture, in a real Chromium: looked at, drawn again, started from; and what is said of it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image
from scripted_generator import png, preview, progress, result_of

from sdmanager.generation import ImageRequest

pytestmark = pytest.mark.browser


async def finished(tab, scripted, result=None, *, cards: int = 1) -> None:
    scripted.finish(result or result_of())
    await tab.until_drawn(cards)


async def choose(tab, size=(64, 64)) -> None:
    """Take a picture to start from."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(buffer, "PNG")
    await tab.page.evaluate("document.getElementById('start').open = true")
    await tab.page.set_input_files(
        "#file", {"name": "p.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    await tab.until(f"init.naturalWidth === {size[0]} && !starting.hidden")


async def test_the_finished_picture_is_opened_chosen_and_started_from(queue, scripted, tab):
    await tab.open(queue.url)
    await tab.page.fill("#count", "2")
    await tab.draw("a fox")
    await finished(tab, scripted, result_of(2, 41), cards=2)
    await tab.page.get_by_role("button", name="Picture 2 of 2").click()
    async with tab.page.expect_download() as download:
        await tab.page.click("#save")
    assert (await download.value).suggested_filename.endswith("-a-fox-42.png")
    await tab.page.click("#enlarge")
    assert "42" in await tab.text("facts")
    await tab.page.keyboard.press("Escape")
    assert await tab.page.evaluate("document.activeElement.id") == "enlarge"
    await tab.page.click("#from-it")
    await tab.until("!starting.hidden")
    await tab.draw("a ship")
    # It is still there, and is seen to be the one before.
    await tab.until_said("former", "The picture before")
    assert scripted.requests[-1].init_image == png(42)
    scripted.tell(progress(1), preview(1))
    await tab.until("picture.src.startsWith('data:')")
    assert [await tab.text(name) for name in ("former", "result", "said")] == ["", "", ""]
    assert await tab.page.is_disabled("#enlarge")
    await finished(tab, scripted, result_of(2, 7), cards=4)
    await tab.page.click("#enlarge")
    await tab.page.click("#delete")
    await tab.page.click("#confirm-yes")
    await tab.until("document.getElementById('result').hidden")


async def test_settings_of_a_picture_without_one_to_start_from_take_it_out_of_the_form(kept, scripted, tab):
    await tab.open(kept.url)
    await tab.draw("a fox")
    await finished(tab, scripted)
    await choose(tab)
    await tab.page.click(".card")
    assert "Strength" not in await tab.text("facts")
    await tab.page.click("#reuse")
    await tab.until_said("live", "taken out of the form")
    assert "taken out of the form" in await tab.text("carried")
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[-1].init_image is None


async def test_settings_of_a_picture_with_one_to_start_from_say_that_it_is_not_kept(kept, scripted, tab):
    await tab.open(kept.url)
    await choose(tab)
    await tab.page.fill("#strength", "0.4")
    await tab.draw("a fox")
    await finished(tab, scripted)
    await tab.page.reload()
    await tab.ready()
    await tab.page.click(".card")
    assert "Strength0.4" in await tab.text("facts")
    await tab.page.click("#reuse")
    await tab.until_said("carried", "drawn from another picture, which is not kept")
    assert await tab.page.input_value("#strength") == "0.4"
    await choose(tab)
    assert await tab.text("carried") == ""


async def test_a_model_that_is_gone_and_a_seed_that_is_too_large_are_said(kept, scripted, tab):
    large = 2**53 + 1
    drawing = await kept.begin(prompt="a fox", seed=large)
    settings = ImageRequest(prompt="a fox", seed=large, model_id="gone", steps=3)
    scripted.finish(replace(result_of(1, large), request=settings))
    await kept.until(drawing)
    await tab.open(kept.url)
    await tab.until_drawn_in_gallery(1)
    await tab.page.click(".card")
    assert str(large) in await tab.text("facts")
    await tab.page.click("#reuse")
    await tab.until_said("carried", "gone is not installed any more; demo is chosen", str(large), "too large")
    assert await tab.page.evaluate("[seed.value, model.value]") == ["", "demo"]
    assert await tab.page.get_attribute("#random", "aria-pressed") == "true"


async def test_pictures_of_other_clients_have_their_settings_without_a_gallery(quick, scripted, tab):
    drawing = await quick.begin()
    settings = ImageRequest(prompt="by somebody else", steps=7, seed=3)
    scripted.finish(replace(result_of(1, 3), request=settings))
    await quick.until(drawing)
    await tab.open(quick.url)
    await tab.until_drawn_in_gallery(1)
    await tab.page.click(".card")
    assert await tab.text("viewer-prompt") == "by somebody else"
    await tab.page.click("#reuse")
    filled = [await tab.page.input_value(f"#{name}") for name in ("prompt", "steps", "seed")]
    assert filled == ["by somebody else", "7", "3"]


async def test_a_large_picture_on_a_phone_is_seen_from_its_top_and_can_be_closed(quick, scripted, tab):
    await tab.page.set_viewport_size({"width": 360, "height": 640})
    await tab.open(quick.url)
    await tab.draw("a very tall tower " * 30)
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((512, 1280)).convert("RGB").save(buffer, "PNG")
    tall = replace(result_of().images[0], source=buffer.getvalue(), width=512, height=1280)
    await finished(tab, scripted, replace(result_of(), images=(tall,)))
    await tab.page.click(".card")
    await tab.until("large.naturalWidth === 512")
    closing = """() => { const box = document.getElementById("close").getBoundingClientRect();
      return [document.getElementById("viewer").scrollTop, document.activeElement.id,
        box.top >= 0 && box.bottom < 100 && box.left > 250 && box.right <= 360]; }"""
    assert await tab.page.evaluate(closing) == [0, "close", True]
    await tab.page.evaluate("document.getElementById('viewer').scrollTop = 9999")
    scrolled, _, in_sight = await tab.page.evaluate(closing)
    assert scrolled > 100
    assert in_sight


async def test_times_are_rounded_once_and_the_size_is_that_of_the_picture(quick, scripted, tab):
    await tab.open(quick.url)
    size = "document.getElementById('size').options[0].textContent"
    assert await tab.page.evaluate(size) == "512 \N{MULTIPLICATION SIGN} 512, the model's own"
    await choose(tab, (210, 317))
    assert await tab.page.evaluate(size) == "208 \N{MULTIPLICATION SIGN} 312, as the picture"
    await choose(tab, (1000, 2000))
    assert await tab.page.evaluate(size) == "360 \N{MULTIPLICATION SIGN} 720, as the picture"
    await tab.page.click("#remove-init")
    assert await tab.page.evaluate(size) == "512 \N{MULTIPLICATION SIGN} 512, the model's own"
    await tab.draw()
    for seconds, said in ((119.7, "about 2 min left"), (59.7, "about 1 min left"), (119.2, "1 min 59 s")):
        scripted.tell(progress(1, eta=seconds))
        await tab.until_said("detail", said)
