"""Engine binaries: which would suit this machine, getting one, what it can do, and what is known of it.

What fetches, builds and chooses is loaded when first used: drawing with an engine that is known needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .binary import CUSTOM as CUSTOM
from .binary import VARIANTS as VARIANTS
from .binary import EngineBinary as EngineBinary
from .capabilities import Capabilities as Capabilities
from .capabilities import parse_help as parse_help
from .ensure import Ensured as Ensured
from .ensure import ensure_binary as ensure_binary
from .ensure import in_use as in_use
from .ensure import own_failure as own_failure
from .ensure import record_failure as record_failure
from .ensure import record_success as record_success
from .ensure import surroundings as surroundings
from .inspection import inspect_engine as inspect_engine
from .installed import find_engine as find_engine
from .installed import list_installed as list_installed
from .marks import require_unaltered as require_unaltered
from .progress import EnginePhase as EnginePhase
from .progress import EngineProgress as EngineProgress
from .proof import Meaning as Meaning
from .proof import Proof as Proof
from .proof import meaning_of as meaning_of
from .verdicts import Verdict as Verdict
from .verdicts import read_book as read_book

if TYPE_CHECKING:
    from .choosing import Candidate as Candidate
    from .choosing import choose as choose
    from .manifest import Manifest as Manifest
    from .manifest import load_manifest as load_manifest
    from .programs import programs_in_path as programs_in_path
    from .pruning import prune as prune
    from .release import install_release as install_release
    from .source import build_engine as build_engine

_LATE = {
    "Candidate": "choosing",
    "Manifest": "manifest",
    "build_engine": "source",
    "choose": "choosing",
    "install_release": "release",
    "load_manifest": "manifest",
    "programs_in_path": "programs",
    "prune": "pruning",
}

__all__ = (
    "CUSTOM",
    "VARIANTS",
    "Candidate",
    "Capabilities",
    "EngineBinary",
    "EnginePhase",
    "EngineProgress",
    "Ensured",
    "Manifest",
    "Meaning",
    "Proof",
    "Verdict",
    "build_engine",
    "choose",
    "ensure_binary",
    "find_engine",
    "in_use",
    "inspect_engine",
    "install_release",
    "list_installed",
    "load_manifest",
    "meaning_of",
    "own_failure",
    "parse_help",
    "programs_in_path",
    "prune",
    "read_book",
    "record_failure",
    "record_success",
    "require_unaltered",
    "surroundings",
)


def __getattr__(name: str) -> object:
    """Load what is rarely needed on first use (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
    globals()[name] = value
    return value
