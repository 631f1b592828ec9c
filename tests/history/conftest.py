"""Galleries in folders of the test's own."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sdmanager.history import History


@pytest.fixture
async def opened():
    """Opens galleries, and closes them: ``await opened(folder, wall=…)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(folder: Path, **options) -> History:
            history = History(folder, **options)
            stack.push_async_callback(history.aclose)
            await history.open()
            return history

        yield open_one


@pytest.fixture
async def history(tmp_path: Path, opened) -> History:
    """An empty gallery."""
    return await opened(tmp_path / "gallery")
