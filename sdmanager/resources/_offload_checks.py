"""What all kinds of offloadables check of what they are given. Pure."""

from __future__ import annotations

import re
from typing import Final

from sdmanager.errors import InvalidRequestError

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:@ -]{0,62}[A-Za-z0-9_.:@-])?")
_BYTES_MAX: Final = 1 << 60
_SECONDS_MAX: Final = 86_400.0


def checked_name(name: object) -> str:
    """A name by which something can be known in plans and in the journal.

    Raises:
        InvalidRequestError: It is none.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise InvalidRequestError(
        "The name of what is put aside cannot be used.",
        hint="Use 1 to 64 letters, digits and . _ : @ - with a letter or digit first.",
    )


def checked_bytes(value: object, what: str) -> int | None:
    """A number of bytes; None is unknown.

    Raises:
        InvalidRequestError: It is none.
    """
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _BYTES_MAX:
        return value
    raise InvalidRequestError(
        f"{what} must be a number of bytes, 0 or more.", hint="Leave it out where it is unknown."
    )


def checked_seconds(value: object, what: str) -> float:
    """A time limit in seconds.

    Raises:
        InvalidRequestError: It is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _SECONDS_MAX:
        return float(value)
    raise InvalidRequestError(
        f"{what} must be a number of seconds above 0, at most {_SECONDS_MAX:.0f}.",
        hint="Use 60, for example.",
    )
