"""Callbacks by the name of what they want to hear of."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("sdmanager")


class Listeners:
    """Who wants to hear of what; a callback that raises is logged and harms nobody else."""

    def __init__(self) -> None:
        self._callbacks: defaultdict[str, list[Callable[..., object]]] = defaultdict(list)

    def add(self, name: str, callback: Callable[..., object]) -> Callable[[], None]:
        """Call this from now on; the function that is returned ends it."""
        self._callbacks[name].append(callback)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks[name].remove(callback)

        return remove

    def tell(self, name: str, *facts: Any) -> None:
        """Call all of them, in the order in which they were added."""
        for callback in tuple(self._callbacks[name]):
            try:
                callback(*facts)
            except Exception:  # noqa: BLE001 - the callback's trouble, not that of whoever tells
                _log.exception("a callback for %r failed", name)
