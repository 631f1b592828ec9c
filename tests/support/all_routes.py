"""Every route of a server's application, and a generator that is never what a test waits for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scripted_generator import preview, progress, result_of, stage
from serving import Served

from sdmanager.generation import Completed, Stage

# What each API's errors must have; of a path or of what was said at it.
_APIS = {"native": {"message", "code"}, "openai": {"message", "type", "param", "code"}}


@dataclass(frozen=True, order=True)
class Route:
    """A method and the template of a path."""

    method: str
    template: str

    def path(self, *parts: str) -> str:
        """The path with these, or ``x``, in the places of the template."""
        left = iter(parts)
        return re.sub(r"\{[^}]+\}", lambda _: next(left, "x"), self.template)


def routes_of(served: Served) -> list[Route]:
    """All of them; ``HEAD`` is there wherever ``GET`` is taken by it."""
    app = served.server._runner.app
    found = {
        Route(route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    return sorted(found)


def shape_of_error(body: object) -> str:
    """Which API's clients understand this body of an error: ``native``, ``openai`` or ``a1111``.

    Raises:
        AssertionError: None's.
    """
    assert isinstance(body, dict), body
    error = body["error"]
    if isinstance(error, dict):
        shape = "openai" if "type" in error else "native"
        assert error.keys() - {"suggestion"} == _APIS[shape], error
        return shape
    assert {"error", "detail", "body", "errors"} <= body.keys(), body
    assert isinstance(error, str)
    assert isinstance(body["detail"], str | list)
    return "a1111"


class InstantGenerator:
    """Draws in no time, with a preview, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests = []

    async def generate(self, request, on_event=None):
        self.requests.append(request)
        on_event(stage(Stage.DIFFUSION))
        on_event(progress(1))
        on_event(preview(1))
        result = result_of(request.count, request.with_seed().seed)
        on_event(Completed(generation_id="inner", sequence=0, elapsed=0.0, result=result))
        return result

    async def is_available(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass
