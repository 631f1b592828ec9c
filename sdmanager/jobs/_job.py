from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from sdmanager.errors import SDManagerError

from .feed import Feed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.generation import Event, EventCallback, GenerationResult, ImageRequest


class Job:
    """One generation that has not ended."""

    def __init__(self, generation_id: str, request: ImageRequest, on_event: EventCallback | None) -> None:
        self.id = generation_id
        self.request = request
        self.on_event = on_event
        self.feed = Feed()
        self.began = time.monotonic()
        self.sequence = 0
        self.position: int | None = None
        self.drawing: asyncio.Task[GenerationResult] | None = None
        self.result: GenerationResult | None = None
        self.whole: Event | None = None
        self.saving = False
        self.cancelled = False
        self.ended: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()
        # Often nobody asks how it ended; the registry knows.
        self.ended.add_done_callback(lambda future: future.cancelled() or future.exception())

    def stamp(self) -> dict[str, Any]:
        """What the next event carries, whoever it comes from."""
        self.sequence += 1
        elapsed = time.monotonic() - self.began
        return {"generation_id": self.id, "sequence": self.sequence - 1, "elapsed": elapsed}


class Telling:
    """A caller's callback: what it raises ends its generation, and is kept for the caller.

    Args:
        on_event: Called with each event, until it raises.
        abort: Called with the id of the generation, soon after.
    """

    def __init__(self, on_event: EventCallback | None, abort: Callable[[str], None]) -> None:
        self._on_event = on_event
        self._abort = abort
        self.raised: BaseException | None = None

    def __call__(self, event: Event) -> None:
        """Call back, unless that has raised before."""
        if self._on_event is None or self.raised is not None:
            return
        try:
            self._on_event(event)
        except BaseException as exc:  # noqa: BLE001 - raised again from the caller's own call
            self.raised = exc
            # Not at once: whoever tells this may be in the middle of telling others.
            asyncio.get_running_loop().call_soon(self._abort, event.generation_id)


def unexpected(generation_id: str, error: Exception) -> SDManagerError:
    """What is told of an error that is none of ours: its own words may hold a path or a prompt."""
    logging.getLogger("sdmanager.jobs").error(
        "generation %s ended with an unexpected error", generation_id, exc_info=error
    )
    return SDManagerError(f"The generation ended with an unexpected error ({type(error).__name__}).")
