"""What a generator is made with, checked before anything is asked. Pure."""

from __future__ import annotations

import math
from typing import Final

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import STEPS_MAX

_HEADER_HINT: Final = "Copy it again: visible ASCII characters without spaces."


def fits_header(value: str) -> bool:
    """Whether a header can hold it: visible ASCII characters."""
    return all("!" <= char <= "~" for char in value)


def header_value(value: object, what: str) -> str | None:
    """What goes into a header, without the white space around it; None where there is nothing.

    Args:
        value: What the caller gave; never shown.
        what: What to call it in an error.

    Raises:
        InvalidRequestError: It is no text, or no header can hold it.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequestError(f"{what} must be text.", hint=_HEADER_HINT)
    stripped = value.strip()
    if not fits_header(stripped):
        raise InvalidRequestError(f"{what} holds characters that no header can hold.", hint=_HEADER_HINT)
    return stripped or None


def seconds(value: object) -> float:
    """A limit of time.

    Raises:
        InvalidRequestError: It is no finite number above 0.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if 0 < number < math.inf:
            return number
    raise InvalidRequestError("timeout must be a number of seconds above 0.", hint="Such as 120.")


def steps(value: object) -> int | None:
    """Steps that a model usually takes.

    Raises:
        InvalidRequestError: It is no number of steps.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= STEPS_MAX:
        return value
    raise InvalidRequestError(
        f"default_steps must be a whole number from 1 to {STEPS_MAX}.", hint="Such as 4 for a turbo model."
    )
