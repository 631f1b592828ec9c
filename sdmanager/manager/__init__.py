"""Wires engine, registry and HTTP server together: what an application starts and stops."""

from __future__ import annotations

from .manager import DiffusionServerManager as DiffusionServerManager
from .manager import What as What
from .options import StartFields as StartFields
from .states import ServerState as ServerState

__all__ = ("DiffusionServerManager", "ServerState", "StartFields", "What")
