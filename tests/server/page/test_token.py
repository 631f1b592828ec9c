"""A server that asks for a token, and the page of it in a real Chromium."""

from __future__ import annotations

import pytest
from scripted_generator import preview, progress
from serving import serving

pytestmark = pytest.mark.browser

TOKEN = "s3cret&+/%"


@pytest.fixture
async def locked(scripted, home):
    """A server that lets in who shows the token."""
    async with serving(scripted, home.generations_dir, policy={"token": TOKEN}) as served:
        yield served


async def kept(tab) -> list:
    """What this tab and what the browser keeps; and what the address says."""
    known = "JSON.stringify({...localStorage}).includes('s3cret')"
    return await tab.page.evaluate(f"[sessionStorage.getItem('sdmanager.token'), {known}, location.href]")


async def watched_drawing(tab, scripted) -> None:
    """Draw, and see it form: the stream, and the picture, need the token, too."""
    await tab.draw()
    scripted.tell(progress(1), preview(1))
    await tab.until("picture.src.startsWith('data:')")
    scripted.finish()
    await tab.until_drawn()


async def test_the_page_asks_for_the_token_and_keeps_it_for_its_tab_alone(locked, scripted, tab):
    await tab.page.goto(locked.url)
    await tab.until("asking.open")
    assert await tab.page.evaluate("document.activeElement.id") == "token"
    await tab.page.keyboard.type("wrong")
    await tab.page.keyboard.press("Enter")
    await tab.until_said("token-wrong", "That was not the token.")
    # No header can carry this one: it is not tried, and not taken for a server that is away.
    await tab.page.evaluate("document.getElementById('token-wrong').hidden = true")
    await tab.page.keyboard.type("sécret—x")
    await tab.page.keyboard.press("Enter")
    await tab.until_said("token-wrong", "That was not the token.")
    assert await tab.text("banner") == ""
    await tab.page.keyboard.type(TOKEN)
    await tab.page.keyboard.press("Enter")
    await tab.ready()
    assert not await tab.page.evaluate("asking.open")
    assert await kept(tab) == [f'"{TOKEN}"', False, f"{locked.url}/"]
    await watched_drawing(tab, scripted)
    await tab.page.reload()
    await tab.ready()
    other = await tab.page.context.new_page()
    await other.goto(locked.url)
    await other.locator("#asking[open]").wait_for()


async def test_a_token_in_the_address_is_used_and_taken_out_at_once(locked, scripted, tab):
    opened = f"{locked.url}/#token=s3cret%26%2B%2F%25"
    await tab.open(opened)
    assert await kept(tab) == [f'"{TOKEN}"', False, f"{locked.url}/"]
    assert not await tab.page.evaluate("asking.open")
    await watched_drawing(tab, scripted)
    # The token is in headers, and in addresses only of what can send none.
    with_token = {url.partition("?")[0] for _, url in tab.asked if "token=" in url.partition("#")[0]}
    assert {each.rpartition("/")[2] for each in with_token} == {"events", "0"}


async def test_a_token_that_is_pasted_into_an_open_page_is_used(locked, scripted, tab):
    await tab.page.goto(locked.url)
    await tab.until("asking.open")
    await tab.page.evaluate("location.hash = 'token=s3cret%26%2B%2F%25'")
    await tab.until("document.querySelectorAll('#model option').length > 0")
    assert await kept(tab) == [f'"{TOKEN}"', False, f"{locked.url}/"]
