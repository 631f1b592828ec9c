"""Who is put aside, and when: values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from .offloadable import Offloadable

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_THRESHOLD: Final = 0.75
DEFAULT_LINGER: Final = 5.0
LINGER_MAX: Final = 86_400.0
_NAME_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class OffloadingConfig:
    """What is put aside, and when.

    Attributes:
        offloadables: Who can be.
        threshold: Share of RAM and of VRAM, above 0 and at most 1, over which they are.
        linger: Seconds after the last picture before they are brought back.
    """

    offloadables: tuple[Offloadable, ...] = ()
    threshold: float = DEFAULT_THRESHOLD
    linger: float = DEFAULT_LINGER

    @classmethod
    def build(cls, offloadables: Sequence[Offloadable], threshold: float, linger: float) -> OffloadingConfig:
        """Check what the caller gave.

        Raises:
            InvalidRequestError: A number is out of range, something cannot be put aside or has no usable name, or two
                have the same.
        """
        made = tuple(offloadables)
        for each in made:
            if not isinstance(each, Offloadable):
                raise InvalidRequestError(
                    f"A {type(each).__name__} cannot be put aside.",
                    hint="Give Ollama(), LlamaSwap(…), LlamaServer(…), HookOffloadable(…), or a class with the "
                    "methods of Offloadable.",
                )
            if not _is_name(each.name):
                raise InvalidRequestError(
                    f"The name of a {type(each).__name__} cannot be used.",
                    hint=f"Its property name is a text of 1 to {_NAME_MAX} printable characters, the same in each run.",
                )
        if not _is_number(threshold) or not 0 < threshold <= 1:
            raise InvalidRequestError("The threshold is out of range.", hint="It is above 0 and at most 1.")
        if not _is_number(linger) or not 0 <= linger <= LINGER_MAX:
            raise InvalidRequestError(
                "The time to linger is out of range.", hint="It is from 0 to 86,400 seconds."
            )
        refuse_doubles(made)
        return cls(made, float(threshold), float(linger))


def refuse_doubles(offloadables: Sequence[Offloadable]) -> None:
    """See that all have names of their own, by which they are brought back.

    Raises:
        InvalidRequestError: Two have the same.
    """
    names = [each.name for each in offloadables]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(
                f"{name!r} is there {names.count(name)} times.",
                hint='Give each a name of its own, such as  name = "second".',
                details={"name": name},
            )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip()) and len(value) <= _NAME_MAX


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
