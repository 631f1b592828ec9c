"""Engine binaries: what they can do, which are there, and building one from source."""

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
