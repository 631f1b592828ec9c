"""What one generation tells: events that are numbered through, however often the engine has to start for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from sdmanager.errors import SDManagerError
from sdmanager.generation import Cancelled, Failed, Progress, Stage, StageChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdmanager.generation import Event, EventCallback

    from .progress import Snapshot


class Emitter:
    """The events of one generation, from its task alone.

    Args:
        on_event: Called with each; None: nobody listens.
        generation_id: Which generation.

    Attributes:
        began: When it did, by ``time.monotonic``.
        callback_error: What the callback raised; nothing is told after it.
    """

    def __init__(self, on_event: EventCallback | None, generation_id: str) -> None:
        self._on_event = on_event
        self._generation_id = generation_id
        self.began = time.monotonic()
        self.callback_error: BaseException | None = None
        self._task = asyncio.current_task()
        self._sequence = 0
        self._stage: Stage | None = None
        self._percentage = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the generation began."""
        return time.monotonic() - self.began

    def emit(self, kind: Callable[..., Event], **fields: Any) -> None:
        """Tell one event; what the callback raises is raised from here."""
        if self._on_event is not None and self.callback_error is None:
            event = kind(
                generation_id=self._generation_id, sequence=self._sequence, elapsed=self.elapsed, **fields
            )
            self._sequence += 1
            try:
                self._on_event(event)
            except BaseException as exc:
                self.callback_error = exc
                raise

    def emit_aside(self, kind: Callable[..., Event], **fields: Any) -> None:
        """The same from another task: what the callback raises ends the generation's own."""
        try:
            self.emit(kind, **fields)
        except Exception:  # noqa: BLE001 - kept by emit() and raised by the generation
            if self._task is not None:
                self._task.cancel()

    def enter(self, stage: Stage) -> None:
        """Tell the stage, where it is another one."""
        if stage is not self._stage:
            self._stage = stage
            self.emit(StageChanged, stage=stage)

    def progress(self, snapshot: Snapshot) -> None:
        """Tell how far a run is. An engine that starts once more begins anew, but the percentage does not fall."""
        self._percentage = max(self._percentage, snapshot.percentage)
        self.enter(snapshot.stage)
        self.emit(
            Progress,
            stage=snapshot.stage,
            step=snapshot.step,
            total_steps=snapshot.total_steps,
            percentage=self._percentage,
            image=snapshot.image,
            total_images=snapshot.total_images,
            seconds_per_step=snapshot.seconds_per_step,
            eta_seconds=snapshot.eta_seconds,
        )

    def making_room(self, total_images: int) -> None:
        """Tell that others are being put aside."""
        self.enter(Stage.OFFLOADING)
        self.emit(
            Progress, stage=Stage.OFFLOADING, step=0, total_steps=0, percentage=self._percentage, image=1,
            total_images=total_images, seconds_per_step=None, eta_seconds=None,
        )  # fmt: skip

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Tell of a block that does not end well how it ended.

        An error of the callback, which cancels the task from the side, takes the place of the cancellation.
        """
        try:
            yield
        except asyncio.CancelledError:
            self._raise_callback_error()
            with contextlib.suppress(Exception):  # nothing may stand in the place of the cancellation
                self.emit(Cancelled)
            raise
        except SDManagerError as exc:
            if exc is not self.callback_error:
                self.emit(Failed, error=exc)
            raise

    def _raise_callback_error(self) -> None:
        if self.callback_error is not None:
            if self._task is not None:
                self._task.uncancel()
            raise self.callback_error
