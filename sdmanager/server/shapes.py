"""In which shape a path says that something went wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import hdrs, web

from sdmanager.errors import UnauthorizedError

from .a1111.errors import a1111_error
from .openai import OPENAI
from .openai.errors import openai_error
from .responses import error_response
from .wire import GENERATIONS, MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.errors import SDManagerError


class ErrorShape(Protocol):
    """Makes an answer of an error."""

    def __call__(
        self, error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
    ) -> web.Response:
        """The answer; its status is the shape's own unless one is given."""
        ...


# Under this key a request has the path whose shape it is answered in, where that is not its own: what it says may be of
# another API than where it was sent. Older aiohttp takes any key and has no class for them; newer warns of others.
SPOKEN_AT: Final[Any] = getattr(web, "RequestKey", lambda name, _kind: name)("sdmanager.spoken_at", str)

_SLASHES: Final = re.compile(r"//+")
# Clients of this API know no other way to show a token, and some ask their user for it when they see this.
_BASIC: Final = 'Basic realm="sdmanager"'
# Of each: the first path and all below it, the shape, and how to show a token where that is not the usual way.
_SHAPES: Final[tuple[tuple[str, ErrorShape, str | None], ...]] = (
    (OPENAI, openai_error, None),
    ("/v1/images/edits", openai_error, None),
    ("/v1/images/variations", openai_error, None),
    ("/sdapi", a1111_error, _BASIC),
)


def spoken_at(request: web.Request) -> str:
    """The path in whose shape a request is answered: its own, unless something tells that it is of another API.

    The SDKs of OpenAI show themselves by a header, also before their body is read, which may say nothing that tells.
    """
    said: str | None = request.get(SPOKEN_AT)
    if said is not None:
        return said
    path = _SLASHES.sub("/", request.path)
    shared = path == GENERATIONS if request.method == hdrs.METH_POST else f"{path}/".startswith(f"{MODELS}/")
    return OPENAI if shared and "x-stainless-lang" in request.headers else request.path


def error_answer(
    path: str, error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
) -> web.Response:
    """The answer of an error in the shape of a path; where a token is missing, it says how to show one there.

    Args:
        path: Without a query; needless slashes in it change nothing.
        error: What went wrong.
        headers: More headers.
        status: Instead of the shape's own.
    """
    below = f"{_SLASHES.sub('/', path)}/"
    found = (entry[1:] for entry in _SHAPES if below.startswith(f"{entry[0]}/"))
    shape, challenge = next(found, (error_response, None))
    if challenge is not None and isinstance(error, UnauthorizedError):
        headers = {**(headers or {}), hdrs.WWW_AUTHENTICATE: challenge}
    return shape(error, headers, status=status)
