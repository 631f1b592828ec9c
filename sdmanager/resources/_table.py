"""One table of a settings file, read key by key, each fault with its place. Pure."""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Final, Literal, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_SHOWN_MAX: Final = 40
_SIZE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) *([KMGT]i?B|B)", re.ASCII)
_UNITS: Final = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
_BYTES_MAX: Final = 1 << 60
_SECRETS: Final = ("key", "token", "password", "secret")


class FaultError(Exception):
    """What is wrong with a settings file.

    Attributes:
        message: Without a full stop.
        place: Where in the file; "" is all of it.
        hint: What to do; None where there is nothing better than what every fault gets.
    """

    def __init__(self, message: str, place: str = "", hint: str | None = None) -> None:
        """Keep them."""
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint


class Table:
    """One table.

    Args:
        values: Of TOML.
        place: Where it is, for people.
        known: The keys that it may have.
        environ: Where secrets are.

    Raises:
        FaultError: It has a key that means nothing.
    """

    def __init__(
        self, values: Mapping[str, object], place: str, known: Iterable[str], environ: Mapping[str, str]
    ) -> None:
        self._values = values
        self.place = place
        self.environ = environ
        names = tuple(known)
        for key in values:
            if key not in names:
                raise self.unknown(key, names, place, "key")

    @staticmethod
    def unknown(given: str, known: Iterable[str], place: str, what: str) -> FaultError:
        """What to say of a name that means nothing."""
        names = tuple(known)
        if what == "key" and any(word in given.lower() for word in _SECRETS):
            return FaultError(
                f"there is no key {given[:_SHOWN_MAX]!r}",
                place,
                'Secrets do not stand in the file: api_key_env = "NAME" names the environment variable with it.',
            )
        close = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
        meant = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(sorted(names))}"
        return FaultError(
            f"there is no {what} {given[:_SHOWN_MAX]!r}", place, f"{meant[0].upper()}{meant[1:]}"
        )

    @overload
    def text(self, key: str, *, needed: Literal[True]) -> str: ...
    @overload
    def text(self, key: str, *, needed: bool = ...) -> str | None: ...
    def text(self, key: str, *, needed: bool = False) -> str | None:
        """A text that is not empty; None where there is none."""
        value = self._get(key, needed=needed)
        if value is None or (isinstance(value, str) and value):
            return value
        raise self._fault(key, 'a text, such as "…"')

    def number(self, key: str) -> float | None:
        """A number; None where there is none."""
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
        raise self._fault(key, "a number")

    def port(self, key: str) -> int | None:
        """A TCP port; None where there is none."""
        value = self._get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16):
            return value
        raise self._fault(key, "a port from 1 to 65535")

    def size(self, key: str) -> int | None:
        """Bytes, from a number or from ``"6 GiB"``; None where there is none."""
        value = self._get(key)
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is not None:
            value = round(float(match[1]) * _UNITS[match[2]])
        if value is None or (
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _BYTES_MAX
        ):
            return value
        raise self._fault(key, 'a size, such as "6 GiB", or a number of bytes')

    @overload
    def command(self, key: str, *, needed: Literal[True]) -> list[str]: ...
    @overload
    def command(self, key: str, *, needed: bool = ...) -> list[str] | None: ...
    def command(self, key: str, *, needed: bool = False) -> list[str] | None:
        """An argument list; None where there is none."""
        value = self._get(key, needed=needed)
        if value is None:
            return None
        if isinstance(value, list) and value and value[0] and all(isinstance(word, str) for word in value):
            return value
        raise self._fault(
            key, 'a list of words, such as ["systemctl", "stop", "my-model"]; there is no shell'
        )

    def secret(self, key: str) -> str | None:
        """What the environment variable holds whose name this is; None where there is none."""
        name = self.text(key)
        if name is None:
            return None
        value = self.environ.get(name)
        if not value:
            raise FaultError(
                f"the environment variable that {key!r} names is not set",
                self.place,
                "Set it, or leave it out.",
            )
        return value

    def tables(self, key: str, known: Callable[[object, str], Iterable[str]]) -> list[Table]:
        """The tables of a list of them; `known` is asked for the keys of each by its kind."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise FaultError(f"{key!r} must be a list of tables", self.place, f"Begin each with  [[{key}]]")
        made = []
        for number, each in enumerate(value, 1):
            place = f"[[{key}]] {number}"
            made.append(Table(each, place, known(each.get("kind"), place), self.environ))
        return made

    def _get(self, key: str, *, needed: bool = False) -> object:
        value = self._values.get(key)
        if value is None and needed:
            raise FaultError(f"{key!r} is missing", self.place)
        return value

    def _fault(self, key: str, wanted: str) -> FaultError:
        return FaultError(f"{key!r} must be {wanted}", self.place or key)
