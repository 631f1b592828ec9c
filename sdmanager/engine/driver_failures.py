"""Which error a driver's failure is: a pure search in what the engine said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.binaries.loader_errors import explain_library
from sdmanager.errors import NoDeviceError, SDManagerError

from .driver_table import BUILD, DRIVER_FAILURES, OVERRIDE
from .reasons import line_of, searchable

if TYPE_CHECKING:
    from .driver_table import DriverFailure

_DRIVERS: Final = {"CUDA": "NVIDIA's driver", "ROCm": "ROCm", "MUSA": "the MUSA driver"}
_VARIANTS: Final = {"CUDA": "cuda", "ROCm": "rocm", "MUSA": "musa"}

# The engine loads its parts for cards as libraries, and goes on without those that cannot be loaded.
_PART: Final = re.compile(
    r"^\w+: failed to load [^\n]{0,500}?: (?P<name>[\w.+-]{1,200}): cannot open shared object file",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class _Finding:
    error: type[SDManagerError]
    clause: str
    hint: str | None
    facts: dict[str, object]


def explain_driver(said: str, details: dict[str, object]) -> SDManagerError | None:
    """The error of a driver that ended a run, or None where none did.

    Args:
        said: What the engine said, as ``reasons.searchable`` gives it.
        details: Of the error.
    """
    found = _find(said, survived=False)
    if found is None:
        return None
    return found.error(f"{_capital(found.clause)}.", hint=found.hint, details={**details, **found.facts})


def explain_lost_device(said: str, details: dict[str, object]) -> NoDeviceError | None:
    """The error of a driver that the engine went on without, or None where there is none.

    Args:
        said: What the engine said, as ``reasons.searchable`` gives it.
        details: Of the error.
    """
    found = _find(said, survived=True)
    if found is None:
        return None
    return NoDeviceError(f"{_capital(found.clause)}.", hint=found.hint, details={**details, **found.facts})


def explain_no_device(variant: str, said: str = "") -> NoDeviceError:
    """The error of an engine for an accelerator that ended well and has drawn on the CPU.

    Args:
        variant: Of the engine.
        said: Both streams of its output, as they came.
    """
    message = f"The {variant} engine found no device that it can use and drew on the CPU"
    found = _find(searchable(said), survived=True)
    if found is None:
        return NoDeviceError(f"{message}.", details={"variant": variant})
    return NoDeviceError(
        f"{message}: {found.clause}.", hint=found.hint, details={"variant": variant, **found.facts}
    )


def _find(said: str, *, survived: bool) -> _Finding | None:
    part = _PART.search(said) if survived else None
    if part is not None:
        library = explain_library(part["name"])
        clause = f"its part for the graphics card {library.clause}"
        return _Finding(NoDeviceError, clause, library.hint, {"missing": library.missing})
    for failure in DRIVER_FAILURES:
        for match in failure.said.finditer(said):
            lost = failure.survived or match.groupdict().get("survived") is not None
            if lost is survived:
                return _finding(failure, said, match)
    return None


def _finding(failure: DriverFailure, said: str, match: re.Match[str]) -> _Finding:
    names = match.groupdict()
    api = names.get("api") or names.get("lost") or "CUDA"
    words = line_of(said, match)
    hint = OVERRIDE if api == "ROCm" and failure.hint is BUILD else failure.hint
    clause = failure.clause.format(driver=_DRIVERS[api])
    return _Finding(
        failure.error,
        f"{clause}: {words}" if failure.shown and words else clause,
        hint.format(variant=_VARIANTS[api]),
        {"said": words} | ({"passing": True} if failure.passing else {}),
    )


def _capital(clause: str) -> str:
    return clause[0].upper() + clause[1:]
