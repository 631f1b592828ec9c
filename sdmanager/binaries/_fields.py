"""Checking plain data field by field; every fault names its place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._+-]{0,120}")
VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,4}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PRINTABLE = re.compile(r"[ -~]{1,500}")
_COUNT_MAX = 1 << 50


class FieldError(ValueError):
    """Something is not as it must be. The message is a clause that begins with the place."""


def fields(
    value: object, place: str, required: Collection[str], optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """An object that has all of the required fields and none that is unknown.

    Raises:
        FieldError: It is anything else.
    """
    data = mapping(value, place)
    for name in required:
        if name not in data:
            raise FieldError(f"{_inside(place)}{name} is missing")
    for name in data:
        if name not in required and name not in optional:
            raise FieldError(f"{_inside(place)}{shown(name)} is no known field")
    return data


def mapping(value: object, place: str) -> Mapping[str, Any]:
    """An object with any names.

    Raises:
        FieldError: It is anything else.
    """
    if not isinstance(value, dict):
        raise FieldError(f"{place or 'the file'} is not an object")
    return value


def sequence(value: object, place: str) -> Sequence[Any]:
    """A list.

    Raises:
        FieldError: It is anything else.
    """
    if not isinstance(value, list):
        raise FieldError(f"{place} is not a list")
    return value


def text(value: object, place: str, pattern: re.Pattern[str], what: str) -> str:
    """A text of one form; ``what`` completes "is not".

    Raises:
        FieldError: It is anything else.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise FieldError(f"{place} is not {what}")
    return value


def texts(value: object, place: str, pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
    """A list of different texts of one form.

    Raises:
        FieldError: It is anything else.
    """
    found = tuple(
        text(item, f"{place}[{index}]", pattern, what) for index, item in enumerate(sequence(value, place))
    )
    if len(set(found)) != len(found):
        raise FieldError(f"{place} names something twice")
    return found


def table(
    value: object, place: str, pattern: re.Pattern[str], what: str, *, names: re.Pattern[str] = NAME
) -> dict[str, str]:
    """An object whose values are texts of one form.

    Raises:
        FieldError: It is anything else.
    """
    found = {}
    for name, item in mapping(value, place).items():
        text(name, f"{place}.{shown(name)}", names, "a name")
        found[name] = text(item, f"{place}.{name}", pattern, what)
    return found


def count(value: object, place: str) -> int:
    """A positive whole number.

    Raises:
        FieldError: It is anything else.
    """
    # True is an int too; and what is larger than this cannot be written as a number of gigabytes.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _COUNT_MAX:
        raise FieldError(f"{place} is not a positive whole number")
    return value


def shown(name: object) -> str:
    """A foreign name, made fit for a message."""
    written = str(name)
    return written if NAME.fullmatch(written) else ascii(written[:80])


def _inside(place: str) -> str:
    return f"{place}." if place else ""
