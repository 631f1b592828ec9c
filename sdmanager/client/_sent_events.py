"""Server-Sent Events as they come over the wire: bytes in, events out. Pure.

By hand, because of what the libraries do where a connection breaks: sseclient-py gives out an event that was cut off
as if it were whole; requests-sse remembers the id of one, so that it is never sent again, and connects anew by rules
of its own, which know neither of this server's errors nor of the end of a generation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# A CR that is the last byte so far may be the first half of a CRLF.
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True, slots=True)
class SentEvent:
    """One event.

    Attributes:
        name: Of ``event:``; ``message`` where it has none.
        data: Of all its ``data:`` lines.
        last_id: The newest ``id:`` up to it, with which to ask for what comes after it; empty where there was none.
    """

    name: str
    data: str
    last_id: str


class SentEvents:
    """Puts events together; what is not whole when the connection ends is never given out.

    Args:
        last_id: That of the event before.
    """

    def __init__(self, last_id: str = "") -> None:
        self._last_id = self._next_id = last_id
        self._pieces: list[bytes] = []
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[SentEvent]:
        """The events that are whole with this piece."""
        self._pieces.append(piece)
        if b"\n" not in piece and b"\r" not in piece:
            return  # a preview is one long line: looked through once, not again with each piece
        *lines, rest = _LINE_END.split(b"".join(self._pieces))
        self._pieces = [rest]
        for line in lines:
            if line:
                self._field(line.decode("utf-8", "replace"))
            elif (event := self._dispatch()) is not None:
                yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._next_id = value

    def _dispatch(self) -> SentEvent | None:
        self._last_id = self._next_id
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return SentEvent(name, "\n".join(data), self._last_id) if data else None
