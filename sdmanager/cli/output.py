"""What a command says on stdout, and how an error is shown."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

from sdmanager.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.errors import SDManagerError


def say(text: str) -> None:
    """Print a line on stdout, at once, with what could drive a terminal escaped.

    A reader that has gone (``| head``) is no error.

    Raises:
        StorageError: Stdout cannot be written, such as to a full disk.
    """
    try:
        print(_shown(text), flush=True)
    except OSError as exc:
        _discard(sys.stdout)
        if not isinstance(exc, BrokenPipeError):
            raise StorageError(f"The output cannot be written: {exc.strerror or exc}.") from exc


def note(text: str) -> None:
    """Print a line on stderr; that its reader or its terminal has gone stops nothing."""
    try:
        print(_shown(text), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def megabytes(size: float) -> str:
    """A size as people read it, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def counted(count: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """A name or a path in one line, with what could drive a terminal, or hide what it is, escaped."""
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) else char.encode("unicode_escape").decode() for char in text)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where it cannot be read."""
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:
        return 0


def camel_case(value: Any) -> Any:
    """The same facts with names as all our JSON has them."""
    if isinstance(value, dict):
        return {
            re.sub(r"_(\w)", lambda match: match[1].upper(), name): camel_case(item)
            for name, item in value.items()
        }
    return [camel_case(item) for item in value] if isinstance(value, list | tuple) else value


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself for one file, ``NAME_0``, ``NAME_1``, … for several, as the engine numbers them."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{index}{path.suffix}") for index in range(count)]


def report_error(error: SDManagerError, *, as_json: bool) -> None:
    """Show an error: one sentence and a hint on stderr, and with ``--json`` an object on stdout."""
    note(f"sdmanager: {error.message}")
    if error.hint:
        note(f"  {error.hint}")
    if as_json and not sys.stdout.closed:
        try:
            say(json.dumps({"error": {"message": error.message, "code": error.code, "hint": error.hint}}))
        except StorageError:
            return


def _shown(text: str) -> str:
    return "".join(part if part in "\n\t" else printable(part) for part in re.split(r"([\n\t])", text))


def _is_shown(char: str) -> bool:
    # Spaces of other widths, and what this Python's Unicode does not know yet, harm nothing.
    return char.isprintable() or unicodedata.category(char) in {"Zs", "Cn", "Co"}


def _discard(stream: TextIO) -> None:
    # What is still buffered would be tried again at exit, and fail there with a message of Python's own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
