"""What a generation looks like from outside, and the pure rules of what follows what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from sdmanager.errors import InterruptedGenerationError, SDManagerError

from .states import Status

if TYPE_CHECKING:
    from types import EllipsisType

    from sdmanager.generation import GenerationResult, Progress


@dataclass(frozen=True, slots=True)
class Failure:
    """What is kept of an error.

    Attributes:
        code: Stable, upper-case name for programs to compare.
        message: For people.
        hint: What to do about it, or None.
    """

    code: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: SDManagerError) -> Self:
        """The same without its details and its traceback."""
        return cls(error.code, error.message, error.hint)

    def to_error(self) -> SDManagerError:
        """An error of the class that has this code, or of the root where none has."""
        return SDManagerError.of_code(self.code, self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Generation:
    """How a generation stands: a snapshot, replaced whole by the next.

    Attributes:
        id: Its name.
        status: Where it stands.
        created_at: When it was accepted, in milliseconds since the epoch.
        updated_at: When anything last changed, in milliseconds since the epoch; never before ``created_at``.
        position: Place in the queue, from 1; None when it does not wait, or the place is not known.
        progress: The latest, while in progress.
        result: The pictures, once complete.
        error: Why there are none.
        key: The caller's own name for the request (``Idempotency-Key``), or None.
        fingerprint: Digest of the request that came with the key, or None.
    """

    id: str
    status: Status
    created_at: int
    updated_at: int
    position: int | None = None
    progress: Progress | None = None
    result: GenerationResult | None = None
    error: Failure | None = None
    key: str | None = None
    fingerprint: str | None = None

    @property
    def was_interrupted(self) -> bool:
        """Whether the server ended before the generation did."""
        return self.error is not None and self.error.code == InterruptedGenerationError.code


def changed(
    old: Generation,
    now_ms: int,
    status: Status,
    position: int | EllipsisType | None,
    progress: Progress | EllipsisType | None,
    result: GenerationResult | None,
    error: SDManagerError | None,
) -> Generation:
    """The next snapshot; what does not go with its status goes away.

    Raises:
        ValueError: One of the values does not go with the status, or one is missing.
    """
    waits, runs = status is Status.PENDING, status is Status.IN_PROGRESS
    new_position = (old.position if waits else None) if position is ... else position
    new_progress = (old.progress if runs else None) if progress is ... else progress
    if (new_position is not None and not waits) or (new_progress is not None and not runs):
        raise ValueError(f"a generation that is {status} has no place in the queue, or no progress")
    if (result is not None) != (status is Status.COMPLETE) or (error is not None) != (status is Status.ERROR):
        raise ValueError("a result goes with complete, and an error with error")
    return replace(
        old,
        status=status,
        updated_at=max(old.updated_at, now_ms),
        position=new_position,
        progress=new_progress,
        result=result,
        error=Failure.of(error) if error is not None else None,
    )


def interrupted(generation: Generation, now_ms: int) -> Generation:
    """What becomes of one whose server ended."""
    doing = "waiting" if generation.status is Status.PENDING else "being drawn"
    error = InterruptedGenerationError(f"The server ended while this generation was {doing}.")
    return changed(generation, now_ms, Status.ERROR, None, None, None, error)
