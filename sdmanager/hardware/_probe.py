"""One look at a machine, within a time limit."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from ._ask_nvidia import ask_nvidia
from ._nvidia import NvidiaAnswer, merge
from ._reading import Reading
from ._system import current_platform, glibc_version, read_this_system
from .snapshot import HardwareSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._machine import Machine
    from ._tree import Tree

_LOG = logging.getLogger("sdmanager.hardware")


async def probe(
    machine: Machine, limit: float, *, read: Callable[[Tree], Reading] = read_this_system
) -> HardwareSnapshot:
    """Look at a machine for at most so many seconds.

    Args:
        machine: What to look at.
        limit: Seconds after which what is still unknown stays unknown.
        read: Reads what the system itself tells.

    If cancelled, every process of the probe is dead before CancelledError goes on.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    reading = await _read_in_time(read, machine.tree, limit)
    answer = NvidiaAnswer()
    if reading.ask_nvidia:
        answer = await ask_nvidia(machine, max(deadline - loop.time(), 0.0))
    gpus, lost = merge(reading.gpus, answer)
    # Nothing is missed where nothing was to be expected.
    told = answer.problems if reading.expect_nvidia or not answer.absent else ()
    return HardwareSnapshot(
        platform=current_platform(),
        system=reading.system,
        cpu=reading.cpu,
        cores=reading.cores,
        threads=reading.threads,
        ram_total=reading.ram_total,
        ram_available=reading.ram_available,
        glibc=glibc_version(),
        gpus=gpus,
        problems=tuple(dict.fromkeys((*reading.problems, *told, *lost))),
    )


async def _read_in_time(read: Callable[[Tree], Reading], tree: Tree, limit: float) -> Reading:
    """The reading, or an empty one where the system does not answer.

    Files of sysfs are functions of drivers, and may not return. A thread cannot be ended, so this one is left
    behind then: a daemon, for which the end of the process does not wait.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Reading] = loop.create_future()

    def finish(reading: Reading) -> None:
        if not done.done():
            done.set_result(reading)

    def work() -> None:
        try:
            reading = read(tree)
        except Exception:  # noqa: BLE001 - a snapshot with nothing in it is better than none
            _LOG.exception("The system's description of itself could not be read.")
            reading = Reading(current_platform(), problems=("the system's files could not be understood",))
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(finish, reading)

    threading.Thread(target=work, name="sdmanager-hardware", daemon=True).start()
    try:
        async with asyncio.timeout(limit):
            return await done
    except TimeoutError:
        problem = f"the system's own files did not answer within {max(round(limit, 1), 0.1):g} s"
        return Reading(current_platform(), problems=(problem,))
