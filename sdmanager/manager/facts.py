"""What is said about a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdmanager.server import AsideInfo, EngineInfo, ErrorInfo, ServerInfo
from sdmanager.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.errors import SDManagerError
    from sdmanager.resources import SavedState

    from .options import StartOptions
    from .parts import Parts
    from .states import ServerState


def facts_of(
    state: ServerState,
    options: StartOptions | None,
    running: Parts | None,
    error: SDManagerError | None,
    aside: Sequence[SavedState],
) -> ServerInfo:
    """What there is to know now; of what does not run, little.

    Args:
        state: Of the manager.
        options: Of the last start, or None.
        running: The parts of a running server, or None.
        error: What it crashed with, or None.
        aside: What was put aside and is not back.
    """
    binary = running.generator.binary if running else None
    model = running.generator.model if running else None
    return ServerInfo(
        version=__version__,
        status=state.value,
        model=model.name if model else None,
        engine=EngineInfo(variant=binary.variant, version=binary.version) if binary else None,
        url=running.http.url if running else None,
        host=options.host if options else None,
        port=running.http.port if running else None,
        pid=os.getpid(),
        started_at=running.started_at if running else None,
        busy=running.service.busy if running else False,
        waiting=running.service.waiting if running else 0,
        queue_size=running.service.queue_size if running else 0,
        samplers=binary.capabilities.samplers if binary else (),
        schedulers=binary.capabilities.schedulers if binary else (),
        preview_methods=binary.capabilities.preview_methods if binary else (),
        gallery=running is not None and running.options.gallery is not None,
        aside=tuple(_aside(each) for each in aside),
        error=ErrorInfo(message=error.message, code=error.code, suggestion=error.hint) if error else None,
    )


def _aside(state: SavedState) -> AsideInfo:
    return AsideInfo(
        name=state.name,
        what=state.what,
        since=int(state.since * 1000),
        attempts=state.attempts,
        retry_at=None if state.retry_at is None else int(state.retry_at * 1000),
        error=state.error,
    )
