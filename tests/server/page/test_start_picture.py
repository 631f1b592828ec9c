"""The picture to start from and its mask, in a real Chromium: what is painted is what is sent."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

pytestmark = pytest.mark.browser

WHITE, BLACK = 255, 0
SIZE = (200, 100)

# A file as another program gives it: dropped or pasted.
_GIVE = """([kind, base64, type]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  data.items.add(new File([bytes], "picture", { type }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: data })
    : new DragEvent("drop", { ...options, dataTransfer: data });
  document.getElementById("gallery-title").dispatchEvent(event);
  return event.defaultPrevented;
}"""


def picture(size=SIZE, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


async def choose(tab, data: bytes, name="picture.png", media="image/png", width=SIZE[0]) -> None:
    await tab.page.click("#start summary")
    await tab.page.set_input_files("#file", {"name": name, "mimeType": media, "buffer": data})
    await tab.until(f"init.naturalWidth === {width} && !starting.hidden")
    await tab.page.locator("#mask").scroll_into_view_if_needed()


async def stroke(tab, *points: tuple[float, float]) -> None:
    """Drag over the picture; points are shares of it."""
    box = await tab.page.locator("#mask").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    await tab.page.mouse.move(*places[0])
    await tab.page.mouse.down()
    for place in places[1:]:
        await tab.page.mouse.move(*place, steps=5)
    await tab.page.mouse.up()


async def sent(tab, scripted):
    """The request that the form makes now."""
    await tab.fill()
    await tab.page.click("#generate")
    await tab.until_said("stage-name", "Loading")
    return scripted.requests[-1]


def mask_of(request) -> Image.Image:
    mask = Image.open(io.BytesIO(request.mask_image))
    return mask.convert("L")


async def test_what_is_brushed_is_the_mask_that_is_sent(quick, scripted, tab):
    await tab.open(quick.url)
    data = picture()
    await choose(tab, data)
    await stroke(tab, (0.2, 0.5), (0.4, 0.5))
    await stroke(tab, (0.8, 0.2), (0.8, 0.8))
    await tab.page.click("#eraser")
    await stroke(tab, (0.35, 0.5), (0.45, 0.5))
    await tab.page.fill("#strength", "0.4")
    request = await sent(tab, scripted)
    assert request.init_image == data
    assert request.strength == 0.4
    assert (request.prompt, request.steps, request.model_id) == ("a lighthouse", 2, "demo")
    mask = mask_of(request)
    assert mask.size == SIZE
    points = [(44, 50), (160, 50), (78, 50), (100, 20), (44, 90)]
    assert [mask.getpixel(point) for point in points] == [WHITE, WHITE, BLACK, BLACK, BLACK]


async def test_undo_and_clear_take_back_exactly_what_was_painted(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    assert await tab.page.is_disabled("#undo")
    await stroke(tab, (0.2, 0.5), (0.4, 0.5))
    await stroke(tab, (0.3, 0.2), (0.3, 0.8))
    await tab.page.click("#undo")
    pixels = "document.getElementById('mask').getContext('2d').getImageData(0, 0, 200, 100).data"
    alphas = await tab.page.evaluate(f"[...{pixels}].filter((_, place) => place % 4 === 3)")
    left = Image.frombytes("L", SIZE, bytes(alphas))
    assert [left.getpixel(point) for point in ((60, 50), (60, 25))] == [WHITE, BLACK]
    await tab.page.click("#clear")
    assert await tab.page.is_disabled("#clear")
    assert (await sent(tab, scripted)).mask_image is None


async def test_a_mask_is_made_by_keyboard_alone(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    press = tab.page.keyboard.press
    await tab.page.focus("#rectangle")
    await press("Enter")
    assert await tab.page.evaluate("document.activeElement.id") == "mask"
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowDown"):
        await press(key)
    await tab.until_said("live", "From left 15 %, from top 20 %, 55 % wide, 55 % high")
    await press("Enter")
    assert "drawn anew" in await tab.page.get_attribute("#mask", "aria-label")
    mask = mask_of(await sent(tab, scripted))
    assert mask.getbbox() == (30, 20, 140, 75)


async def test_the_whole_picture_is_marked_and_a_rectangle_is_dropped(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.click("#rectangle")
    await tab.page.keyboard.press("Escape")
    assert await tab.page.is_disabled("#undo")
    await tab.page.click("#whole")
    mask = mask_of(await sent(tab, scripted))
    assert mask.getextrema() == (WHITE, WHITE)


async def test_a_rectangle_is_drawn_with_the_pointer(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.click("#rectangle")
    await stroke(tab, (0.75, 0.75), (0.25, 0.25))
    marked = mask_of(await sent(tab, scripted)).getbbox()
    assert marked == pytest.approx((50, 25, 150, 75), abs=2)


async def test_a_finger_paints(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    session = await tab.page.context.new_cdp_session(tab.page)
    box = await tab.page.locator("#mask").bounding_box()
    for kind, x in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
        points = [] if x is None else [{"x": box["x"] + x * box["width"], "y": box["y"] + box["height"] / 2}]
        await session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    mask = mask_of(await sent(tab, scripted))
    assert [mask.getpixel(point) for point in ((100, 50), (100, 10))] == [WHITE, BLACK]


async def test_a_large_picture_is_made_smaller_before_it_is_sent(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture((3000, 1500), "JPEG"), "large.jpg", "image/jpeg", width=2048)
    await tab.page.click("#whole")
    request = await sent(tab, scripted)
    assert Image.open(io.BytesIO(request.init_image)).size == (2048, 1024)
    assert mask_of(request).size == (2048, 1024)


async def test_a_click_with_the_brush_marks_a_dot(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.click("#mask")
    mask = mask_of(await sent(tab, scripted))
    assert [mask.getpixel(point) for point in ((100, 50), (80, 50))] == [WHITE, BLACK]


async def test_the_other_end_of_a_pen_erases(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.click("#whole")
    # Made up by hand, as no browser can be told to: capture is for pointers that there are.
    await tab.page.evaluate(
        """() => {
      const canvas = document.getElementById("mask");
      canvas.setPointerCapture = () => {};
      const { x, y, width, height } = canvas.getBoundingClientRect();
      const at = { pointerId: 7, pointerType: "pen", button: 5, buttons: 32,
        clientX: x + width / 2, clientY: y + height / 2 };
      canvas.dispatchEvent(new PointerEvent("pointerdown", { ...at, cancelable: true }));
      canvas.dispatchEvent(new PointerEvent("pointerup", { ...at, buttons: 0 }));
    }"""
    )
    mask = mask_of(await sent(tab, scripted))
    assert [mask.getpixel(point) for point in ((100, 50), (10, 10))] == [BLACK, WHITE]


@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_a_picture_comes_from_another_program(quick, scripted, tab, kind):
    await tab.open(quick.url)
    data = picture()
    assert await tab.page.evaluate(_GIVE, [kind, base64.b64encode(data).decode(), "image/png"])
    await tab.until("!starting.hidden && start.open")
    assert (await sent(tab, scripted)).init_image == data


async def test_what_is_no_picture_is_said_and_the_picture_can_be_removed(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.set_input_files(
        "#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    await tab.until_said("start-failure", "no picture that the browser can read")
    await tab.page.click("#remove-init")
    assert (await sent(tab, scripted)).init_image is None


# Pictures are read when they are told to, in any order.
_GATE = """() => {
  const read = window.createImageBitmap;
  window.gates = [];
  window.createImageBitmap = async (blob) => {
    await new Promise((open) => gates.push(open));
    return read(blob);
  };
}"""


async def offer(tab, data: bytes) -> None:
    """Choose a picture that is not read before its gate is opened."""
    known = await tab.page.evaluate("gates.length")
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": data}
    await tab.page.set_input_files("#file", file)
    await tab.until(f"gates.length > {known}")


async def test_the_picture_that_was_chosen_last_is_taken_though_another_was_read_later(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate(_GATE)
    late, last = picture((2400, 100)), picture((120, 80))
    await offer(tab, late)
    await offer(tab, last)
    await tab.page.evaluate("gates[1]()")
    await tab.until("init.naturalWidth === 120")
    await tab.page.evaluate("gates[0]()")
    await tab.page.click("#whole")
    request = await sent(tab, scripted)
    assert request.init_image == last
    assert mask_of(request).size == (120, 80)
    assert await tab.page.evaluate("init.naturalWidth") == 120


async def test_a_picture_that_was_given_up_while_it_was_read_does_not_come_back(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.evaluate(_GATE)
    await offer(tab, picture((300, 300)))
    await tab.page.click("#remove-init")
    await tab.page.evaluate("gates[0]()")
    assert (await sent(tab, scripted)).init_image is None
    assert await tab.page.is_hidden("#starting")


async def test_what_is_drawn_waits_for_the_picture_that_was_chosen(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate(_GATE)
    await offer(tab, picture((300, 300)))
    await tab.fill()
    await tab.page.click("#generate")
    await tab.until("generate.getAttribute('aria-busy')")
    await offer(tab, picture((304, 304)))
    await tab.page.evaluate("gates.forEach((open) => open())")
    await tab.until_said("stage-name", "Loading")
    assert Image.open(io.BytesIO(scripted.requests[-1].init_image)).size == (304, 304)


async def test_a_picture_that_was_given_up_is_not_waited_for(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate(_GATE)
    await offer(tab, picture())
    await tab.fill()
    await tab.page.click("#generate")
    await tab.until("generate.getAttribute('aria-busy')")
    await offer(tab, b"no picture")
    await tab.page.evaluate("gates[1]()")
    await tab.until_said("start-failure", "no picture that the browser can read")
    await tab.until("!generate.getAttribute('aria-busy')")
    await tab.page.evaluate("gates[0]()")
    await offer(tab, picture())
    await tab.page.click("#generate")
    await tab.until("generate.getAttribute('aria-busy')")
    assert not scripted.requests
    await tab.page.evaluate("start.querySelector('#remove-init').click()")
    await tab.until_said("stage-name", "Loading")
    assert scripted.requests[0].init_image is None


async def test_a_rectangle_that_is_dragged_goes_with_its_picture(quick, scripted, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    await tab.page.click("#rectangle")
    box = await tab.page.locator("#mask").bounding_box()
    await tab.page.mouse.move(box["x"] + 20, box["y"] + 20)
    await tab.page.mouse.down()
    await tab.page.mouse.move(box["x"] + 60, box["y"] + 40, steps=3)
    file = {"name": "other.png", "mimeType": "image/png", "buffer": picture((120, 60))}
    await tab.page.set_input_files("#file", file)
    await tab.until("init.naturalWidth === 120")
    await tab.page.mouse.up()
    assert (await sent(tab, scripted)).mask_image is None


async def test_what_is_drawn_is_the_form_as_it_was_sent(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate(_GATE)
    await offer(tab, picture((304, 304)))
    await tab.fill("a cat")
    await tab.page.click("#generate")
    await tab.until("generate.getAttribute('aria-busy')")
    await tab.page.fill("#prompt", "a dog")
    await tab.page.evaluate("gates[0]()")
    await tab.until_said("stage-name", "Loading")
    request = scripted.requests[-1]
    assert (request.prompt, request.strength) == ("a cat", 0.75)


async def test_nothing_is_drawn_where_the_chosen_picture_is_none(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate(_GATE)
    await offer(tab, b"no picture")
    await tab.fill()
    await tab.page.click("#generate")
    await tab.page.evaluate("gates[0]()")
    await tab.until_said("start-failure", "no picture that the browser can read")
    await tab.until("!generate.getAttribute('aria-busy')")
    assert not scripted.requests
    assert (await sent(tab, scripted)).init_image is None


# Text and a picture of it, as programs of offices give them.
_CELLS = """async (name) => {
  const data = new DataTransfer();
  data.items.add("text of a cell", "text/plain");
  const canvas = document.createElement("canvas");
  data.items.add(new File([await new Promise((done) => canvas.toBlob(done))], "image.png", { type: "image/png" }));
  const event = new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: data });
  document.getElementById(name).dispatchEvent(event);
  return event.defaultPrevented;
}"""


async def test_text_that_comes_with_a_picture_of_it_stays_text_where_one_types(quick, tab):
    await tab.open(quick.url)
    assert not await tab.page.evaluate(_CELLS, "prompt")
    await tab.page.evaluate("asking.showModal()")
    assert not await tab.page.evaluate(_CELLS, "token-form")
    await tab.page.evaluate("asking.close()")
    assert await tab.page.is_hidden("#starting")
    assert await tab.page.evaluate(_CELLS, "gallery-title")
    await tab.until("!starting.hidden")


async def test_two_fingers_zoom_and_paint_nothing(quick, scripted, tab):
    await tab.page.set_viewport_size({"width": 360, "height": 640})
    await tab.open(quick.url)
    await choose(tab, picture((100, 400)), width=100)
    boxes = """[...document.querySelectorAll("#init, #mask")].map((it) => {
      const { x, y, width, height } = it.getBoundingClientRect(); return [x, y, width, height]; })"""
    init, canvas = await tab.page.evaluate(boxes)
    assert init == canvas
    assert init[3] <= 0.6 * 640 + 1
    assert init[3] / init[2] == pytest.approx(4, abs=0.1)
    at = """([kind, id, x, y, type]) => document.getElementById("mask").dispatchEvent(new PointerEvent("pointer" + kind,
      { pointerId: id, pointerType: type ?? "touch", clientX: x, clientY: y, buttons: 1, cancelable: true }))"""
    # Made up by hand: capture is for pointers that there are.
    await tab.page.evaluate("document.getElementById('mask').setPointerCapture = () => {}")
    x, y = init[0] + init[2] / 2, init[1] + init[3] / 2

    async def move(*steps) -> bool:
        for kind, pointer, down, *name in steps:
            await tab.page.evaluate(at, [kind, pointer, x, y + down, *name])
        return await tab.page.is_disabled("#undo")

    assert await move(
        ("down", 1, 0), ("move", 1, 9), ("down", 2, 60), ("move", 2, 70), ("up", 2, 70), ("up", 1, 9)
    )
    assert await move(("down", 3, 0), ("move", 3, 9), ("cancel", 3, 9))
    # The hand that holds the pen does not count.
    pen = ("down", 4, 0, "pen"), ("down", 5, 90), ("move", 5, 99), ("move", 4, 9, "pen"), ("up", 4, 9, "pen")
    assert not await move(*pen)
    assert (
        await tab.page.evaluate("getComputedStyle(document.getElementById('mask')).touchAction")
        == "pinch-zoom"
    )


async def test_the_brush_is_seen_and_the_mask_says_what_it_is(quick, tab):
    await tab.open(quick.url)
    await choose(tab, picture())
    assert await tab.page.get_attribute("#mask", "role") == "application"
    assert await tab.page.get_attribute("#mask", "aria-roledescription")
    await tab.page.fill("#brush-size", "20")
    await tab.page.hover("#mask")
    ring, canvas = await tab.page.evaluate(
        "['ring', 'mask'].map((it) => document.getElementById(it).getBoundingClientRect().toJSON())"
    )
    assert ring["width"] == pytest.approx(0.2 * canvas["height"], abs=1)
    assert ring["x"] + ring["width"] / 2 == pytest.approx(canvas["x"] + canvas["width"] / 2, abs=1)
    await tab.page.hover("#prompt")
    assert await tab.page.is_hidden("#ring")
