"""What may be believed of texts and numbers that drivers gave. No I/O here."""

from __future__ import annotations

import re

_MOST_MEMORY = 16 << 40
_LONGEST = 120
# What nvidia-smi prints in the place of a fact: [N/A], [Not Supported], [Unknown Error], [GPU is lost], ERR!
_NO_FACT = re.compile(r"\[[^\]]*\]|n/?a|err!|unknown( error)?", re.IGNORECASE)
_PCI_ADDRESS = re.compile(r"([0-9a-f]{1,8}):([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?", re.IGNORECASE)


def clean_text(value: object) -> str | None:
    """One line that can be shown, or None where there is nothing to show."""
    if isinstance(value, bytes):
        value = value[: 8 * _LONGEST].decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    kept = "".join(c if c.isprintable() else " " for c in value[: 8 * _LONGEST])
    text = " ".join(kept.split())[:_LONGEST].rstrip()
    return None if not text or _NO_FACT.fullmatch(text) else text


def whole_number(value: object) -> int | None:
    """The number where it is one, and not a truth value."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_number(text: str | None, base: int = 10) -> int | None:
    """A number of at most 20 digits that stands alone."""
    try:
        return int(text, base) if text is not None and len(text) <= 20 else None
    except ValueError:
        return None


def believable_bytes(value: object) -> int | None:
    """An amount of memory that can be true: above zero and below 16 TiB."""
    number = whole_number(value)
    return number if number is not None and 0 < number <= _MOST_MEMORY else None


def believable_vram(total: object, free: object) -> tuple[int | None, int | None]:
    """Total and free memory of a card, each None where it cannot be true.

    Where more is free than there is, at least one is wrong and nobody knows which.
    """
    whole, rest = believable_bytes(total), whole_number(free)
    if whole is None or rest is None or rest < 0:
        return whole, None
    return (whole, rest) if rest <= whole else (None, None)


def believable_capability(value: object) -> tuple[int, int] | None:
    """A compute capability of two small numbers."""
    match value:
        case [int(major), int(minor)] if 1 <= major < 100 and 0 <= minor < 100:
            return major, minor
    return None


def pci_address(text: object) -> str | None:
    """A PCI address as sysfs writes it, from how any tool writes it."""
    match = _PCI_ADDRESS.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return f"{int(domain, 16):04x}:{bus}:{device}.{function or 0}".lower()
