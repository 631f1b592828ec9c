"""What does not fit this machine."""

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
