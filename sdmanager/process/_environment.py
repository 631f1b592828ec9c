from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Read by the shell that guards a child, before the child is there.
_SHELL_SETTINGS = frozenset({"BASHOPTS", "BASH_ENV", "ENV", "SHELLOPTS"})

# What clients of our server, or of a llama-server, must show is no business of a program that we start.
_SECRETS = frozenset({"LLAMA_API_KEY", "SDMANAGER_TOKEN"})


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment of a child.

    It is a copy of this process's environment in which numbers are printed with a decimal point, without
    what configures this process's own interpreter, and without secrets of ours. LD_PRELOAD stays: whoever
    set it (an allocator, a profiler, a driver shim) means the engine at least as much as this process.

    Args:
        extra: Variables to add; they win over everything else.

    Returns:
        A new dictionary that the caller owns.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON")
        and name != "__PYVENV_LAUNCHER__"
        and name not in _SHELL_SETTINGS | _SECRETS
    }
    _use_decimal_point(environment)
    _restore_library_path(environment)
    environment.update(extra or {})
    return environment


def _use_decimal_point(environment: dict[str, str]) -> None:
    # The engine prints with printf, so a locale with a decimal comma would change what is parsed. LC_ALL
    # overrides LC_NUMERIC; as LANG without other LC_ variables it means the same to every other category.
    if everything := environment.pop("LC_ALL", ""):
        for name in [name for name in environment if name.startswith("LC_")]:
            del environment[name]
        environment["LANG"] = everything
    environment["LC_NUMERIC"] = "C"


def _restore_library_path(environment: dict[str, str]) -> None:
    # PyInstaller points LD_LIBRARY_PATH at its bundle and keeps the user's value in *_ORIG. A child would
    # load the bundle's libraries: https://pyinstaller.org/en/stable/common-issues-and-pitfalls.html
    if not hasattr(sys, "_MEIPASS"):
        return
    original = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is None:
        environment.pop("LD_LIBRARY_PATH", None)
    else:
        environment["LD_LIBRARY_PATH"] = original
