"""``Client``: a server of another process, from Python.

Names are loaded when first used: requests and pydantic take long to import.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for typing's own, without the cost of importing it

if TYPE_CHECKING:
    from .client import Client as Client
    from .facts import GalleryImage as GalleryImage
    from .facts import Health as Health
    from .facts import ModelInfo as ModelInfo

_HOMES = {"Client": "client", "GalleryImage": "facts", "Health": "facts", "ModelInfo": "facts"}

__all__ = ("Client", "GalleryImage", "Health", "ModelInfo")


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
