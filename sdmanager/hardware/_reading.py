"""What the system itself tells of the machine, before any driver is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .snapshot import Gpu


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of one system.

    Attributes:
        system: For people.
        cpu: The processor's name.
        cores: Physical cores.
        threads: Logical processors.
        ram_total: Bytes.
        ram_available: Bytes.
        gpus: Cards that are there, with what the system knows of them.
        problems: What could not be found out and why.
        ask_nvidia: Whether the NVIDIA driver may have something to add.
        expect_nvidia: Whether it must have: a card of theirs is there.
    """

    system: str
    cpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    ram_total: int | None = None
    ram_available: int | None = None
    gpus: tuple[Gpu, ...] = ()
    problems: tuple[str, ...] = ()
    ask_nvidia: bool = False
    expect_nvidia: bool = False
