"""Every error a caller can meet, each with a code, an HTTP status, an exit code and a hint.

One root, so that ``except SDManagerError`` catches what this package raises on purpose and nothing else.
Nothing classifies an error by its text: code and class carry the meaning, the message is for people.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class SDManagerError(Exception):
    """Root of all errors raised on purpose by sdmanager.

    Attributes:
        code: Stable, upper-case name for programs to compare.
        http_status: Status with which the HTTP API answers.
        exit_code: Exit status of the command line.
        hint: What to do about it, one sentence, or None.
        details: Facts for programs (bytes, paths, names), never formatted text.
    """

    code: ClassVar[str] = "UNKNOWN_ERROR"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        """Keep the message and, where given, a hint better than the class's own."""
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.details: dict[str, object] = dict(details or {})


class InvalidRequestError(SDManagerError):
    """The request itself cannot be carried out: the caller must change it.

    Not a ``ValueError``: pydantic would swallow one raised during validation into its own error.
    """

    code = "INVALID_REQUEST"
    http_status = 400
    exit_code = 2


class InputImageError(InvalidRequestError):
    """An image that the request names is missing or cannot be read."""

    code = "INPUT_IMAGE_INVALID"
    exit_code = 10


class ModelError(SDManagerError):
    """Something is wrong with the model, not with the engine."""

    code = "MODEL_ERROR"
    http_status = 422
    exit_code = 20


class ModelNotFoundError(ModelError, LookupError):
    """No such model, or a file of it is not there."""

    code = "MODEL_NOT_FOUND"
    http_status = 404
    exit_code = 21
    default_hint = "Check the path, or use the model named 'demo', which needs no file."


class ModelCorruptError(ModelError):
    """A model file is damaged, cut short, or no model at all."""

    code = "MODEL_CORRUPT"
    exit_code = 22
    default_hint = "Download the file again and compare its size with the publisher's."


class ModelComponentMissingError(ModelError):
    """The model lacks a part (text encoder, VAE) that this family needs."""

    code = "MODEL_COMPONENT_MISSING"
    exit_code = 23
    default_hint = "Give the missing file too: --llm, --clip-l, --clip-g, --t5xxl or --vae."


class ModelUnsupportedError(ModelError):
    """This version of the engine does not know the model's family or format."""

    code = "MODEL_UNSUPPORTED"
    exit_code = 24
    default_hint = (
        "Use a .safetensors or .gguf file of a family that this engine supports, or a newer engine."
    )


class BinaryError(SDManagerError):
    """The engine binary is missing, broken or cannot be built."""

    code = "BINARY_ERROR"
    http_status = 503
    exit_code = 30
    default_hint: ClassVar[str | None] = (
        "Run 'sdmanager engine build' to build one, or set SDMANAGER_ENGINE to your own sd-cli."
    )


class EngineNotFoundError(BinaryError):
    """There is no engine where one was expected."""

    code = "ENGINE_NOT_FOUND"
    exit_code = 31
    default_hint = (
        "Run 'sdmanager engine install' to get the best that works here, or set SDMANAGER_ENGINE to your own "
        "sd-cli."
    )


class EngineNotRunnableError(BinaryError):
    """The engine's file is there but cannot be executed on this machine."""

    code = "ENGINE_NOT_RUNNABLE"
    exit_code = 32


class BuildToolsMissingError(BinaryError):
    """A tool that the build needs is missing or too old."""

    code = "BUILD_TOOLS_MISSING"
    exit_code = 33
    default_hint: ClassVar[str | None] = None


class BuildFailedError(BinaryError):
    """The build started and did not end well; the engine in use before is untouched."""

    code = "BUILD_FAILED"
    exit_code = 34
    default_hint: ClassVar[str | None] = None


class DownloadError(BinaryError):
    """An archive could not be fetched, or is not the one that is pinned; nothing of it was used."""

    code = "DOWNLOAD_FAILED"
    exit_code = 35
    default_hint = "Check the connection, then run the command again."


class NoDeviceError(BinaryError):
    """The engine for an accelerator found no device and drew on the CPU, or could not start its driver."""

    code = "ENGINE_NO_DEVICE"
    exit_code = 36
    default_hint = "Check the driver of the graphics card, then run 'sdmanager engine test --force'."


class NoEngineWorksError(BinaryError):
    """Every engine that could be tried on this machine was tried, and none draws."""

    code = "NO_ENGINE_WORKS"
    exit_code = 37
    default_hint = "Run 'sdmanager doctor' to see what was tried and why it failed."


class GenerationError(SDManagerError):
    """The engine ran and gave no usable picture."""

    code = "BACKEND_ERROR"
    exit_code = 40
    default_hint = "Run 'sdmanager generate' with --verbose to see everything that the engine prints."


class EngineCrashedError(GenerationError):
    """The engine was ended by a signal that we did not send."""

    code = "ENGINE_CRASHED"
    exit_code = 41


class EngineOutOfMemoryError(GenerationError):
    """RAM or VRAM ran out."""

    code = "OUT_OF_MEMORY"
    exit_code = 42
    default_hint = (
        "Use a smaller size or quantisation of the model, or 'sdmanager generate' with --offload-to-cpu "
        "and --vae-tiling."
    )


class EngineArgumentError(GenerationError):
    """The engine refused an argument."""

    code = "ENGINE_ARGUMENT_REFUSED"
    exit_code = 43
    default_hint = "This engine may be older than sdmanager expects: try another, or leave the option out."


class NoImageError(GenerationError):
    """The engine ended well and wrote no image."""

    code = "NO_IMAGE"
    exit_code = 44


class TruncatedImageError(GenerationError):
    """The engine reported success but its image is cut short or unreadable."""

    code = "IMAGE_TRUNCATED"
    exit_code = 45


class BlankImageError(GenerationError):
    """Every pixel has one colour: what a silent failure of the hardware or its memory looks like."""

    code = "IMAGE_BLANK"
    exit_code = 46
    default_hint = (
        "Usually a sign of too little VRAM or a driver fault: try a smaller size or another backend."
    )


class EngineHungError(GenerationError):
    """The engine gave no sign of life, or no progress, for longer than its work explains."""

    code = "ENGINE_HUNG"
    exit_code = 47
    default_hint = "A driver that hangs is the usual cause: update it, or use another variant of the engine."


class StorageError(SDManagerError, OSError):
    """A file could not be written: disk full, no permission, no such folder."""

    code = "IO_ERROR"
    exit_code = 50
    default_hint = "Check that the folder exists, is writable and has free space."

    def __str__(self) -> str:
        """The message alone: OSError would print its own tuple of arguments."""
        return self.message


class OutputError(StorageError):
    """The place that the caller named for the result cannot be written."""

    code = "OUTPUT_NOT_WRITABLE"
    exit_code = 51


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


class IdempotencyKeyError(ServerError):
    """The key was used before, with another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    http_status = 422
    exit_code = 69
    default_hint = "Use a new key for a new request."


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
