"""The page at ``/``: one document that asks nobody but this server."""

from __future__ import annotations

from .routes import add_page_route as add_page_route

__all__ = ("add_page_route",)
