"""What is wrong with a model, by what the engine says of it: a pure function."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    ModelComponentMissingError,
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    ModelUnsupportedError,
)

from .reasons import searchable, shorten

if TYPE_CHECKING:
    from .reasons import Diary

_FILE_MISSING: Final = re.compile(r"^file (.*) not found$")
_UNKNOWN_FORMAT: Final = re.compile(r"^unknown format (.*)$")
_TENSOR_MISSING: Final = re.compile(r"tensor '([^']+)' not in model (?:file|metadata)")
# The older build loads in threads that spoil each other's "read tensor data failed" about once in six runs.
_CORRUPT: Final = re.compile(
    r"read tensor data failed|load tensors from file failed"
    r"|data offsets out of bounds|incomplete file|not a valid GGUF|read meta data failed"
    r"|failed to open(?! /proc/)|invalid header|json parse|size mismatch|tensor '.*' has wrong shape|wrong shape",
    re.IGNORECASE,
)
_UNSUPPORTED: Final = re.compile(
    r"get sd version from file failed|init model loader from file failed|unsupported|unknown tensor|not compatible",
    re.IGNORECASE,
)

_GET_AGAIN: Final = (
    "Download the file again; 'sdmanager models verify NAME' says which file of an installed model it is."
)

# By the start of a missing tensor's name, the longest first: what the user has to give.
_COMPONENT_OF_PREFIX: Final = {
    "text_encoders.llm.visual": ("text encoder's part that sees pictures", "--llm-vision"),
    "text_encoders.llm": ("text encoder (a language model)", "--llm"),
    "text_encoders.t5xxl": ("text encoder T5-XXL", "--t5xxl"),
    "text_encoders.clip_l": ("text encoder CLIP-L", "--clip-l"),
    "text_encoders.clip_g": ("text encoder CLIP-G", "--clip-g"),
    "cond_stage_model": ("text encoder CLIP", "--clip-l"),
    "first_stage_model": ("VAE", "--vae"),
    "vae": ("VAE", "--vae"),
    "tae": ("tiny autoencoder", "--tae"),
    "model.diffusion_model": ("diffusion model", "--diffusion-model"),
}


def explain_model(diary: Diary, details: dict[str, object]) -> ModelError | None:
    """The error of the model that a run has met, or None where it said nothing against the model.

    Args:
        diary: What the engine said.
        details: Of the error.
    """
    for warning in diary.warnings:
        if _FILE_MISSING.match(warning):
            return ModelNotFoundError(
                "A model file is not there any more.",
                hint="Put it back, or get an installed model again with 'sdmanager models pull NAME'.",
                details=details,
            )
    missing = [match[1] for message in diary.errors for match in _TENSOR_MISSING.finditer(message)]
    if missing:
        return _explain_missing(missing, diary.family, {**details, "tensors": missing[:20]})
    for message in diary.errors:
        if _CORRUPT.search(searchable(message)):
            return ModelCorruptError(
                f"A model file is damaged or cut short: {shorten(message)}.", hint=_GET_AGAIN, details=details
            )
    if any(_UNKNOWN_FORMAT.match(warning) for warning in diary.warnings):
        return ModelCorruptError(
            "A model file is neither safetensors nor GGUF nor a checkpoint: it is damaged or no model.",
            hint=_GET_AGAIN,
            details=details,
        )
    for message in diary.errors:
        if _UNSUPPORTED.search(searchable(message)):
            return ModelUnsupportedError(
                f"This engine cannot tell what the model is: {shorten(message)}.", details=details
            )
    return None


def _explain_missing(missing: list[str], family: str | None, details: dict[str, object]) -> ModelError:
    parts = {part: flag for name in missing for part, flag in [_component_of(name)] if part}
    if parts:
        return ModelComponentMissingError(
            f"The model ({family or 'unknown family'}) lacks its {' and its '.join(parts)}: "
            f"{len(missing)} tensors are missing, such as {missing[0]!r}.",
            hint=f"Give the missing file too, with {' and '.join(dict.fromkeys(parts.values()))}, or get a model with "
            "all of its files by 'sdmanager models pull NAME'.",
            details=details,
        )
    return ModelUnsupportedError(
        f"The model lacks {len(missing)} tensors that this engine expects, such as {missing[0]!r}.",
        details=details,
    )


def _component_of(tensor: str) -> tuple[str | None, str]:
    for prefix, (part, flag) in _COMPONENT_OF_PREFIX.items():
        if tensor.startswith(prefix):
            return part, flag
    return None, ""
