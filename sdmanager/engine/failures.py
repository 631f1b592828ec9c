"""Which error a failed run is: a pure function of how it ended and what it said."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    BinaryError,
    EngineArgumentError,
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    GenerationError,
    InputImageError,
    ModelComponentMissingError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    NoImageError,
    SDManagerError,
    StorageError,
)

if TYPE_CHECKING:
    from sdmanager.process import ExitStatus

_REASON_LENGTH: Final = 300


@dataclass(slots=True)
class Diary:
    """What a run has said that may explain its end.

    Attributes:
        errors: Messages at level ERROR, in order.
        warnings: Messages at level WARN, in order.
        stderr_tail: The end of stderr, for what is said without a tag (loader, driver, abort).
        family: What the engine took the model for, once it said so.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stderr_tail: str = ""
    family: str | None = None


# In the order in which they are tried: the most telling first. `said` is searched in what the engine said.
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|OutOfDeviceMemory|OutOfHostMemory|ErrorOutOf\w*Memory|failed to allocate "
    r"|alloc\w* (?:compute|params|runtime|partial|backend)[\w ]*failed|params buffer allocation failed"
    r"|too less memory|bad_alloc|cudaMalloc failed|hipErrorOutOfMemory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|Insufficient Memory|kIOGPUCommandBufferCallbackErrorOutOfMemory",
    re.IGNORECASE,
)
_NOT_RUNNABLE: Final = re.compile(
    r"error while loading shared libraries: [^\n]*|version `[^']+' not found[^\n]*|Library not loaded:[^\n]*"
    r"|cannot execute[^\n]*|Exec format error[^\n]*"
)
_DISK: Final = re.compile(
    r"No space left on device|Disk quota exceeded|save result image .* failed", re.IGNORECASE
)
_ARGUMENT: Final = re.compile(r"^error: (.*)", re.DOTALL)
_FILE_MISSING: Final = re.compile(r"^file (.*) not found$")
_UNKNOWN_FORMAT: Final = re.compile(r"^unknown format (.*)$")
_TENSOR_MISSING: Final = re.compile(r"tensor '([^']+)' not in model (?:file|metadata)")
# The older build loads in threads that spoil each other's "read tensor data failed" about once in six runs.
_CORRUPT: Final = re.compile(
    r"read tensor data failed|load tensors from file failed"
    r"|data offsets out of bounds|incomplete file|not a valid GGUF|read meta data failed"
    r"|failed to open|invalid header|json parse|size mismatch|tensor '.*' has wrong shape|wrong shape",
    re.IGNORECASE,
)
_UNSUPPORTED: Final = re.compile(
    r"get sd version from file failed|init model loader from file failed|unsupported|unknown tensor|not compatible",
    re.IGNORECASE,
)
_PATH_QUOTED: Final = re.compile(r"'[^'\n]*[/\\]([^'/\\\n]*)'")
_FOLDERS: Final = re.compile(
    r"""(?<![\w.~])(?:[A-Za-z]:)?~?[/\\](?:[^\s/\\:'"()]+(?:\ [^\s/\\:'"()]+)?[/\\])+""", re.VERBOSE
)
_IMAGE: Final = re.compile(r"load image from '[^']*' failed|failed to encode (?:init|masked|reference) image")

