"""Room for each run: what it needs, the flags and the room that it gets, one more try, and what is learned of it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Literal

from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.generation import MemoryPlan, Replanned
from sdmanager.resources import Footprint, Lease, NoStricterPlanError, Supply
from sdmanager.threads import in_thread

from .run import draws_on_gpu
from .runner import complete, run_engine
from .shortages import (
    explain_given_up,
    explain_retry,
    has_extras,
    helps,
    needs_no_look,
    ran_out,
    short_of,
    smaller_model,
    too_little,
    was_short,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdmanager.generation import GenerationResult, MemoryChoices
    from sdmanager.models import Role
    from sdmanager.resources import PeakStore, ResourceOrchestrator
    from sdmanager.settings import Settings

    from .emitting import Emitter
    from .run import Run
    from .runner import Drawing


class RoomMaker:
    """Draws with the memory flags that suit the moment, and with room made for it.

    Args:
        settings: Names the catalogue of smaller models.
        choices: What the user has decided.
        orchestrator: Gives the room.
        peaks: What earlier runs used.
    """

    def __init__(
        self,
        settings: Settings,
        choices: MemoryChoices | MemoryPlan,
        orchestrator: ResourceOrchestrator,
        peaks: PeakStore,
    ) -> None:
        self.settings = settings
        self.choices = choices
        self.orchestrator = orchestrator
        self.peaks = peaks

    async def draw(self, run: Run, weights: Mapping[Role, int], emitter: Emitter) -> GenerationResult:
        """Draw; where the engine runs out of memory, once more with the next stricter plan.

        Args:
            run: What to draw; its plan is the fastest that the choices allow.
            weights: Bytes of each part of the model once it is loaded.
            emitter: Told all but the end.

        Returns:
            The pictures; ``timings`` but for ``offloading``, ``previews`` and ``memory`` are of the start that drew
            them.

        Raises:
            SDManagerError: As ``run_generation``. Where memory runs out once more, or no plan is stricter, the hint
                says what was tried and what is left to do.
        """
        drawing = await complete(run)
        footprint = self._footprint(run, drawing, weights)
        async with contextlib.AsyncExitStack() as held:
            return await _Making(self, run, drawing, footprint, emitter, held).draw()

    async def would_need_offload(self, run: Run, weights: Mapping[Role, int]) -> bool:
        """Whether somebody would be put aside for a run.

        Args:
            run: As for ``draw``.
            weights: Likewise.

        Raises:
            InvalidRequestError: A picture that it starts from is unusable.
        """
        footprint = self._footprint(run, await complete(run), weights)
        supports = run.binary.capabilities.supports
        return await self.orchestrator.would_need_offload(footprint, self.choices, supports)

    def _footprint(self, run: Run, drawing: Drawing, weights: Mapping[Role, int]) -> Footprint:
        variant, request = run.binary.variant, drawing.request
        return Footprint(
            model=run.model.key,
            name=run.model.name,
            backend=variant,
            on_gpu=draws_on_gpu(variant),
            width=request.width,
            height=request.height,
            weights=weights,
            family=run.model.family,
            learned=self.peaks.learned(run.model.key, variant),
        )


class _Making:
    """The making of one generation's pictures; what is leased is held until it ends, so that nothing thrashes."""

    def __init__(
        self,
        maker: RoomMaker,
        run: Run,
        drawing: Drawing,
        footprint: Footprint,
        emitter: Emitter,
        held: contextlib.AsyncExitStack,
    ) -> None:
        self._maker = maker
        self._run = run
        self._drawing = drawing
        self._footprint = footprint
        self._emitter = emitter
        self._held = held
        self._seconds = 0.0

    async def draw(self) -> GenerationResult:
        first = await self._lease_first()
        try:
            return await self._attempt(first)
        except EngineOutOfMemoryError as exc:
            if not ran_out(exc):
                raise
            shortage = exc
        try:
            second = await self._lease_stricter(first.plan, shortage)
        except NoStricterPlanError:
            await self._learn_shortage(first, shortage)
            raise await self._given_up(shortage, first.plan) from shortage
        if first.supply == Supply() and second.plan.evictions == first.plan.evictions:
            # Nobody looked before, and what is free is what was; with others aside it would be more.
            first = dataclasses.replace(first, supply=second.supply)
        await self._learn_shortage(first, shortage)
        self._emitter.emit(Replanned, plan=second.plan, reason=explain_retry(first.plan, second.plan))
        try:
            result = await self._attempt(second)
        except EngineOutOfMemoryError as exc:
            if ran_out(exc):
                await self._learn_shortage(second, exc)
            raise await self._given_up(exc, first.plan, second.plan) from exc
        return dataclasses.replace(result, out_of_memory=(first.plan,))

    async def _lease_first(self) -> Lease:
        if not self._maker.orchestrator.makes_room and needs_no_look(self._footprint, self._run.plan):
            return Lease(self._run.plan, Supply(), 0.0)
        return await self._lease(())

    async def _lease_stricter(self, failed: MemoryPlan, error: EngineOutOfMemoryError) -> Lease:
        """The first stricter plan that takes something from the stage that failed; where there is none, the first."""
        stage, short = error.details.get("stage"), short_of(error)
        with contextlib.suppress(NoStricterPlanError):
            return await self._lease((failed,), short, lambda plan: helps(stage, failed, plan))
        return await self._lease((failed,), short)

    async def _lease(
        self,
        failed: tuple[MemoryPlan, ...],
        short: Literal["ram", "vram"] | None = None,
        is_worth: Callable[[MemoryPlan], bool] | None = None,
    ) -> Lease:
        lease = await self._held.enter_async_context(
            self._maker.orchestrator.lease(
                self._footprint,
                self._maker.choices,
                self._run.binary.capabilities.supports,
                failed=failed,
                short=short,
                helps=is_worth,
                on_offloading=lambda: self._emitter.making_room(self._drawing.request.count),
            )
        )
        self._seconds += lease.seconds
        return lease

    async def _attempt(self, lease: Lease) -> GenerationResult:
        on_gpu = self._footprint.on_gpu
        if on_gpu is None:
            on_gpu = lease.supply.vram_total is not None
        if lease.supply == Supply() and not isinstance(self._maker.choices, MemoryPlan):
            on_gpu = False  # not worth a process that asks drivers, unless somebody compares flags
        run = dataclasses.replace(self._run, plan=lease.plan, measure_vram=on_gpu)
        result = await run_engine(run, self._drawing, self._emitter)
        if result.memory is not None and not (self._has_extras and was_short(self._footprint, lease.plan)):
            await in_thread(self._maker.peaks.learn, self._footprint, lease.plan, result.memory)
        timings = dataclasses.replace(result.timings, offloading=self._seconds)
        return dataclasses.replace(result, timings=timings)

    async def _learn_shortage(self, lease: Lease, error: EngineOutOfMemoryError) -> None:
        if self._has_extras:
            return
        supply = too_little(error, lease.supply)

        def learn() -> None:
            self._maker.peaks.learn_too_small(self._footprint, lease.plan, supply, kind=short_of(error))

        if supply != Supply():
            await in_thread(learn)

    @property
    def _has_extras(self) -> bool:
        return has_extras(self._run, self._drawing.request)

    async def _given_up(self, error: EngineOutOfMemoryError, *tried: MemoryPlan) -> EngineOutOfMemoryError:
        model = self._run.model.name
        size = sum(self._footprint.weights.values())
        smaller = await in_thread(smaller_model, model, size, self._maker.settings)
        return explain_given_up(error, tried, self._maker.choices, self._footprint, smaller)
