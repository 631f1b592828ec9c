"""Engine binaries: what they can do, which are there, and building one from source.

The builder is loaded when first used: drawing with an engine that is there needs nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .binary import CUSTOM as CUSTOM
from .binary import VARIANTS as VARIANTS
from .binary import EngineBinary as EngineBinary
from .capabilities import Capabilities as Capabilities
from .capabilities import parse_help as parse_help
from .inspection import inspect_engine as inspect_engine
from .installed import find_engine as find_engine
from .installed import list_installed as list_installed
from .progress import BuildPhase as BuildPhase
from .progress import BuildProgress as BuildProgress

if TYPE_CHECKING:
    from .source import build_engine as build_engine

__all__ = (
    "CUSTOM",
    "VARIANTS",
    "BuildPhase",
    "BuildProgress",
    "Capabilities",
    "EngineBinary",
    "build_engine",
    "find_engine",
    "inspect_engine",
    "list_installed",
    "parse_help",
)


def __getattr__(name: str) -> object:
    """Load the builder on first use (PEP 562)."""
    if name != "build_engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .source import build_engine

    globals()[name] = build_engine
    return build_engine
