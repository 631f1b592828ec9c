"""What does not fit this machine, and what makes room on it."""

from __future__ import annotations

from .base import SDManagerError


class InsufficientResourcesError(SDManagerError):
    """The model needs more RAM, VRAM or disk than there is."""

    code = "INSUFFICIENT_RESOURCES"
    http_status = 503
    exit_code = 55
    default_hint = (
        "Use a smaller option of the model, or a smaller model: 'sdmanager models list --all' shows them."
    )


class OffloadError(SDManagerError):
    """A program that holds memory could not be put aside."""

    code = "OFFLOAD_FAILED"
    http_status = 502
    exit_code = 56
    default_hint = "See that the program answers; until then pictures are drawn in the memory that it leaves."


class RestoreError(SDManagerError):
    """A program that was put aside could not be brought back; it is tried again."""

    code = "RESTORE_FAILED"
    http_status = 502
    exit_code = 57
    default_hint = "Start it by hand, or wait: it is tried again, less and less often."
