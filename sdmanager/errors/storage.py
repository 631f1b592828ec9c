"""What could not be written."""

from __future__ import annotations

from .base import SDManagerError


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
