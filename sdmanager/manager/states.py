"""Where in its life a manager is, and what may follow what."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class ServerState(StrEnum):
    """Where in its life a manager is."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    CRASHED = "crashed"


NEXT_STATES: Final[Mapping[ServerState, frozenset[ServerState]]] = MappingProxyType(
    {
        ServerState.STOPPED: frozenset({ServerState.STARTING}),
        ServerState.STARTING: frozenset({ServerState.RUNNING, ServerState.STOPPING, ServerState.CRASHED}),
        ServerState.RUNNING: frozenset({ServerState.STOPPING, ServerState.CRASHED}),
        ServerState.STOPPING: frozenset({ServerState.STOPPED}),
        ServerState.CRASHED: frozenset({ServerState.STARTING, ServerState.STOPPING}),
    }
)
