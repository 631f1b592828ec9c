"""OpenAI's Images API, for clients that speak it."""

from __future__ import annotations

from .order import speaks_openai as speaks_openai
from .routes import OPENAI as OPENAI
from .routes import add_openai_routes as add_openai_routes
from .routes import generate as generate

__all__ = ("OPENAI", "add_openai_routes", "generate", "speaks_openai")
