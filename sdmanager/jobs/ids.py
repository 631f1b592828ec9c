"""Names of generations."""

from __future__ import annotations

import re
import secrets
from typing import Final

# Names of folders, too: one case only, as some file systems do not tell the two apart.
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def generate_id() -> str:
    """A new id that nobody can guess: ``gen_`` and 128 random bits in hexadecimal."""
    return f"gen_{secrets.token_hex(16)}"


def is_id(text: str) -> bool:
    """Whether a text can be the id of a generation: 1 to 64 of ``a-z0-9_-``, the first no sign."""
    return _ID.fullmatch(text) is not None
