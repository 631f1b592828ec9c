"""The application: the door, and the routes behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from .a1111 import add_a1111_routes
from .body import BODY_MAX
from .door import install_door
from .drawing import WAITERS, Waiters
from .events import add_stream_routes
from .face import FACE
from .history_api import add_history_routes
from .metrics_api import add_metrics_route
from .native import add_native_routes
from .openai import add_openai_routes
from .page import add_page_route

if TYPE_CHECKING:
    from .face import Face
    from .origins import DoorPolicy


def build_app(face: Face, policy: DoorPolicy) -> web.Application:
    """An application that shows a face to whom the policy lets in."""
    app = web.Application(client_max_size=BODY_MAX)
    app[FACE] = face
    app[WAITERS] = Waiters()
    install_door(app, policy, on_error=face.metrics.refuse)
    add_native_routes(app)
    add_stream_routes(app)
    add_openai_routes(app)
    add_a1111_routes(app)
    add_history_routes(app)
    add_metrics_route(app)
    add_page_route(app)
    return app
