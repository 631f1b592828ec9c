"""OpenAI's Images API, for clients that speak it."""

from __future__ import annotations

from .routes import add_openai_routes as add_openai_routes

__all__ = ("add_openai_routes",)
