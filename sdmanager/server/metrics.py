"""What a server counts, for ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    from sdmanager.generation import Event


class Metrics:
    """Counts what happens to generations."""

    def take(self, event: Event) -> None:
        """Count an event of a generation."""


def add_metrics_route(app: web.Application) -> None:
    """Add ``GET /metrics``."""
