"""Who can be put aside: the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

State: TypeAlias = Mapping[str, object]
"""How to restore, as plain JSON data, without secrets: it is written to the disk."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a program holds now, and how it is brought back to that.

    Attributes:
        what: For people: ``llama3.2:3b``; several things are parted by a comma and a space. A holding of which all
            things are among those of another is a part of that.
        ram: Bytes of RAM that putting it aside frees; None: unknown.
        vram: Likewise of VRAM.
        state: How to restore it.
    """

    what: str
    ram: int | None
    vram: int | None
    state: State = field(default_factory=dict)

    def is_part_of(self, what: str) -> bool:
        """Whether nothing of it is new to a holding that was this."""
        return set(self.what.split(", ")) <= set(what.split(", "))


@runtime_checkable
class Offloadable(Protocol):
    """A program that holds memory, can let go of it, and can be brought back to what it was.

    Each call has its own time limits. All belong to one event loop.
    """

    @property
    def name(self) -> str:
        """By which it is known in plans, in the journal and to the user; it stays the same between runs."""
        ...

    async def holding(self) -> Holding | None:
        """What it holds now; None: nothing, or it does not run. Raises nothing but CancelledError."""
        ...

    async def put_aside(self, holding: Holding) -> None:
        """Have it let go of what it holds; when this returns it has.

        Raises:
            OffloadError: It does not.

        Cancelling may leave it in either state; ``restore`` brings it back.
        """
        ...

    async def restore(self, state: State) -> None:
        """Bring it back and see that it answers. Idempotent: what is back already is left alone.

        Where the user has loaded something else meanwhile, that stays, and this returns.

        Raises:
            RestoreError: It is not back; the state is still good for another try.

        Cancelling leaves it to another try.
        """
        ...
