"""The events of a generation, from its stream: taken up again where the connection breaks, and over with its end."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import ServerBusyError, ServerUnreachableError
from sdmanager.generation import Cancelled, Completed, Failed, Queued, Replanned

from ._bodies import FailureBody, PreviewBody, ProgressBody, QueuedBody, ReplannedBody
from ._sent_events import SentEvents
from ._transport import segment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from sdmanager.generation import Event, GenerationResult

    from ._sent_events import SentEvent
    from ._transport import Transport

GENERATIONS: Final = "/v1/images/generations"

# Between two attempts, until one brings an event; a server that was restarted may be back by then.
DELAYS: Final = (0.1, 0.4, 1.0, 2.0, 4.0)

# A connection that brought something for so long was no failed attempt, even if it brought no event: the engine may be
# silent for minutes, and what stands in between ends answers that take long.
_HELD_SECONDS: Final = 10.0


def follow(
    transport: Transport, generation_id: str, result: Callable[[], GenerationResult]
) -> Generator[Event, None, None]:
    """The events of a generation as they come, to the last.

    Args:
        transport: To the server.
        generation_id: Which.
        result: Called at the end of one that was drawn: its events carry no pictures.

    Raises:
        GenerationNotFoundError: There is none with this id, or it has expired.
        ServerUnreachableError: The connection broke, and the server cannot be reached any more.
        ServerBusyError: The server has too many connections, and had at every attempt.
    """
    reader = _Reader(transport, generation_id, result)
    delays = iter(DELAYS)
    broken: ServerUnreachableError | ServerBusyError
    while True:
        try:
            for event in reader.read():
                delays = iter(DELAYS)
                yield event
                if isinstance(event, Completed | Failed | Cancelled):
                    return
            broken = ServerUnreachableError(
                "The server ended the stream of events before the generation ended."
            )
        except (ServerUnreachableError, ServerBusyError) as exc:
            # Nothing is asked to be drawn here: a server that is busy has too many connections, for the moment.
            broken = exc
        if reader.held >= _HELD_SECONDS:
            delays = iter(DELAYS)
        delay = next(delays, None)
        if delay is None:
            raise broken
        time.sleep(delay)


class _Reader:
    """One reader over all its connections: what it saw last, and what it counts.

    Attributes:
        held: Seconds from the beginning of the newest answer to the last that came of it, be it only a heartbeat.
    """

    def __init__(
        self, transport: Transport, generation_id: str, result: Callable[[], GenerationResult]
    ) -> None:
        self._transport = transport
        self._path = f"{GENERATIONS}/{segment(generation_id)}/events"
        self._id = generation_id
        self._result = result
        self._last_id = ""
        self._numbers = itertools.count()
        self._began = time.monotonic()
        self.held = 0.0

    def read(self) -> Iterator[Event]:
        """The events of one connection."""
        self.held = 0.0
        with self._transport.stream(self._path, self._last_id) as pieces:
            parser, began = SentEvents(self._last_id), time.monotonic()
            for piece in pieces:
                self.held = time.monotonic() - began
                for sent in parser.feed(piece):
                    event = self._typed(sent)
                    # After what may raise: an end whose pictures could not be fetched is told once more.
                    self._last_id = sent.last_id
                    if event is not None:
                        yield event

    def _typed(self, sent: SentEvent) -> Event | None:
        try:
            data = json.loads(sent.data)
            return self._event(sent.name, data)
        except (ValueError, RecursionError):
            raise self._transport.foreign(f"an event {ascii(sent.name)[:40]} that is none") from None

    def _event(self, name: str, data: Any) -> Event | None:
        stamp: Mapping[str, Any] = {
            "generation_id": self._id,
            "sequence": next(self._numbers),
            "elapsed": time.monotonic() - self._began,
        }
        match name:
            case "queued":
                return Queued(**stamp, position=QueuedBody.of(data).position)
            case "progress":
                return ProgressBody.of(data).to_progress(stamp)
            case "preview":
                return PreviewBody.of(data).to_preview(stamp)
            case "replanned":
                replanned = ReplannedBody.of(data)
                return Replanned(**stamp, plan=replanned.plan.to_plan(), reason=replanned.reason)
            case "complete":
                return Completed(**stamp, result=self._result())
            case "error":
                return Failed(**stamp, error=FailureBody.of(data).to_error())
            case "cancelled":
                return Cancelled(**stamp)
            case _:  # of a newer server
                return None
