"""What an engine said, made fit to be searched and to be shown. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

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


_PATH_QUOTED: Final = re.compile(r"'[^'\n]*[/\\]([^'/\\\n]*)'")
_FOLDERS: Final = re.compile(
    r"""(?<![\w.~])(?:[A-Za-z]:)?~?[/\\](?:[^\s/\\:'"()]+(?:\ [^\s/\\:'"()]+)?[/\\])+""", re.VERBOSE
)
# Old builds name the place in their source first: "CUDA error 209 at ggml-cuda.cu:7188: …".
_SOURCE: Final = re.compile(r" \d+ at \S+:\d+(?=: )")
_NEXT_SENTENCE: Final = re.compile(r"\.\ (?=[A-Z])")
_TAG: Final = re.compile(r"^(?:\x1b\[[\d;]*m)?\[[A-Z ]{5}\](?:\x1b\[[\d;]*m)? (?:\S+:\d+ +- )?", re.MULTILINE)

# A LoRA's name stands in the prompt, so that a warning repeats words of the caller's. A name too long for the file
# system even ends the engine with an exception that holds it, line breaks and all.
_CALLERS_LINE: Final = re.compile(
    r"can not found lora |load lora tensors from |lora_file_path = |embedding '"
)
_CALLERS_PATH: Final = re.compile(r"filesystem error: [^\[\n]*\[.*\]", re.DOTALL)
_CALLERS_FILE: Final = re.compile(r"'[^'\n]*[/\\][^'\n]*'")


def all_said(diary: Diary) -> str:
    """All that may explain a failure, as ``searchable`` gives it: errors, warnings, and the end of stderr."""
    return searchable("\n".join([*diary.errors, *diary.warnings, diary.stderr_tail]))


def searchable(output: str) -> str:
    """Output with one message a line, without tags and without words of the caller's."""
    lines = _CALLERS_PATH.sub("filesystem error", _TAG.sub("", output)).split("\n")
    # Pinned memory is a luxury: the engine goes on without it.
    kept = (line for line in lines if "pinned memory" not in line and not _CALLERS_LINE.search(line))
    return _CALLERS_FILE.sub("'…'", "\n".join(kept))


def line_of(text: str, match: re.Match[str]) -> str:
    """The whole line in which something was found, fit to be shown."""
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return shorten(_SOURCE.sub("", text[start : end if end >= 0 else None]))


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def shorten(reason: str) -> str:
    """The reason on one line of bounded length; of paths only the names, for folders are the user's own business."""
    reason = _FOLDERS.sub("", _PATH_QUOTED.sub(r"'\1'", reason))
    # One sentence, where a driver says two.
    reason = _NEXT_SENTENCE.sub("; ", " ".join(reason.split())).rstrip(".: ")
    return reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…"
