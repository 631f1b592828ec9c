"""AUTOMATIC1111's API, for clients that speak it."""

from __future__ import annotations

from .routes import add_a1111_routes as add_a1111_routes

__all__ = ("add_a1111_routes",)
