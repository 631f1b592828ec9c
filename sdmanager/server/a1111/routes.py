"""The routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web


def add_a1111_routes(app: web.Application) -> None:
    """Add the routes; the application holds a ``Face`` under ``FACE``."""
