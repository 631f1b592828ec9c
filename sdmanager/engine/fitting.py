"""Does the model fit this machine's memory? Asked once per model, before anything is started."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sdmanager.generation import MemoryPlan
from sdmanager.hardware import ram_now, take_snapshot
from sdmanager.models import Have, have_at_most, have_now, is_large, judge_fit, need_of
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sdmanager.generation import MemoryChoices
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.models import ModelFiles, Role
    from sdmanager.settings import Settings


async def check_fits(
    model: ModelFiles,
    plan: MemoryPlan | MemoryChoices,
    settings: Settings,
    variant: str,
    *,
    with_room: bool = False,
    look: Callable[[Settings], Awaitable[HardwareSnapshot]] = take_snapshot,
) -> None:
    """Refuse a model that surely does not fit the memory that is free now, or can be made free.

    For an engine on the CPU only the RAM counts, and no driver is asked. Where the user's own engine draws, nobody
    knows, so of it nothing is said.

    Args:
        model: Its files, and the size that it draws by itself.
        plan: Memory flags; choices: whichever flags make it fit, for they are chosen for each run.
        settings: Where the catalogue of smaller options is, and how children are guarded.
        variant: Of the engine.
        with_room: Others may be put aside for it, so that all counts that there is.
        look: Takes a look at the machine, for an engine on a GPU.

    Raises:
        InsufficientResourcesError: It does not fit; the hint says what would.
        ModelError: A file of it is not there, or cannot be read.
    """
    if variant == "custom":
        return
    sizes = await in_thread(_sizes_of, model)
    if not is_large(sizes):
        return
    on_gpu = variant != "cpu"
    if on_gpu:
        have = (have_at_most if with_room else have_now)(await look(settings))
    else:
        total, free = await in_thread(ram_now)
        have = Have(ram=total if with_room else free, vram=None)
    flags = plan if isinstance(plan, MemoryPlan) else None
    await in_thread(
        judge_fit, model.name, sizes, model.defaults, have, flags, settings,
        on_gpu=on_gpu, quantisations=model.quantisations,
    )  # fmt: skip


def _sizes_of(model: ModelFiles) -> dict[Role, int]:
    model.check()
    return {role: path.stat().st_size for role, path in model.files.items()}


def weights_of(model: ModelFiles) -> Mapping[Role, int]:
    """Bytes of each part once it is loaded; a file that is not there counts for nothing. Blocking."""
    sizes: dict[Role, int] = {}
    for role, path in model.files.items():
        with contextlib.suppress(OSError):
            sizes[role] = path.stat().st_size
    return need_of(sizes, 0, 0, quantisations=model.quantisations).weights
