"""What a server could not do."""

from __future__ import annotations

from .base import SDManagerError


class ServerError(SDManagerError):
    """The server could not do what was asked of it."""

    code = "SERVER_ERROR"
    exit_code = 60


class ServerNotRunningError(ServerError):
    """The manager is stopped, starting, stopping or crashed, and cannot draw."""

    code = "SERVER_NOT_RUNNING"
    http_status = 503
    exit_code = 61
    default_hint = "Call start() first."


class ServerAlreadyRunningError(ServerError):
    """The manager runs, or is starting with other options."""

    code = "SERVER_ALREADY_RUNNING"
    http_status = 409
    exit_code = 62
    default_hint = "Call stop() first, or use another manager."


class PortInUseError(ServerError):
    """Another program listens on the port, or the address is none of this machine's."""

    code = "PORT_IN_USE"
    exit_code = 63
    default_hint = "Stop the other program, or use another port: --port auto takes a free one."


class ServerBusyError(ServerError):
    """A generation is in hand, and the queue, if there is one, is full."""

    code = "SERVER_BUSY"
    http_status = 503
    exit_code = 64
    default_hint = "Try again when the generation in hand has ended, or start the server with a longer queue."


class GenerationNotFoundError(ServerError, LookupError):
    """No generation has this id, or its result has expired."""

    code = "NOT_FOUND"
    http_status = 404
    exit_code = 65
    default_hint = "Results are kept for five minutes unless the server was told otherwise."


class AlreadyTerminalError(ServerError):
    """The generation has ended: it can neither be cancelled nor changed any more."""

    code = "ALREADY_TERMINAL"
    http_status = 409
    exit_code = 66


class InterruptedGenerationError(ServerError):
    """The server ended before the generation did; nothing of it was kept."""

    code = "INTERRUPTED"
    http_status = 500
    exit_code = 67
    default_hint = "Ask for it again."


class GenerationCancelledError(ServerError):
    """Somebody else cancelled the generation that was waited for."""

    code = "CANCELLED"
    http_status = 409
    exit_code = 68


class GalleryOffError(ServerError, LookupError):
    """The server keeps no gallery: it was started without a folder for one."""

    code = "GALLERY_OFF"
    http_status = 404
    exit_code = 58
    default_hint = "Start the server with --gallery and a folder to keep what is drawn."


class ImageNotFoundError(ServerError, LookupError):
    """The gallery has no image of this id, or not any more."""

    code = "IMAGE_NOT_FOUND"
    http_status = 404
    exit_code = 59


class ImageFormingError(ServerError):
    """The image of the gallery is still being drawn: it cannot be deleted yet."""

    code = "IMAGE_FORMING"
    http_status = 409
    exit_code = 53
    default_hint = "Cancel its generation, or wait until it is whole."


class ServerUnreachableError(ServerError, ConnectionError):
    """No server answers at this address, or the connection to it broke."""

    code = "SERVER_UNREACHABLE"
    http_status = 502
    exit_code = 52
    default_hint = "Start one with 'sdmanager serve', and use the address that it prints."


class IdempotencyKeyError(ServerError):
    """The key was used before, with another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    http_status = 422
    exit_code = 69
    default_hint = "Use a new key for a new request."
