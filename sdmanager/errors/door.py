"""What the door of a server refuses."""

from __future__ import annotations

from .base import SDManagerError


class RefusedError(SDManagerError):
    """The HTTP request was refused at the door: where it comes from, or goes to, is not allowed."""

    code = "FORBIDDEN"
    http_status = 403
    exit_code = 70


class UnauthorizedError(RefusedError):
    """The token is missing or wrong."""

    code = "UNAUTHORIZED"
    http_status = 401
    exit_code = 71
    default_hint = "Send the header 'Authorization: Bearer TOKEN'."


class RouteNotFoundError(RefusedError):
    """The server has no such path."""

    code = "ROUTE_NOT_FOUND"
    http_status = 404
    exit_code = 72
    default_hint = "GET /openapi.json lists what there is."


class MethodNotAllowedError(RefusedError):
    """The path is known, and not with this method."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405
    exit_code = 73


class BodyTimeoutError(RefusedError):
    """The body of the request did not come in time."""

    code = "REQUEST_TIMEOUT"
    http_status = 408
    exit_code = 74


class BodyTooLargeError(RefusedError):
    """The body of the request is larger than is taken."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 413
    exit_code = 75


class MediaTypeError(RefusedError):
    """The body is neither JSON nor a form with files, or does not say what it is."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    http_status = 415
    exit_code = 76
    default_hint = "Send 'Content-Type: application/json', or 'multipart/form-data' for image files."
