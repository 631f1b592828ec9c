"""The application: the door, and the routes behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from .body import BODY_MAX
from .door import install_door
from .events import add_stream_routes
from .face import FACE
from .native import add_native_routes

if TYPE_CHECKING:
    from .face import Face
    from .origins import DoorPolicy


def build_app(face: Face, policy: DoorPolicy) -> web.Application:
    """An application that shows a face to whom the policy lets in."""
    app = web.Application(client_max_size=BODY_MAX)
    app[FACE] = face
    install_door(app, policy)
    add_native_routes(app)
    add_stream_routes(app)
    return app
