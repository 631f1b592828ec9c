"""Does a model that is to be fetched fit this machine at all?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager.hardware import take_snapshot
from sdmanager.threads import in_thread

from .fit import have_at_most
from .fitting import is_large, judge_fit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

    from ._pull_wanted import Wanted
    from .families import Role


async def check_machine(
    wanted: Wanted,
    sizes: Mapping[Role, int],
    settings: Settings,
    *,
    look: Callable[[Settings], Awaitable[HardwareSnapshot]] = take_snapshot,
) -> None:
    """Refuse a model that cannot run here whatever else is ended, on whichever device and with whichever flags.

    Raises:
        InsufficientResourcesError: It cannot; the hint names the largest smaller one that can.
    """
    if not is_large(sizes):
        return
    have = have_at_most(await look(settings))
    known = {file.role: file.quantisation for file in wanted.files}
    await in_thread(
        judge_fit, wanted.name, sizes, wanted.defaults, have, None, settings, on_gpu=None, quantisations=known
    )
