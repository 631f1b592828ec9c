"""What a running engine uses of RAM and VRAM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol, final

from sdmanager.generation import MemoryUse
from sdmanager.hardware import watch_vram
from sdmanager.threads import beside, outlast

from . import _watch_linux, _watch_psutil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sdmanager.hardware import VramWatch
    from sdmanager.settings import Settings

_log = logging.getLogger("sdmanager.resources")

# Seconds between looks: a twentieth of the run so far, so that little of a short run is missed.
_EVERY: Final = 0.1
_AT_FIRST: Final = 0.01
_LOOKS_AS_LONG: Final = 20


class _Sampler(Protocol):
    peak: int | None

    @property
    def is_quick(self) -> bool: ...

    def sample(self) -> None: ...

    def close(self) -> None: ...


@final
class MemoryWatch:
    """What a running engine was seen to use; `watch_memory` makes it."""

    def __init__(self, sampler: _Sampler) -> None:
        self._sampler = sampler
        self._card: VramWatch | None = None

    def use(self) -> MemoryUse:
        """What was seen so far, also after the engine has ended; ``weights`` is not known here."""
        return MemoryUse(ram=self._sampler.peak, vram=self._card.peak if self._card is not None else None)

    async def _look(self) -> None:
        """Look until cancelled."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            while True:
                if self._sampler.is_quick:
                    self._sampler.sample()
                else:
                    await beside(self._sampler.sample)
                await asyncio.sleep(min(max((clock() - began) / _LOOKS_AS_LONG, _AT_FIRST), _EVERY))
        except Exception as exc:  # noqa: BLE001 - nothing here may disturb the picture
            _log.debug("The memory of the engine is not watched: %s", exc)


@contextlib.asynccontextmanager
async def watch_memory(pid: int, settings: Settings, *, vram: bool) -> AsyncIterator[MemoryWatch]:
    """Watch an engine for the length of the block.

    RAM is the highest resident memory of one process below the guard: on Linux and Windows the kernel's own figure,
    read ten times a second and more often at first, so that only what the engine takes within the last moment before
    its end can be missed; elsewhere the highest that was seen. VRAM is what `sdmanager.hardware.watch_vram` says.
    What cannot be found out is None; no error comes from here.

    Args:
        pid: ``Child.pid``.
        settings: The guard of child processes.
        vram: Whether the engine may have graphics memory; if not, no process is started to ask drivers.

    If cancelled, the watching process is dead before CancelledError goes on.
    """
    sampler: _Sampler = _watch_linux.Sampler(pid) if _watch_linux.is_usable() else _watch_psutil.Sampler(pid)
    watch = MemoryWatch(sampler)
    looking = asyncio.create_task(watch._look(), name="sdmanager-memory")
    try:
        async with contextlib.AsyncExitStack() as stack:
            if vram:
                watch._card = await stack.enter_async_context(watch_vram(pid, settings))
            yield watch
    finally:
        looking.cancel()
        await outlast(looking)
        sampler.close()
