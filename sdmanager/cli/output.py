"""What a command says on stdout, and how an error is shown."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

from sdmanager.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.errors import SDManagerError


def say(text: str) -> None:
    """Print a line on stdout, at once.

    A reader that has gone (``| head``) is no error.

    Raises:
        StorageError: Stdout cannot be written, such as to a full disk.
    """
    try:
        print(text, flush=True)
    except OSError as exc:
        _discard(sys.stdout)
        if not isinstance(exc, BrokenPipeError):
            raise StorageError(f"The output cannot be written: {exc.strerror or exc}.") from exc


def note(text: str) -> None:
    """Print a line on stderr; that its reader or its terminal has gone stops nothing."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def megabytes(size: float) -> str:
    """A size as people read it, in decimal units."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


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


def _discard(stream: TextIO) -> None:
    # What is still buffered would be tried again at exit, and fail there with a message of Python's own.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
