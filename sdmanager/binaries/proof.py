"""What a proof found, and what its failure means for the choice of an engine. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from types import NoneType
from typing import TYPE_CHECKING, Protocol

from sdmanager.errors import (
    BuildToolsMissingError,
    DownloadError,
    EngineOutOfMemoryError,
    StorageError,
)

if TYPE_CHECKING:
    from typing import Self

    from sdmanager.errors import SDManagerError

    from .binary import EngineBinary


@dataclass(frozen=True, slots=True)
class Proof:
    """A small picture that an engine drew and that was checked, or why none could be asked of it.

    Attributes:
        proven: Whether it drew. False: it runs, but refuses the model; the first real picture will tell.
        model: What it was drawn with.
        width: Pixels.
        height: Pixels.
        steps: Sampling steps.
        seconds: From start to the checked picture.
        device: What drew, as the engine calls it, such as ``CUDA0``; None where it did not say.
        slow: Whether it took longer than its model and device explain. That is no failure.
        note: What else is worth knowing, or None.
    """

    proven: bool
    model: str
    width: int
    height: int
    steps: int
    seconds: float
    device: str | None = None
    slow: bool = False
    note: str | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data for a file."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, data: object) -> Self | None:
        """What ``to_json`` gave, or None where the data is anything else."""
        if not isinstance(data, dict):
            return None
        kinds: dict[str, type | tuple[type, ...]] = {
            "proven": bool, "model": str, "width": int, "height": int, "steps": int, "seconds": (int, float),
            "device": (str, NoneType), "slow": bool, "note": (str, NoneType),
        }  # fmt: skip
        if set(data) != set(kinds) or not all(isinstance(data[name], kind) for name, kind in kinds.items()):
            return None
        return cls(**data)


class Prover(Protocol):
    """Draws a small picture with an engine and checks it."""

    async def __call__(self, engine: EngineBinary, /) -> Proof:
        """Raise what went wrong: SDManagerError of the closest type."""


class Meaning(StrEnum):
    """What the failure of a candidate means for later starts.

    Attributes:
        FAILED: It does not work here; only another driver, card, file or manifest changes that.
        LATER: It may work at another time: no network, no space, memory taken by others.
        UNAVAILABLE: A tool is missing; looked at again whenever a choice is made.
    """

    FAILED = "failed"
    LATER = "later"
    UNAVAILABLE = "unavailable"


def meaning_of(error: SDManagerError) -> Meaning:
    """What an error that a candidate ended with says about it."""
    match error:
        case BuildToolsMissingError():
            return Meaning.UNAVAILABLE
        case DownloadError():
            # What was verified and cannot be unpacked will be the same next time. A file that is not the pinned
            # one may be the sign-in page of a network.
            lasting = error.details.get("reason") == "archive"
            return Meaning.FAILED if lasting else Meaning.LATER
        case EngineOutOfMemoryError() | StorageError():
            return Meaning.LATER
        case _ if error.details.get("passing"):  # a card that another program keeps to itself, say
            return Meaning.LATER
        case _:
            return Meaning.FAILED
