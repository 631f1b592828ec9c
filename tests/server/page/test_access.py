"""For everybody: by keyboard alone, by ear, on a phone, in the dark. In a real Chromium."""

from __future__ import annotations

import re

import pytest
from tab import everything_shown

pytestmark = pytest.mark.browser

CONTROLS = {
    "button", "textbox", "searchbox", "combobox", "spinbutton", "checkbox", "slider", "link", "progressbar", "image",
    "DisclosureTriangle", "dialog", "list",
}  # fmt: skip


async def names(tab) -> list[tuple[str, str]]:
    """Role and name of everything that a screen reader is told of."""
    session = await tab.page.context.new_cdp_session(tab.page)
    nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    return [
        (node.get("role", {}).get("value", ""), node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node["ignored"]
    ]


async def test_a_picture_is_drawn_and_looked_at_by_keyboard_alone(real, tab):
    await tab.open(real.url)
    press = tab.page.keyboard.press
    await press("Tab")
    await press("Enter")  # the link that skips what stands above the form
    assert await tab.page.evaluate("document.activeElement.id") == "prompt"
    await tab.page.keyboard.type("a lighthouse")
    for _ in range(12):
        await press("Tab")
        if await tab.page.evaluate("document.activeElement.id") == "size":
            break
    await tab.page.keyboard.type("Own")
    await press("Tab")
    for _ in range(2):
        await press("Control+A")
        await tab.page.keyboard.type("64")
        await press("Tab")
    await tab.page.keyboard.type("2")  # steps
    await press("Control+Enter")
    await tab.until_drawn()
    for _ in range(40):
        await press("Tab")
        if await tab.page.evaluate("document.activeElement.className") == "card":
            break
    await press("Enter")
    assert await tab.page.evaluate("viewer.open && document.activeElement.id") == "close"
    await press("Escape")
    assert await tab.page.evaluate("!viewer.open && document.activeElement.className") == "card"


async def test_every_control_has_a_name(queue, scripted, tab):
    await tab.open(queue.url)
    await everything_shown(tab, scripted)
    found = await names(tab)
    assert [role for role, name in found if role in CONTROLS - {"list"} and not name] == []
    assert {"banner", "main", "status", "alert"} <= {role for role, _ in found}
    assert next(name for role, name in found if role == "heading") == "sdmanager"
    await tab.page.click(".card")
    await tab.page.click("#delete")
    inside = await names(tab)
    assert ("dialog", "Remove this picture?") in inside
    assert [role for role, name in inside if role in CONTROLS - {"list"} and not name] == []


async def test_the_focus_is_always_seen(quick, scripted, tab):
    await tab.open(quick.url)
    await tab.page.evaluate("more.open = document.getElementById('start').open = true")
    seen = set()
    for _ in range(40):
        await tab.page.keyboard.press("Tab")
        name, shown = await tab.page.evaluate(
            """() => {
              const it = document.activeElement, frame = it.closest(".canvas-frame") ?? it;
              const box = it.getBoundingClientRect();
              const there = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
              return [it.id || it.tagName, there && parseFloat(getComputedStyle(frame).outlineWidth) >= 2];
            }"""
        )
        if name == "BODY":
            break
        assert shown, name
        seen.add(name)
    assert {
        "prompt",
        "generate",
        "model",
        "size",
        "seed",
        "random",
        "cfg",
        "sampler",
        "choose",
        "theme",
    } <= seen


@pytest.mark.parametrize("width", [360, 700, 1280])
async def test_nothing_is_wider_than_the_window(queue, scripted, tab, width):
    await tab.page.set_viewport_size({"width": width, "height": 740})
    await tab.open(queue.url)
    await everything_shown(tab, scripted)
    await tab.page.fill("#prompt", "x" * 300)
    wider = """() => [...document.querySelectorAll("body *")].filter((it) => it.checkVisibility() &&
      !it.closest(".unseen, svg") && it.getBoundingClientRect().right > innerWidth + 0.5)
      .map((it) => it.outerHTML.slice(0, 90))"""
    assert await tab.page.evaluate(wider) == []
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == width
    await tab.page.click(".card")
    assert await tab.page.evaluate(wider) == []


async def test_what_is_touched_is_large_enough(queue, scripted, tab):
    await tab.page.set_viewport_size({"width": 360, "height": 740})
    await tab.open(queue.url)
    await everything_shown(tab, scripted)
    small = """() => [...document.querySelectorAll("button, select, textarea, input")]
      .filter((it) => !["checkbox", "range"].includes(it.type))
      .filter((it) => it.checkVisibility() && it.getBoundingClientRect().height < 36).map((it) => it.id)"""
    assert await tab.page.evaluate(small) == []


async def ground(tab) -> int:
    """How bright the page is, 0 to 255."""
    said = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(re.findall(r"\d+", said)[0])


async def test_the_page_is_dark_where_the_system_is_and_as_the_user_says(quick, scripted, tab):
    await tab.open(quick.url)
    assert await ground(tab) > 200
    await tab.page.emulate_media(color_scheme="dark")
    assert await ground(tab) < 50
    await tab.page.select_option("#theme", "light")
    assert await ground(tab) > 200
    await tab.page.reload()
    assert await ground(tab) > 200
    assert await tab.page.input_value("#theme") == "light"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_can_be_read(queue, scripted, tab, scheme):
    """A contrast of 4.5 to 1 for each piece of text (WCAG 2.2, AA), against the ground that is behind it."""
    await tab.page.emulate_media(color_scheme=scheme)
    await tab.open(queue.url)
    await everything_shown(tab, scripted)
    found = await tab.page.evaluate(
        """() => {
          const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          const rgba = (colour) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          };
          const light = (colour) => {
            const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            const [r, g, b] = colour.map((v) => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (it) => {
            for (; it; it = it.parentElement) {
              const found = rgba(getComputedStyle(it).backgroundColor);
              if (found[3] === 255) return found;
            }
            return [255, 255, 255, 255];
          };
          const says = (it) => [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
          const texts = [...document.querySelectorAll("body *")].filter((it) => it.checkVisibility() && !it.disabled
            && !it.closest(".unseen, svg, option") && says(it));
          return texts.map((it) => {
            const [a, b] = [light(rgba(getComputedStyle(it).color)), light(behind(it))].sort((x, y) => y - x);
            return [(a + 0.05) / (b + 0.05), it.textContent.trim().slice(0, 30)];
          });
        }"""
    )
    assert len(found) > 40
    assert [text for contrast, text in found if contrast < 4.5] == []


async def test_nothing_moves_for_who_wants_no_motion(quick, scripted, tab):
    await tab.page.emulate_media(reduced_motion="reduce")
    await tab.open(quick.url)
    await tab.draw()
    scripted.finish()
    await tab.until_drawn()
    assert (
        await tab.page.evaluate("getComputedStyle(document.querySelector('.card img')).transitionDuration")
        == "0s"
    )


async def test_what_is_pressed_is_seen_where_the_system_chooses_the_colours(quick, scripted, tab):
    await tab.page.emulate_media(forced_colors="active")
    await tab.open(quick.url)
    width = "getComputedStyle(random).borderTopWidth"
    assert await tab.page.get_attribute("#random", "aria-pressed") == "true"
    assert await tab.page.evaluate(width) == "3px"
    await tab.page.fill("#seed", "7")
    assert await tab.page.evaluate(width) == "1px"
