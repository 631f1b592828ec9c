"""Room in RAM and VRAM: what a run needs, the memory flags for it, and who is put aside and brought back.

The policy is pure (``demand``, ``ladder``, ``planning``); what measures, asks and keeps books is apart. Programs
that can be put aside are loaded when they are first used, so that a start waits for none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .footprint import Footprint as Footprint
from .footprint import Learned as Learned
from .footprint import Peak as Peak
from .leases import Lease as Lease
from .leases import NoStricterPlanError as NoStricterPlanError
from .leases import SavedState as SavedState
from .offloadable import Holding as Holding
from .offloadable import Offloadable as Offloadable
from .offloadable import State as State
from .offloading import DEFAULT_LINGER as DEFAULT_LINGER
from .offloading import DEFAULT_THRESHOLD as DEFAULT_THRESHOLD
from .offloading import OffloadingConfig as OffloadingConfig
from .offloading import refuse_doubles as refuse_doubles
from .orchestrator import ResourceOrchestrator as ResourceOrchestrator
from .peaks import PeakEntry as PeakEntry
from .peaks import PeakStore as PeakStore
from .supply import Supply as Supply
from .watching import MemoryWatch as MemoryWatch
from .watching import watch_memory as watch_memory

if TYPE_CHECKING:
    from .configuration import load_offloading as load_offloading
    from .hooks import HookOffloadable as HookOffloadable
    from .llama_server import LlamaServer as LlamaServer
    from .llama_swap import LlamaSwap as LlamaSwap
    from .ollama import Ollama as Ollama

_HOMES: Final = {
    "HookOffloadable": "hooks",
    "LlamaServer": "llama_server",
    "LlamaSwap": "llama_swap",
    "Ollama": "ollama",
    "load_offloading": "configuration",
}

__all__ = (
    "DEFAULT_LINGER",
    "DEFAULT_THRESHOLD",
    "Footprint",
    "Holding",
    "HookOffloadable",
    "Learned",
    "Lease",
    "LlamaServer",
    "LlamaSwap",
    "MemoryWatch",
    "NoStricterPlanError",
    "Offloadable",
    "OffloadingConfig",
    "Ollama",
    "Peak",
    "PeakEntry",
    "PeakStore",
    "ResourceOrchestrator",
    "SavedState",
    "State",
    "Supply",
    "load_offloading",
    "refuse_doubles",
    "watch_memory",
)


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
