"""The states of a generation, and the one table of how they follow each other."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sdmanager.errors import AlreadyTerminalError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Status(StrEnum):
    """Where a generation stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended: nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = MappingProxyType(
    {
        Status.PENDING: frozenset({Status.IN_PROGRESS, Status.ERROR, Status.CANCELLED}),
        Status.IN_PROGRESS: frozenset({Status.COMPLETE, Status.ERROR, Status.CANCELLED}),
        Status.COMPLETE: frozenset(),
        Status.ERROR: frozenset(),
        Status.CANCELLED: frozenset(),
    }
)
"""What may follow each state."""


def check_transition(old: Status, new: Status) -> None:
    """See that a state may follow another.

    Raises:
        AlreadyTerminalError: The old one is final.
        ValueError: The table does not have it: a fault of the caller.
    """
    check_open(old)
    if new not in TRANSITIONS[old]:
        raise ValueError(f"a generation that is {old} cannot become {new}")


def check_open(status: Status) -> None:
    """See that a generation has not ended.

    Raises:
        AlreadyTerminalError: It has.
    """
    if status.is_terminal:
        raise AlreadyTerminalError("The generation has ended already.", details={"status": status.value})
