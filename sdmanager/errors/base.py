"""The root of all errors, and what is wrong with a request."""

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

    @staticmethod
    def of_code(
        code: str, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None
    ) -> SDManagerError:
        """An error of the class that has this code, or of the root where none has, as of a newer server."""
        classes: list[type[SDManagerError]] = [SDManagerError]
        for kind in classes:
            if kind.code == code:
                return kind(message, hint=hint, details=details)
            classes += kind.__subclasses__()
        return SDManagerError(message, hint=hint, details=details)


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
