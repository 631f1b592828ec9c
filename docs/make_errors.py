"""Writes docs/errors.md from the classes themselves: `python docs/make_errors.py`."""

from __future__ import annotations

from pathlib import Path

from sdmanager import errors

HEADER = """# Errors

Each error has a type, a code (stable, for programs), an HTTP status and an exit code of the command line.
Made by `docs/make_errors.py`.

| type | code | exit | HTTP | meaning |
| --- | --- | --- | --- | --- |
"""

FOOTER = """
Besides these, the command line exits with 0 on success, 2 on wrong usage, 130 after Ctrl-C and 143 after SIGTERM.
"""


def table() -> str:
    """The whole page."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    rows = [
        f"| `{kind.__name__}` | `{kind.code}` | {kind.exit_code} | {kind.http_status} | "
        f"{(kind.__doc__ or '').splitlines()[0]} |"
        for kind in sorted(kinds, key=lambda kind: kind.exit_code)
    ]
    return HEADER + "\n".join(rows) + "\n" + FOOTER


if __name__ == "__main__":
    Path(__file__).with_name("errors.md").write_text(table(), encoding="utf-8")
