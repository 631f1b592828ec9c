"""Asking a llama-server how it is and what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

_LIMIT_SECONDS: Final = 5.0
_BODY_LIMIT: Final = 1 << 20
_MODELS_MAX: Final = 100
_LOADING_STATUS: Final = 503
_OK_STATUS: Final = 200


class Health(StrEnum):
    """What ``GET /health`` says.

    Attributes:
        OK: The model is loaded.
        LOADING: It will be, or is being.
        STRANGE: An answer that no llama-server gives.
        SILENT: None.
    """

    OK = "ok"
    LOADING = "loading"
    STRANGE = "strange"
    SILENT = "silent"


class Asker:
    """Asks one server; ``asking`` makes it."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def health(self) -> Health:
        """How it is."""
        answer = await self._get("/health")
        if answer is None:
            return Health.SILENT
        status, body = answer
        if status == _OK_STATUS and isinstance(body, dict) and body.get("status") == "ok":
            return Health.OK
        if status == _LOADING_STATUS and isinstance(body, dict):
            return Health.LOADING
        return Health.STRANGE

    async def models(self) -> tuple[str, ...] | None:
        """The ids of what it serves, a hundred at most; None: it does not say."""
        answer = await self._get("/v1/models")
        if answer is None or answer[0] != _OK_STATUS or not isinstance(answer[1], dict):
            return None
        listed = answer[1].get("data")
        if not isinstance(listed, list):
            return None
        ids = [entry.get("id") for entry in listed[:_MODELS_MAX] if isinstance(entry, dict)]
        return tuple(name for name in ids if isinstance(name, str))

    async def _get(self, path: str) -> tuple[int, object] | None:
        import aiohttp

        try:
            async with self._session.get(self._base + path, allow_redirects=False) as response:
                body = await response.content.read(_BODY_LIMIT)
                while len(body) < _BODY_LIMIT and (more := await response.content.read(_BODY_LIMIT)):
                    body += more
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        try:
            return response.status, json.loads(body)
        except (ValueError, RecursionError):
            return response.status, None


@contextlib.asynccontextmanager
async def asking(base: str, key: str | None = None, *, seconds: float | None = None) -> AsyncIterator[Asker]:
    """Ask the server at this URL.

    Args:
        base: Without a slash at its end.
        key: What it wants to be shown.
        seconds: How long an answer may take; None: five.
    """
    import aiohttp

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limit = aiohttp.ClientTimeout(total=seconds or _LIMIT_SECONDS)
    # No proxy of the environment's stands between two programs of one machine.
    async with aiohttp.ClientSession(timeout=limit, headers=headers, trust_env=False) as session:
        yield Asker(session, base)


async def wait_until_ok(base: str, *, first: float = 0.02, then: float = 0.05) -> None:
    """Ask until it is well.

    Args:
        base: Without a slash at its end.
        first: Seconds between the first fifty questions.
        then: And between those that follow.
    """
    asked = 0
    async with asking(base) as asker:
        while await asker.health() is not Health.OK:
            asked += 1
            await asyncio.sleep(first if asked <= 50 else then)
