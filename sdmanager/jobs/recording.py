"""Who keeps what is drawn for longer than the registry does."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from sdmanager.errors import SDManagerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdmanager.generation import Event, GenerationResult, ImageRequest

_log = logging.getLogger("sdmanager.jobs")


class Recorder(Protocol):
    """Told of every generation by the service that draws it, in this order, on its event loop.

    Nothing that it raises or fails at ends a generation.
    """

    def begin(self, generation_id: str, request: ImageRequest) -> None:
        """A generation begins to be drawn; must not block."""
        ...

    def take(self, event: Event) -> None:
        """Something happened to a generation that has begun, or to one that waits; must not block."""
        ...

    async def keep(self, generation_id: str, result: GenerationResult) -> None:
        """It has its pictures, which are files already; ``Completed`` is told once this returns."""
        ...


class Recording:
    """A recorder, or none, whose faults are logged and stay its own.

    Args:
        recorder: Told of everything; None: nobody is.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder

    def begin(self, generation_id: str, request: ImageRequest) -> None:
        """See ``Recorder``."""
        if self._recorder is not None:
            with _logged():
                self._recorder.begin(generation_id, request)

    def take(self, event: Event) -> None:
        """See ``Recorder``."""
        if self._recorder is not None:
            with _logged():
                self._recorder.take(event)

    async def keep(self, generation_id: str, result: GenerationResult) -> None:
        """See ``Recorder``."""
        if self._recorder is not None:
            with _logged():
                await self._recorder.keep(generation_id, result)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except SDManagerError as exc:
        _log.warning("what was drawn could not be kept: %s", exc.message)
    except Exception as exc:  # noqa: BLE001 - logged, and no reason to end a generation
        _log.error("what was drawn could not be kept", exc_info=exc)
