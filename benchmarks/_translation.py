"""What another API costs beside the native one: the same picture by either, in turn, with an engine that waits.

The native API is given no work that the other one does not have: its connection is kept, it is watched before the
engine may end, and once its complete event is there, one GET fetches the picture.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from _common import Figure, Pairs, by_turns
from _server import GENERATIONS, HELD, Client, Streams, expect, scripted, serving

if TYPE_CHECKING:
    from _common import Options, Report
    from _server import Scripted, Server

ADDED_MS: Final = 2.0
_SIZE: Final = 512


def translation(
    report: Report, options: Options, path: str, body: dict[str, object], **fields: object
) -> None:
    """Two figures: what is added from a request to the engine's start, and from its end to the answer's last byte.

    Args:
        report: Where to.
        options: How often.
        path: Of the other API, which answers with the picture.
        body: For it: a picture of 512x512.
        fields: For the native API, to have the same picture drawn; its size is known.
    """
    runs = 2 if options.quick else 20 * options.runs
    with scripted(HELD, size=_SIZE) as home, serving(home) as server, Client(server.port) as client:
        other = _Face(home, server, client, path, body)
        native = _Native(home, server, client, GENERATIONS, {"width": _SIZE, "height": _SIZE, **fields})
        sides = [native, other]
        for side in sides:
            side.draw()
            side.starts.clear()
        ends = by_turns(runs, [side.draw for side in sides])
    for name, pairs in (("to_engine", Pairs(native.starts, other.starts)), ("to_picture", Pairs(*ends))):
        report.figures[f"added_{name}_median"] = Figure(pairs.added_ms, "ms", at_most=ADDED_MS)
        report.details[name] = pairs.to_json()


@dataclass(slots=True)
class _Face:
    """One way to a picture: the API that answers with it.

    Attributes:
        home: With the engine.
        server: The one asked.
        client: A connection that is kept.
        path: What is asked.
        body: Likewise.
        starts: Seconds from each request to the start of its engine.
    """

    home: Scripted
    server: Server
    client: Client
    path: str
    body: dict[str, object]
    starts: list[float] = field(default_factory=list)

    def draw(self) -> float:
        """Seconds from the engine's end to the last byte with the picture."""
        request = self.client.request("POST", self.path, self.body)
        began = time.perf_counter()
        self.client.socket.sendall(request)
        self.starts.append(expect(self.home.pipe) - began)
        return self._rest()

    def _rest(self) -> float:
        ended = self._let_end()
        return self._taken(self.client.answer(), ended)

    def _let_end(self) -> float:
        os.write(self.home.gate, b"\n")
        return expect(self.home.pipe)

    def _taken(self, answer: bytes, ended: float) -> float:
        taken = time.perf_counter() - ended
        # Its bytes are random, so that four of base64 stand for each pixel.
        if not answer.startswith(b"HTTP/1.1 200 ") or len(answer) < 4 * self.home.size**2:
            raise SystemExit(f"No picture: {answer[:1000]!r}")
        return taken


class _Native(_Face):
    """The other one: accepted, watched to its end, and fetched."""

    __slots__ = ()

    def _rest(self) -> float:
        accepted = self.client.answer()
        name = json.loads(accepted.partition(b"\r\n\r\n")[2])["id"]
        fetch = self.client.request("GET", f"{GENERATIONS}/{name}")
        with Streams(self.server.port, f"{GENERATIONS}/{name}/events?previews=url", 1) as streams:
            events = (event for _, event, _ in streams.events())
            next(events)  # it is told what there is by now: so it is being watched
            ended = self._let_end()
            next(event for event in events if b"event: complete\n" in event)
            return self._taken(self.client.ask(fetch), ended)
