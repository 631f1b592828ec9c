"""Calibration with the current model, or the one that is named, the engine and the room of a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager.engine import LocalGenerator, calibrate
from sdmanager.resources import PeakStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdmanager.engine import CalibrationProgress, CalibrationReport
    from sdmanager.generation import ImageRequest, MemoryPlan
    from sdmanager.settings import Settings

    from .parts import Parts


async def measure(
    parts: Parts,
    settings: Settings,
    request: ImageRequest,
    plans: Sequence[MemoryPlan] | None,
    runs: int,
    store: bool,
    on_progress: Callable[[CalibrationProgress], None] | None,
) -> CalibrationReport:
    """See ``DiffusionServerManager.calibrate``; the place is reserved by the caller."""
    model = await parts.generator.model_for(request)  # throughout, whatever becomes the current one meanwhile

    def generator_for(plan: MemoryPlan) -> LocalGenerator:
        options = parts.options
        return LocalGenerator(
            model, settings=settings, plan=plan, threads=options.threads, room=parts.room,
            ignore_fit=options.ignore_fit,
        )  # fmt: skip

    return await calibrate(
        generator_for,
        request,
        plans=plans,
        runs=runs,
        store=PeakStore(settings.memory_file) if store else None,
        on_progress=on_progress,
    )
