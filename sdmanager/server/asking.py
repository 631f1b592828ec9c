"""Asking a server whether it is there."""

from __future__ import annotations

import aiohttp

_LIMIT_SECONDS = 5.0


async def answers(url: str, token: str | None = None) -> bool:
    """Whether the server at this URL says that it is well.

    Args:
        url: As ``HttpServer.url``.
        token: What it wants to be shown.
    """
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    # No proxy of the environment's stands between this process and itself.
    async with aiohttp.ClientSession(trust_env=False) as session:
        try:
            async with session.get(
                f"{url}/health", headers=headers, timeout=aiohttp.ClientTimeout(total=_LIMIT_SECONDS)
            ) as response:
                body = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return response.ok and isinstance(body, dict) and body.get("status") == "ok"
