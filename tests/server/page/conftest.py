"""A tab of a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from tab import tab as open_tab


@pytest.fixture
async def tab(tmp_path: Path):
    """An empty tab, which must have done nothing that a page should not."""
    async with open_tab(tmp_path / "browser") as opened:
        yield opened
