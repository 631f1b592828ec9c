"""What a run of the engine ended with in the place of a picture."""

from __future__ import annotations

from .base import SDManagerError


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
