"""Opens the server's page in the user's browser."""

from __future__ import annotations

import os
import threading
from urllib.parse import quote

from .output import note


def open_page(url: str, token: str | None) -> None:
    """Open the page of a server, and say so where that cannot be done; returns at once.

    Args:
        url: Of the server.
        token: What the page must show, or None. It goes behind ``#``, which browsers send to nobody.
    """
    # A thread that ends with the process: some browsers are waited for until they are closed.
    threading.Thread(target=_open, args=(url, token), name="sdmanager_browser", daemon=True).start()


def _open(url: str, token: str | None) -> None:
    import webbrowser

    page = f"{url}/" if token is None else f"{url}/#token={quote(token, safe='')}"
    try:
        browser = webbrowser.get()
        # One in the terminal would take it from the server; who names it in BROWSER wants that.
        found = type(browser) is not webbrowser.GenericBrowser or bool(os.environ.get("BROWSER"))
        opened = found and browser.open(page)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        note(f"sdmanager: no browser could be opened. The page is at {url}/")
