"""``Client``: a server of another process, from Python. Imports requests."""

from __future__ import annotations

from .client import Client as Client

__all__ = ("Client",)
