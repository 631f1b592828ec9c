"""In which shape a path says that something went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .a1111.errors import a1111_error
from .openai.errors import openai_error
from .responses import error_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from sdmanager.errors import SDManagerError

_SHAPES = (
    ("/openai/", openai_error),
    ("/v1/images/edits", openai_error),
    ("/v1/images/variations", openai_error),
    ("/sdapi/", a1111_error),
)


class ErrorShape(Protocol):
    """Makes an answer of an error."""

    def __call__(
        self, error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
    ) -> web.Response:
        """The answer; its status is the shape's own unless one is given."""
        ...


def shape_of(path: str) -> ErrorShape:
    """The shape of errors under a path."""
    return next((shape for start, shape in _SHAPES if path.startswith(start)), error_response)
