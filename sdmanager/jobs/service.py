"""One generation after the other: who is drawing, who waits, and what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import (
    AlreadyTerminalError,
    GenerationCancelledError,
    GenerationNotFoundError,
    IdempotencyKeyError,
    SDManagerError,
    ServerBusyError,
    ServerNotRunningError,
)
from sdmanager.generation import (
    Cancelled,
    Completed,
    Failed,
    Preview,
    Progress,
    Queued,
    Replanned,
    RunningTasks,
    StageChanged,
)
from sdmanager.threads import in_thread, outlast

from ._job import Job, Telling, unexpected
from .derived import entered, fingerprint, last_event, nothing_yet, retry_after
from .feed import Feed
from .recording import Recording
from .states import Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from sdmanager.generation import Event, EventCallback, GenerationResult, ImageGenerator, ImageRequest

    from .recording import Recorder
    from .registry import GenerationRegistry
    from .snapshots import Generation

_log = logging.getLogger("sdmanager.jobs")
_HUB_CAPACITY: Final = 1024


class GenerationService:
    """Takes requests, has them drawn one at a time, and writes down what becomes of them.

    All methods belong to the event loop that first uses them.

    Args:
        generator: Who draws.
        registry: Where generations and their results are kept; opened and destroyed by its owner.
        queue_size: How many may wait while one is drawn; with 0 a busy service refuses at once.
        complete: Gives a request, as it is accepted, what it leaves open; must not block or raise.
        on_event: Called with every event of every generation; must not raise.
        recorder: Keeps what is drawn for longer than the registry does.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        registry: GenerationRegistry,
        *,
        queue_size: int = 0,
        complete: Callable[[ImageRequest], ImageRequest] = lambda request: request,
        on_event: EventCallback | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._generator = generator
        self.registry = registry
        self.queue_size = queue_size
        self._complete = complete
        self._on_event = on_event
        self._recording = Recording(recorder)
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._reservation = RunningTasks()
        self._supervisors: set[asyncio.Task[None]] = set()
        self._open = True
        self.hub = Feed(_HUB_CAPACITY)

    @property
    def current(self) -> str | None:
        """Id of the generation that is being drawn, or None."""
        return self._current.id if self._current is not None else None

    @property
    def busy(self) -> bool:
        """Whether one is being drawn, or the place is reserved."""
        return self._current is not None or bool(self._reservation)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def submit(self, request: ImageRequest, *, key: str | None = None) -> Generation:
        """Take a request: it is written down, and the place is taken, before anything is awaited.

        Args:
            request: What to draw.
            key: An idempotency key: the same key with the same request gives the same generation.

        Raises:
            IdempotencyKeyError: The key was used with another request.
            ServerBusyError: There is no place; ``details["retry_after"]`` says in how many seconds to ask again.
            ServerNotRunningError: The service is closed.
            StorageError: It cannot be written down.
        """
        digest = fingerprint(request) if key is not None else None
        known = self.registry.find_key(key) if key is not None else None
        if known is None:
            return self.get(self._admit(request, key, digest, None).id)
        if known.fingerprint != digest:
            raise IdempotencyKeyError("This idempotency key was used with another request.")
        return known

    def refuse_if_full(self, key: str | None = None) -> None:
        """Raise what ``submit`` would raise for want of a place, before work is spent on reading a request.

        Args:
            key: The idempotency key of the request; one that is known needs no place.

        Raises:
            ServerBusyError: There is no place.
            ServerNotRunningError: The service is closed.
        """
        if key is not None and self.registry.find_key(key) is not None:
            return
        if not self._open:
            raise ServerNotRunningError("The server is stopping and takes no more requests.")
        if self.busy and len(self._waiting) >= self.queue_size:
            what = "The queue is full" if self.queue_size else "Another generation is being drawn"
            drawn = self.registry.get(self._current.id) if self._current is not None else None
            raise ServerBusyError(f"{what}.", details={"retry_after": retry_after(drawn)})

    async def draw(self, request: ImageRequest, on_event: EventCallback | None = None) -> GenerationResult:
        """Submit a request and wait for its pictures; cancelling the task cancels the generation.

        Args:
            request: What to draw.
            on_event: Called with each event; what it raises cancels the generation and is raised from here.

        Raises:
            GenerationCancelledError: Somebody else cancelled it.
            SDManagerError: As ``submit``, or what the generation failed with.
        """
        telling = Telling(on_event, lambda name: self._begin_abort(self._jobs.get(name)))
        job = self._admit(request, None, None, telling)
        try:
            await asyncio.wait([job.ended])
        except asyncio.CancelledError:
            self._begin_abort(job)
            await outlast(job.ended)
            raise
        if telling.raised is not None:
            raise telling.raised
        return job.ended.result()

    def _admit(
        self,
        request: ImageRequest,
        key: str | None,
        digest: str | None,
        on_event: EventCallback | None,
    ) -> Job:
        self.refuse_if_full()
        generation = self.registry.create(key=key, fingerprint=digest)
        job = Job(generation.id, self._complete(request), on_event)
        self._jobs[job.id] = job
        self._waiting.append(job)
        if self.busy:
            self._tell_positions()
        else:
            self._start_next()
        return job

    @contextlib.asynccontextmanager
    async def reserved(self) -> AsyncIterator[None]:
        """The place, for other work of the current task than a generation; requests wait or are refused meanwhile.

        Closing the service cancels that task, and waits until it has left the block.

        Raises:
            ServerBusyError: There is no place.
            ServerNotRunningError: The service is closed.
        """
        self.refuse_if_full()
        if self.busy:
            raise ServerBusyError("Another generation is being drawn.")
        try:
            with self._reservation.current():
                yield
        finally:
            if self._open and self._current is None:
                self._start_next()

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel a generation; returns once its engine is dead and its files are gone. Idempotent.

        Raises:
            GenerationNotFoundError: There is none with this id.
            AlreadyTerminalError: It has ended, with its pictures or an error.
        """
        job = self._jobs.get(generation_id)
        if job is not None:
            await asyncio.shield(self._abort(job))
        generation = self.get(generation_id)
        if generation.status is not Status.CANCELLED:
            raise AlreadyTerminalError(
                "The generation has ended already.", details={"status": generation.status.value}
            )
        return generation

    def get(self, generation_id: str) -> Generation:
        """How a generation stands.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
        """
        generation = self.registry.get(generation_id)
        if generation is None:
            raise GenerationNotFoundError("No generation has this id.")
        return generation

    def feed(self, generation_id: str) -> Feed | None:
        """The events of a generation that has not ended; None once it has."""
        job = self._jobs.get(generation_id)
        return job.feed if job is not None else None

    async def events(self, generation_id: str) -> AsyncGenerator[Event, None]:
        """Each event of a generation from its first to its last; of one that has ended, the last alone.

        Who lags behind gets only the newest preview; leaving the loop leaves the generation alone.

        Raises:
            GenerationNotFoundError: There is none with this id.
        """
        feed = self.feed(generation_id)
        if feed is None:
            yield last_event(self.get(generation_id))
            return
        async for event in feed.follow():
            yield event

    async def wait(self, generation_id: str) -> Generation:
        """Wait until a generation has ended; cancelling the wait leaves the generation alone.

        Raises:
            GenerationNotFoundError: There is none with this id.
        """
        job = self._jobs.get(generation_id)
        if job is not None:
            await asyncio.wait([job.ended])
        return self.get(generation_id)

    async def aclose(self) -> None:
        """Take nothing more, cancel what waits and what is drawn, and wait until all has ended; idempotent."""
        self._open = False
        waiting = list(self._waiting)
        self._waiting.clear()
        for job in waiting:
            self._finish(job, None)
        if self._current is not None:
            await self._abort(self._current)
        await self._reservation.cancel_others()
        if self._supervisors:
            await asyncio.wait(list(self._supervisors))
        self.hub.close()

    # From here on: what moves a job along. Nothing but _finish ends one.

    def _start_next(self) -> None:
        if not self._waiting:
            return
        job = self._current = self._waiting.popleft()
        self._update(
            job, status=Status.IN_PROGRESS, position=None, progress=nothing_yet(job.id, job.request.count)
        )
        self._recording.begin(job.id, job.request)
        job.drawing = asyncio.create_task(
            self._generator.generate(job.request, lambda event: self._take(job, event)),
            name=f"sdmanager-generation-{job.id}",
        )
        supervisor = asyncio.create_task(self._supervise(job, job.drawing))
        self._supervisors.add(supervisor)
        supervisor.add_done_callback(self._supervisors.discard)
        self._tell_positions()

    async def _supervise(self, job: Job, drawing: asyncio.Task[GenerationResult]) -> None:
        """See a generation to its end; never cancelled, so that no end goes unwritten."""
        await asyncio.wait([drawing])
        job.saving = True
        outcome: GenerationResult | Exception | None = None
        try:
            job.result = drawing.result()
            outcome = await in_thread(self.registry.store_images, job.id, job.result)
            await self._recording.keep(job.id, outcome)
        except asyncio.CancelledError:
            pass
        except Exception as exc:  # noqa: BLE001 - whatever it was ends the generation, not the service
            outcome = None if job.cancelled else exc
        self._current = None  # first: who is told of the end may ask for the next one at once
        self._finish(job, outcome)
        if not self.busy:
            self._start_next()

    async def _abort(self, job: Job) -> None:
        self._begin_abort(job)
        await asyncio.wait([job.ended])

    def _begin_abort(self, job: Job | None) -> None:
        """Cancel a job that waits or is drawn; one that has its pictures keeps them, and one that is None has ended."""
        if job is None:
            return
        if job in self._waiting:
            self._waiting.remove(job)
            self._finish(job, None)
            self._tell_positions()
        elif job.drawing is not None and not job.saving and not job.cancelled:
            job.cancelled = True
            job.drawing.cancel()

    def _finish(self, job: Job, outcome: GenerationResult | Exception | None) -> None:
        """The one way in which a job ends: written down first, told then. None: it was cancelled."""
        del self._jobs[job.id]
        match outcome:
            case None:
                self._update(job, status=Status.CANCELLED, position=None)
                self._publish(job, Cancelled)
                job.ended.set_exception(GenerationCancelledError("The generation was cancelled."))
            case Exception():
                error = outcome if isinstance(outcome, SDManagerError) else unexpected(job.id, outcome)
                self._update(job, status=Status.ERROR, position=None, error=error)
                # Without its traceback, which holds the whole request for as long as the event is kept.
                told = type(error)(error.message, hint=error.hint, details=error.details)
                self._publish(job, Failed, error=told)
                job.ended.set_exception(outcome)
            case _:
                self._update(job, status=Status.COMPLETE, position=None, result=outcome)
                if job.whole is not None:
                    self._send(job, self._stamped(job, job.whole))
                self._publish(job, Completed, result=outcome)
                # The caller's pictures are in memory: those in the registry go when their time is over.
                job.ended.set_result(job.result or outcome)
        job.feed.close()

    def _update(self, job: Job, **changes: Any) -> None:
        try:
            self.registry.update(job.id, **changes)
        except GenerationNotFoundError:  # somebody deleted it from the registry; the work goes on
            _log.debug("generation %s is not in the registry any more", job.id)

    def _take(self, job: Job, event: Event) -> None:
        """An event of the generator; its end is told later, when the result has been written down."""
        match event:
            case StageChanged(stage=stage):
                self._update(job, progress=entered(self.registry.get(job.id), stage))
                self._publish(job, StageChanged, stage=stage)
            case Progress(percentage=percentage) if percentage >= 100:
                job.whole = event  # it is told with the end: the pictures are still to be written down
            case Progress():
                stamped = self._stamped(job, event)
                self._update(job, progress=stamped)
                self._send(job, stamped)
            case Preview() | Replanned():
                self._send(job, self._stamped(job, event))
            case _:
                pass

    def _tell_positions(self) -> None:
        for position, job in enumerate(list(self._waiting), 1):
            if job.position != position:
                job.position = position
                self._update(job, position=position)
                self._publish(job, Queued, position=position)

    def _stamped(self, job: Job, event: Event) -> Event:
        return dataclasses.replace(event, **job.stamp())

    def _publish(self, job: Job, kind: Callable[..., Event], **fields: Any) -> None:
        self._send(job, kind(**job.stamp(), **fields))

    def _send(self, job: Job, event: Event) -> None:
        job.feed.publish(event)
        self.hub.publish(event)
        self._recording.take(event)
        if self._on_event is not None:
            self._on_event(event)
        if job.on_event is not None:
            job.on_event(event)
