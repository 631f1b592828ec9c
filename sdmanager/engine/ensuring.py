"""The engine to use: the choice of ``binaries``, proven by the code that serves requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager import binaries
from sdmanager.errors import InsufficientResourcesError
from sdmanager.generation import MemoryPlan
from sdmanager.models import DEMO_NAME, resolve_model
from sdmanager.settings import Settings
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from sdmanager.binaries import EngineBinary, EngineProgress, Ensured, Proof
    from sdmanager.models import ModelFiles


async def ensure_binary(
    settings: Settings | None = None,
    *,
    model: str | os.PathLike[str] | ModelFiles | None = None,
    plan: MemoryPlan | None = None,
    variant: str | None = None,
    force_validation: bool = False,
    on_progress: Callable[[EngineProgress], None] | None = None,
) -> Ensured:
    """Find, fetch or build the best engine that really draws on this machine.

    At once where it is known; else candidates are tried (CUDA, ROCm, Vulkan, Metal, CPU; each as a release archive
    or built from source) until one draws, and what was found out is kept.

    Args:
        settings: Folders, the user's own engine, manifest and mirror; from the environment when None.
        model: What to draw the proof with, where it fits the memory; the demo model when None.
        plan: Memory flags that would be used.
        variant: Only this one, such as ``"cpu"``; None: that of the settings, else the best.
        force_validation: Forget what is known: read the engine's files again and draw again.
        on_progress: Called on the event loop with each step.

    Returns:
        The engine, and what it drew when it was tested.

    Raises:
        InvalidRequestError: There is no such variant.
        ModelError: The model is not there.
        BinaryError: Nothing that could be tried works; the message and the details say why.
        GenerationError: The only engine that could be tried runs and does not draw.
        StorageError: A folder cannot be written.

    If cancelled, no process of it is left, and the engine that was used before still works.
    """
    chosen = settings or Settings.from_environment()
    is_demo = model is None or model == DEMO_NAME
    files = None if is_demo else await in_thread(resolve_model, model, chosen)

    async def prove(engine: EngineBinary) -> Proof:
        from .fitting import check_fits
        from .proof import prove_engine

        drawn = files
        if files is not None:
            try:
                await check_fits(files, plan or MemoryPlan(), chosen, engine.variant)
            except InsufficientResourcesError:
                drawn = None  # it would fill the memory and prove nothing
        return await prove_engine(engine, chosen, drawn, plan)

    return await binaries.ensure_binary(
        chosen,
        prove=prove,
        variant=variant,
        force_validation=force_validation,
        on_progress=on_progress,
    )
