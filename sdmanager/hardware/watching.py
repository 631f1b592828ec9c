"""What an engine has of graphics memory while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from sdmanager.threads import beside, outlast

from ._linux_gpus import WSL_DEVICE
from ._system import current_platform
from ._values import believable_bytes, parse_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sdmanager.settings import Settings

    from ._machine import Machine

_LOG = logging.getLogger("sdmanager.hardware")
_SCRIPT: Final = Path(__file__).with_name("_vram_script.py")

# Less than that any program on the card may have taken meanwhile; an engine takes more for its context alone.
_NOISE: Final = 16 << 20

_MOST_OUTPUT: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 10

# A process that waits inside a driver cannot be killed before the driver lets go; a picture does not wait for that.
_BACKSTOP: Final = 0.2

# Without any of them there is no driver to ask.
_SIGNS: Final = ("/dev/nvidiactl", WSL_DEVICE, "/dev/dri", "/sys/module/nvidia", "/dev/nvhost-ctrl")


class _TooMuchError(Exception):
    """It talks without end."""


@final
class VramWatch:
    """What was seen so far of the graphics memory that a process and its descendants have."""

    def __init__(self) -> None:
        self._own = self._grown = 0
        self._rest = b""
        self._heard = 0

    @property
    def peak(self) -> int | None:
        """Bytes at the most; None where nothing is known.

        By what the driver says of the process. Where it does not tell processes apart (Windows, some containers, MIG),
        by how much the use of one card has grown since the watch began, whoever grew it.
        """
        return self._own or (self._grown if self._grown >= _NOISE else None)

    def feed(self, chunk: bytes) -> None:
        """Take in what the watcher printed.

        Raises:
            _TooMuchError: It prints more than there can be to say.
        """
        self._heard += len(chunk)
        if self._heard > _MOST_OUTPUT:
            raise _TooMuchError
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:_LONGEST_LINE]
        for line in lines:
            name, _, number = line[:_LONGEST_LINE].decode("ascii", "replace").partition(" ")
            size = believable_bytes(parse_number(number)) or 0
            if name == "own":
                self._own = max(self._own, size)
            elif name == "grown":
                self._grown = max(self._grown, size)


@contextlib.asynccontextmanager
async def watch_vram(pid: int, settings: Settings) -> AsyncIterator[VramWatch]:
    """Look at the graphics memory of a process and its descendants about ten times a second.

    Drivers hang and crash, so another process does it for the length of the block; whatever happens to it costs the
    figure and nothing else. It takes about 20 ms of a core to start, and then at most a half per cent.

    Args:
        pid: The process, or one that started it.
        settings: The guard of child processes.

    If cancelled, the watching process is dead before CancelledError goes on.
    """

    async def machine() -> Machine:
        from ._machine import this_machine

        return await beside(this_machine, settings.guard)

    async with watch_machine(pid, machine) as watch:
        yield watch


@contextlib.asynccontextmanager
async def watch_machine(pid: int, find: Callable[[], Awaitable[Machine]]) -> AsyncIterator[VramWatch]:
    """The same on a machine that may not be this one."""
    watch = VramWatch()
    task = asyncio.create_task(_listen(watch, pid, find), name="sdmanager-vram")
    try:
        yield watch
    finally:
        task.cancel()
        await outlast(task)


async def _listen(watch: VramWatch, pid: int, find: Callable[[], Awaitable[Machine]]) -> None:
    from sdmanager import process

    try:
        machine = await find()
        if machine.python is None or not _SCRIPT.is_file() or not await beside(_may_have_cards, machine):
            return
        # Nothing of the interpreter's surroundings is run: neither .pth files nor what the user customised.
        argv: list[str | Path] = [machine.python, "-I", "-S", _SCRIPT, str(pid), machine.tree.root]
        async with process.spawn(
            argv,
            env=machine.library_environ,
            on_stdout=watch.feed,
            on_stderr=lambda _: None,
            grace=0,
            backstop=_BACKSTOP,
            guard=machine.guard,
        ) as child:
            await child.wait()
    except Exception as exc:  # noqa: BLE001 - nothing here may disturb the picture
        _LOG.debug("Graphics memory is not watched: %s", exc)


def _may_have_cards(machine: Machine) -> bool:
    """Whether there is any driver to ask that tells the memory of a process or of a card."""
    system = current_platform().partition("-")[0]
    return system == "win32" or (system == "linux" and any(machine.tree.exists(sign) for sign in _SIGNS))
