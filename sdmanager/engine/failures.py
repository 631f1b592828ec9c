"""Which error a failed run is: a pure function of how it ended and what it said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sdmanager.binaries.loader_errors import explain_loader, signal_name, windows_end
from sdmanager.errors import (
    BinaryError,
    EngineArgumentError,
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    GenerationError,
    InputImageError,
    NoImageError,
    SDManagerError,
    StorageError,
)
from sdmanager.process import StopOutcome

from .driver_failures import explain_driver, explain_lost_device
from .model_failures import explain_model
from .reasons import Diary as Diary
from .reasons import all_said, last_line, line_of, searchable, shorten

if TYPE_CHECKING:
    from sdmanager.process import ExitStatus

# In the order in which they are tried: the most telling first.
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|OutOfDeviceMemory|OutOfHostMemory|ErrorOutOf\w*Memory|failed to allocate (?!context)"
    r"|alloc\w* (?:compute|params|runtime|partial|backend)[\w ]*failed|params buffer allocation failed"
    r"|memory allocation of size \d+ failed|too less memory|bad_alloc|cudaMalloc failed|hipErrorOutOfMemory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|Insufficient Memory|kIOGPUCommandBufferCallbackErrorOutOfMemory"
    r"|graph allocation: failed to reserve memory|OUT_OF_(?:DEVICE|HOST)_MEMORY|larger than buffer maximum"
    r"|Cannot allocate memory|paging file is too small",
    re.IGNORECASE,
)
# Metal goes on computing with what is not there, and the engine ends well (llama.cpp issue 1881).
_SPOILT: Final = re.compile(r"kIOGPUCommandBufferCallbackErrorOutOfMemory")
# Without the card the engine goes on, so that this says nothing about its own memory.
_SURVIVED: Final = re.compile(r"^ggml_\w+: failed to initialize [^\n]*", re.MULTILINE)
_DISK: Final = re.compile(
    r"No space left on device|Disk quota exceeded|save result image .* failed", re.IGNORECASE
)
_ARGUMENT: Final = re.compile(r"^error: (.*)", re.DOTALL)
_IMAGE: Final = re.compile(r"load image from '[^']*' failed|failed to encode (?:init|masked|reference) image")
_LAST_WORDS: Final = re.compile(r"GGML_ASSERT\([^\n]{1,200}\) failed|(?<=what\(\): )[^\n]+")

_KILLED: Final = "SIGKILL"

_CRASH_HINTS: Final = {
    "SIGILL": "Build one for this machine with 'sdmanager engine build'.",
    "SIGBUS": "Check that the model's files are whole and that their disk is neither full nor failing.",
}
_CRASH_HINT: Final = (
    "Run 'sdmanager engine test --force' to see whether the engine works at all, "
    "and --verbose to see what it prints."
)


def explain_failure(status: ExitStatus, diary: Diary) -> SDManagerError:
    """The error that a run which did not end well stands for.

    Args:
        status: How the process ended.
        diary: What it said.

    Returns:
        An error of the closest type, with the engine's own reason in its message.
    """
    said = all_said(diary)
    details: dict[str, object] = {
        "exit_code": status.code,
        "signal": status.signal,
        "errors": diary.errors[-5:],
    }
    # A program that has said something of its own was loaded: 126 and 127 are then codes like any other.
    loader = explain_loader(searchable(diary.stderr_tail), None if diary.errors else status.code)
    if loader:
        facts = {"missing": loader.missing} if loader.missing else {}
        return EngineNotRunnableError(
            f"The engine {shorten(loader.clause)}.", hint=loader.hint, details={**details, **facts}
        )
    memory = _OUT_OF_MEMORY.search(_SURVIVED.sub("", said))
    if memory:
        return EngineOutOfMemoryError(
            f"The engine ran out of memory: {line_of(_SURVIVED.sub('', said), memory)}.", details=details
        )
    if driver := explain_driver(said, details):
        return driver
    if _DISK.search(said):
        return StorageError("The engine could not write its files: the disk may be full.", details=details)
    if model_error := explain_model(diary, details):
        return model_error
    return _explain_end(status, diary, details)


def explain_picture(error: GenerationError, diary: Diary) -> GenerationError:
    """The error behind a picture that is missing, cut or blank although the engine ended well.

    Args:
        error: What is wrong with the picture.
        diary: What the engine said.

    Returns:
        That error, or a closer one: memory that ran out has been reported as a grey picture with exit code 0.
    """
    said = _SURVIVED.sub("", all_said(diary))
    memory = _OUT_OF_MEMORY.search(said)
    if memory:
        return EngineOutOfMemoryError(
            f"The engine ran out of memory: {line_of(said, memory)}.", details=error.details
        )
    if isinstance(error, NoImageError) and diary.errors:
        return NoImageError(f"The engine wrote no image: {shorten(diary.errors[-1])}.", details=error.details)
    return error


def check_whole(diary: Diary) -> None:
    """See that nothing was said by which a picture cannot be right, whatever it looks like.

    Raises:
        EngineOutOfMemoryError: Memory ran out while it was computed.
    """
    said = all_said(diary)
    if spoilt := _SPOILT.search(said):
        raise EngineOutOfMemoryError(f"The engine ran out of memory: {line_of(said, spoilt)}.")


def was_killed(status: ExitStatus) -> bool:
    """Whether somebody else ended it the way the kernel does when RAM runs out."""
    by_us = status.outcome is not StopOutcome.EXITED
    return status.signal is not None and signal_name(status.signal) == _KILLED and not by_us


def _explain_end(status: ExitStatus, diary: Diary, details: dict[str, object]) -> SDManagerError:
    """The error by how the process ended, where nothing that it said is more telling."""
    words = [match.group() for match in _LAST_WORDS.finditer(searchable(diary.stderr_tail))]
    reason = diary.errors[-1] if diary.errors else words[-1] if words else last_line(diary.stderr_tail)
    if lost := explain_lost_device(searchable(reason), details):
        return lost
    if status.signal is not None:
        name = signal_name(status.signal)
        return _explain_crash(name, name, diary.errors or words, details)
    if status.code is not None and (end := windows_end(status.code)):
        return _explain_crash(
            end[0], f"{end[1]}, 0x{status.code & 0xFFFFFFFF:08X}", diary.errors or words, details
        )
    for message in diary.errors:
        refused = _ARGUMENT.match(message)
        if refused:
            return EngineArgumentError(
                f"The engine refused an argument: {shorten(refused[1])}.", details=details
            )
    if _IMAGE.search("\n".join(diary.errors)):
        return InputImageError(
            "The engine could not read the input image.", hint="Use another picture.", details=details
        )
    if status.code is None:
        return GenerationError(
            "The engine ended, but another part of this program took its exit status away.", details=details
        )
    ended = f"ended with exit code {status.code}"
    if not diary.errors and not reason:
        return GenerationError(f"The engine {ended} and gave no reason.", details=details)
    return GenerationError(f"The engine {ended}: {shorten(reason)}.", details=details)


def _explain_crash(
    kind: str | None, shown: str, words: list[str], details: dict[str, object]
) -> SDManagerError:
    said = f": {shorten(words[-1])}" if words else ""
    if kind == "SIGILL":
        return BinaryError(
            f"The engine uses processor instructions that this machine lacks ({shown}).",
            hint=_CRASH_HINTS[kind],
            details=details,
        )
    if kind is None or kind == _KILLED:
        return EngineOutOfMemoryError(
            f"The engine was killed ({shown}), most likely because RAM ran out{said}.", details=details
        )
    return EngineCrashedError(
        f"The engine crashed ({shown}){said}.", hint=_CRASH_HINTS.get(kind, _CRASH_HINT), details=details
    )
