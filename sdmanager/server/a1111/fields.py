"""The fields of a body, read as leniently as pydantic reads them for AUTOMATIC1111: null is absent, ``"20"`` is 20."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE: Final = frozenset({"0", "off", "f", "false", "n", "no", ""})
# Longer texts are no numbers that anybody means, and Python takes long to read them.
_DIGITS_MAX: Final = 40


def as_flag(value: object) -> bool | None:
    """What a JSON value or a text of a query says as yes or no; None: neither."""
    text = str(value).strip().lower() if isinstance(value, bool | int | float | str) else None
    return True if text in _TRUE else False if text in _FALSE else None


class Fields:
    """The fields of an object, by the names of this API.

    Args:
        body: As it came; what is null, or not asked for, is not looked at.
        where: What to write before a name in an error, such as ``override_settings.``.
    """

    def __init__(self, body: Mapping[str, object], where: str = "") -> None:
        self._body = {name: value for name, value in body.items() if value is not None}
        self._where = where

    def __contains__(self, name: str) -> bool:
        return name in self._body

    def text(self, name: str, default: str = "") -> str:
        """A text.

        Raises:
            InvalidRequestError: It is none.
        """
        value = self._body.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a text")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty where there is none.

        Raises:
            InvalidRequestError: It is no such list.
        """
        value = self._body.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "must be a list of texts")
        return value

    def nested(self, name: str) -> Fields:
        """An object within; empty where there is none.

        Raises:
            InvalidRequestError: It is no object.
        """
        value = self._body.get(name, {})
        if not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return Fields(value, f"{name}.")

    def nested_list(self, name: str) -> list[Fields]:
        """A list of objects; empty where there is none.

        Raises:
            InvalidRequestError: It is no such list.
        """
        value = self._body.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(name, "must be a list of objects")
        return [Fields(item, f"{name}.") for item in value]

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within limits; None where it is absent.

        Raises:
            InvalidRequestError: It is none, or out of range.
        """
        value = self._body.get(name)
        if value is None:
            return None
        if isinstance(value, str) and len(value) <= _DIGITS_MAX:
            try:
                value = float(value)
            except ValueError:
                raise self.wrong(name, "must be a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise self.wrong(name, "must be a number")
        if not low <= value <= high:
            raise self.wrong(name, f"must be between {low:g} and {high:g}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within limits; what is behind a decimal point is dropped. None where it is absent.

        Raises:
            InvalidRequestError: It is none, or out of range.
        """
        value = self._body.get(name)
        if (
            isinstance(value, str)
            and value.strip().removeprefix("-").isdecimal()
            and len(value) <= _DIGITS_MAX
        ):
            value = int(value)
        if isinstance(value, int) and not isinstance(
            value, bool
        ):  # not by way of a float: seeds have 63 bits
            if not low <= value <= high:
                raise self.wrong(name, f"must be between {low} and {high}")
            return value
        number = self.number(name, low, high)
        return None if number is None else int(number)

    def flag(self, name: str, *, default: bool) -> bool:
        """Yes or no.

        Raises:
            InvalidRequestError: It is neither.
        """
        if name not in self._body:
            return default
        found = as_flag(self._body[name])
        if found is None:
            raise self.wrong(name, "must be true or false")
        return found

    def says(self, name: str) -> bool:
        """Whether the field asks for anything: it is there and neither false, 0 nor empty."""
        return bool(self._body.get(name))

    def plain(self, *names: str) -> dict[str, object]:
        """Those of these fields that are texts or numbers, as they came: what may be shown to the client again."""
        return {
            name: self._body[name]
            for name in names
            if isinstance(self._body.get(name), str | int | float | bool)
        }

    def wrong(self, name: str, what: str, *, hint: str | None = None) -> InvalidRequestError:
        """The error of a field."""
        where = f"{self._where}{name}"
        return InvalidRequestError(f"{where} {what}.", hint=hint, details={"fields": [where]})


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False
