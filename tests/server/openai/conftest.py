"""The SDK in front of the servers of tests/server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from openai_sdk import Counted, sdk
from serving import Served


@pytest.fixture
async def client(real: Served) -> AsyncIterator[Counted]:
    """The SDK with a server over the real engine."""
    async with sdk(real) as client:
        yield client


@pytest.fixture
async def scripted_client(quick: Served) -> AsyncIterator[Counted]:
    """The SDK with a server that draws when the test says so."""
    async with sdk(quick) as client:
        yield client
