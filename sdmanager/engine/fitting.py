"""Does the model fit this machine's memory? Asked once per model, before anything is started."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InsufficientResourcesError, SDManagerError
from sdmanager.hardware import ram_now, take_snapshot
from sdmanager.models import Have, check_fit, have_now, need_of
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sdmanager.generation import MemoryPlan
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.models import ModelFiles, Role
    from sdmanager.settings import Settings

# Smaller models fit wherever an engine does: nothing is asked, and a start takes no longer for it.
_ASKED_FROM: Final = 256 << 20
_USUAL_SIDE: Final = 512  # of ImageRequest


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
    """
    if variant == "custom":
        return
    sizes = await in_thread(_sizes_of, model)
    weights = sum(sizes.values())
    if weights < _ASKED_FROM:
        return
    on_gpu = variant != "cpu"
    have = have_now(await look(settings)) if on_gpu else await in_thread(_ram_now)
    width, height = model.defaults.width or _USUAL_SIDE, model.defaults.height or _USUAL_SIDE
    need = need_of(sizes, width, height, tiling=plan.vae_tiling)
    judge = functools.partial(check_fit, model.name, need, have, plan, on_gpu=on_gpu)
    try:
        judge()
    except InsufficientResourcesError:
        # The catalogue is read only now that it is needed.
        judge(smaller=await in_thread(_smaller_models, model.name, weights, settings))
        raise


def _sizes_of(model: ModelFiles) -> dict[Role, int]:
    return {role: path.stat().st_size for role, path in model.files.items()}


def _ram_now() -> Have:
    return Have(ram=ram_now()[1], vram=None)


def _smaller_models(name: str, weights: int, settings: Settings) -> list[tuple[str, int]]:
    from sdmanager.models import load_catalog

    try:
        return load_catalog(settings.catalog).smaller_than(weights, like=name)
    except SDManagerError:  # the user's own catalogue is broken, which is not what is asked here
        return []
