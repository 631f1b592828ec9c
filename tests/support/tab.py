"""A tab of a real Chromium with the page of a server in it, and everything in it that no page should do."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chromium import chromium
from playwright.async_api import Page
from scripted_generator import ScriptedGenerator, preview, progress, result_of

WAIT = 60.0  # only where hanging is the failure
WHOLE = "picture.naturalWidth > 0 && !picture.classList.contains('forming') && !picture.hidden"

# What the picture and the words about it have been, from now on.
_WATCH = """() => {
  window.seen = { pictures: new Set(), texts: new Set(), stages: new Set(), spoken: [] };
  const look = () => {
    const picture = document.getElementById("picture");
    if (picture.src) seen.pictures.add(picture.src);
    seen.texts.add(document.getElementById("detail").textContent);
    seen.stages.add(document.getElementById("stage-name").textContent);
  };
  const all = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(look).observe(document.body, all);
  new MutationObserver(() => seen.spoken.push(document.getElementById("live").textContent))
    .observe(document.getElementById("live"), { childList: true });
}"""


@dataclass
class Tab:
    """A page and what it has done.

    Attributes:
        page: Of Playwright.
        complaints: Errors in its console, and what it threw; an answer that was an error is none.
        asked: Method and address of each request.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append((request.method, request.url)))

    def _hear(self, message) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    async def open(self, url: str) -> None:
        """Load the page, until what the server has to say is in it."""
        await self.page.goto(url)
        await self.ready()

    async def ready(self) -> None:
        await self.until("document.querySelectorAll('#model option').length > 0")
        await self.page.evaluate(_WATCH)

    async def until(self, expression: str) -> None:
        """Wait until something holds. The page's policy forbids what Playwright's own way of waiting does."""
        async with asyncio.timeout(WAIT):
            while not await self.page.evaluate(f"!!({expression})"):
                await asyncio.sleep(0.02)

    async def text(self, name: str) -> str:
        """What an element says; empty where it is hidden."""
        shown = "name => (it => it.checkVisibility() ? it.textContent : '')(document.getElementById(name))"
        return await self.page.evaluate(shown, name)

    async def until_said(self, name: str, *words: str) -> str:
        """Wait until an element says all of these."""
        async with asyncio.timeout(WAIT):
            while True:
                said = await self.text(name)
                if all(word in said for word in words):
                    return said
                await asyncio.sleep(0.02)

    async def fill(
        self, prompt: str = "a lighthouse", *, size: int | None = 64, steps: int | None = 2
    ) -> None:
        """Fill in the form."""
        await self.page.fill("#prompt", prompt)
        if size is not None:
            await self.page.select_option("#size", "own")
            await self.page.fill("#width", str(size))
            await self.page.fill("#height", str(size))
        if steps is not None:
            await self.page.fill("#steps", str(steps))

    async def draw(self, prompt: str = "a lighthouse", **fields: Any) -> None:
        """Fill in the form and send it."""
        await self.fill(prompt, **fields)
        await self.page.click("#generate")

    async def until_drawn(self, cards: int = 1) -> None:
        """Wait until the picture is whole, and so many are in the gallery."""
        await self.until(WHOLE)
        await self.until_drawn_in_gallery(cards)

    async def until_drawn_in_gallery(self, cards: int) -> None:
        """Wait until the gallery shows so many whole pictures."""
        whole = "each.naturalWidth > 0 && !each.classList.contains('forming')"
        found = f"[...document.querySelectorAll('.card img')].map(each => {whole})"
        await self.until(f"{found}.filter(Boolean).length === {cards}")

    async def turn_away(self) -> None:
        """Somebody looks at another tab: the page does not look around by itself."""
        await self.page.evaluate("document.__defineGetter__('visibilityState', () => 'hidden')")

    async def turn_to(self) -> None:
        """Somebody looks at it again, and it looks around."""
        await self.page.evaluate("delete document.visibilityState; window.dispatchEvent(new Event('focus'))")

    async def seen(self, what: str) -> list[str]:
        return await self.page.evaluate(f"[...seen.{what}]")

    @property
    def strangers(self) -> set[str]:
        """Addresses outside of the page's own server that were asked."""
        own = urlsplit(self.page.url).netloc
        asked = {url for _, url in self.asked if urlsplit(url).scheme in {"http", "https", "ws", "wss"}}
        return {url for url in asked if urlsplit(url).netloc != own}


@contextlib.asynccontextmanager
async def tab(folder: Path):
    """An empty tab; at its end, nothing may have been complained of, and nobody else asked."""
    async with chromium(folder) as page:
        opened = Tab(page)
        opened.listen()
        yield opened
        assert opened.complaints == []
        assert opened.strangers == set()


async def everything_shown(tab: Tab, scripted: ScriptedGenerator) -> None:
    """Have the page of a server with a queue show all that it can: pictures, what is drawn, what waits, an error."""
    await tab.page.evaluate("more.open = true")
    await tab.draw("a fox")
    scripted.finish(result_of(1, 5))
    await tab.until_drawn()
    await tab.page.click(".card")
    await tab.page.click("#as-init")
    await tab.until("!starting.hidden")
    for words in ("second", "third"):
        await tab.draw(words)
        await tab.until("!document.querySelector('#generate[aria-busy]')")
    await tab.until("!progress.hidden && !waiting.hidden")
    scripted.tell(progress(1), preview(1))
    await tab.until_said("detail", "step 1")
    await tab.page.evaluate("form.noValidate = true")
    await tab.draw(size=65)
    await tab.until("!failure.hidden")


@contextlib.asynccontextmanager
async def held(tab, path: str, method: str = "GET"):
    """Answers that were given already, and are not let through before ``go`` is set."""
    there, go = asyncio.Event(), asyncio.Event()

    async def hold(route):
        if route.request.method != method:
            await route.continue_()
            return
        answer = await route.fetch()
        there.set()
        await go.wait()
        await route.fulfill(response=answer)

    await tab.page.route(re.compile(path), hold)
    try:
        yield there, go
    finally:
        go.set()
        await tab.page.unroute_all(behavior="wait")