# By the start of a missing tensor's name: what the user has to give.
_COMPONENT_OF_PREFIX: Final = {
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


def explain_failure(status: ExitStatus, diary: Diary) -> SDManagerError:
    """The error that a run which did not end well stands for.

    Args:
        status: How the process ended.
        diary: What it said.

    Returns:
        An error of the closest type, with the engine's own reason in its message.
    """
    said = _all_said(diary)
    details: dict[str, object] = {
        "exit_code": status.code,
        "signal": status.signal,
        "errors": diary.errors[-5:],
    }
    runnable = _NOT_RUNNABLE.search(diary.stderr_tail)
    if runnable:
        return EngineNotRunnableError(
            f"The engine cannot run on this machine: {_shorten(runnable.group())}.", details=details
        )
    memory = _OUT_OF_MEMORY.search(said)
    if memory:
        return EngineOutOfMemoryError(
            f"The engine ran out of memory: {_line_of(said, memory)}.", details=details
        )
    if _DISK.search(said):
        return StorageError("The engine could not write its files: the disk may be full.", details=details)
    model_error = _explain_model(diary, details)
    if model_error is not None:
        return model_error
    if status.signal is not None:
        return _explain_signal(status.signal, diary, details)
    for message in diary.errors:
        refused = _ARGUMENT.match(message)
        if refused:
            return EngineArgumentError(
                f"The engine refused an argument: {_shorten(refused[1])}.", details=details
            )
    if _IMAGE.search(said):
        return InputImageError(
            "The engine could not read the input image.", hint="Use another picture.", details=details
        )
    reason = diary.errors[-1] if diary.errors else _last_line(diary.stderr_tail)
    if status.code is None:
        return GenerationError(
            "The engine ended, but another part of this program took its exit status away.", details=details
        )
    if status.code in {126, 127} and not diary.errors:
        return EngineNotRunnableError(
            f"The engine cannot be started: {_shorten(reason or 'no reason was given')}.", details=details
        )
    ended = f"ended with exit code {status.code}"
    if not diary.errors and not reason:
        return GenerationError(f"The engine {ended} and gave no reason.", details=details)
    return GenerationError(f"The engine {ended}: {_shorten(reason)}.", details=details)


def explain_picture(error: GenerationError, diary: Diary) -> GenerationError:
    """The error behind a picture that is missing, cut or blank although the engine ended well.

    Args:
        error: What is wrong with the picture.
        diary: What the engine said.

    Returns:
        That error, or a closer one: memory that ran out has been reported as a grey picture with exit code 0.
    """
    said = _all_said(diary)
    memory = _OUT_OF_MEMORY.search(said)
    if memory:
        return EngineOutOfMemoryError(
            f"The engine ran out of memory: {_line_of(said, memory)}.", details=error.details
        )
    if isinstance(error, NoImageError) and diary.errors:
        return NoImageError(
            f"The engine wrote no image: {_shorten(diary.errors[-1])}.", details=error.details
        )
    return error


def _all_said(diary: Diary) -> str:
    said = "\n".join([*diary.errors, *diary.warnings, diary.stderr_tail])
    # Pinned memory is a luxury: the engine goes on without it.
    return "\n".join(line for line in said.split("\n") if "pinned memory" not in line)


def _explain_model(diary: Diary, details: dict[str, object]) -> SDManagerError | None:
    for warning in diary.warnings:
        if _FILE_MISSING.match(warning):
            return ModelNotFoundError("A model file is not there any more.", details=details)
    missing = [match[1] for message in diary.errors for match in _TENSOR_MISSING.finditer(message)]
    if missing:
        parts = {part: flag for name in missing for part, flag in [_component_of(name)] if part}
        if parts:
            return ModelComponentMissingError(
                f"The model ({diary.family or 'unknown family'}) lacks its {' and its '.join(parts)}: "
                f"{len(missing)} tensors are missing, such as {missing[0]!r}.",
                hint=f"Give the missing file too, with {' and '.join(dict.fromkeys(parts.values()))}.",
                details={**details, "tensors": missing[:20]},
            )
        return ModelUnsupportedError(
            f"The model lacks {len(missing)} tensors that this engine expects, such as {missing[0]!r}.",
            details={**details, "tensors": missing[:20]},
        )
    for message in diary.errors:
        if _CORRUPT.search(message):
            return ModelCorruptError(
                f"A model file is damaged or cut short: {_shorten(message)}.", details=details
            )
    if any(_UNKNOWN_FORMAT.match(warning) for warning in diary.warnings):
        return ModelCorruptError(
            "A model file is neither safetensors nor GGUF nor a checkpoint: it is damaged or no model.",
            details=details,
        )
    for message in diary.errors:
        if _UNSUPPORTED.search(message):
            return ModelUnsupportedError(
                f"This engine cannot tell what the model is: {_shorten(message)}.", details=details
            )
    return None


def _explain_signal(number: int, diary: Diary, details: dict[str, object]) -> SDManagerError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    said = f": {_shorten(diary.errors[-1])}" if diary.errors else ""
    if name == "SIGILL":
        return BinaryError(
            f"The engine uses processor instructions that this machine lacks ({name}).",
            hint="Build one for this machine with 'sdmanager engine build'.",
            details=details,
        )
    if name == "SIGKILL":
        return EngineOutOfMemoryError(
            f"The engine was killed ({name}), most likely because RAM ran out{said}.", details=details
        )
    return EngineCrashedError(f"The engine crashed ({name}){said}.", details=details)


def _component_of(tensor: str) -> tuple[str | None, str]:
    for prefix, (part, flag) in _COMPONENT_OF_PREFIX.items():
        if tensor.startswith(prefix):
            return part, flag
    return None, ""


def _line_of(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return _shorten(text[start : end if end >= 0 else None])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _shorten(reason: str) -> str:
    """The reason on one line of bounded length; of paths only the names, for folders are the user's own business."""
    reason = _FOLDERS.sub("", _PATH_QUOTED.sub(r"'\1'", reason))
    reason = " ".join(reason.split()).rstrip(".: ")
    return reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…"
