"""A tab of a real browser, and a server with a gallery for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import serving
from tab import tab as open_tab

from sdmanager.history import History


@pytest.fixture
async def tab(tmp_path: Path):
    """An empty tab, which must have done nothing that a page should not."""
    async with open_tab(tmp_path / "browser") as opened:
        yield opened


@pytest.fixture
async def kept(scripted, home, tmp_path):
    """A server with a gallery, over a generator that does as told."""
    history = History(tmp_path / "gallery")
    await history.open()
    try:
        async with serving(
            scripted, home.generations_dir, queue_size=2, history=history, info={"gallery": True}
        ) as served:
            yield served
    finally:
        await history.aclose()
