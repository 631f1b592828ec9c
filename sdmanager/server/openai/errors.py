"""Errors in the shape of this API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager.server.responses import error_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from sdmanager.errors import SDManagerError


def openai_error(
    error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
) -> web.Response:
    """``{"error": {"message", "type", "param", "code"}}``, with the status that its clients expect."""
    return error_response(error, headers, status=status)
