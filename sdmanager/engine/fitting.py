"""Does the model fit this machine's memory? Asked once per model, before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager.hardware import ram_now, take_snapshot
from sdmanager.models import Have, have_now, is_large, judge_fit
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sdmanager.generation import MemoryPlan
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.models import ModelFiles, Role
    from sdmanager.settings import Settings


async def check_fits(
    model: ModelFiles,
    plan: MemoryPlan,
    settings: Settings,
    variant: str,
    *,
    look: Callable[[Settings], Awaitable[HardwareSnapshot]] = take_snapshot,
) -> None:
    """Refuse a model that surely does not fit the memory that is free now.

    For an engine on the CPU only the RAM counts, and no driver is asked. Where the user's own engine draws, nobody
    knows, so of it nothing is said.

    Args:
        model: Its files, and the size that it draws by itself.
        plan: Memory flags.
        settings: Where the catalogue of smaller options is, and how children are guarded.
        variant: Of the engine.
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
    have = have_now(await look(settings)) if on_gpu else await in_thread(_ram_now)
    await in_thread(
        judge_fit, model.name, sizes, model.defaults, have, plan, settings,
        on_gpu=on_gpu, quantisations=model.quantisations,
    )  # fmt: skip


def _sizes_of(model: ModelFiles) -> dict[Role, int]:
    model.check()
    return {role: path.stat().st_size for role, path in model.files.items()}


def _ram_now() -> Have:
    return Have(ram=ram_now()[1], vram=None)
