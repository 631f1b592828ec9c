"""Which memory flags are the fastest for a model, an engine and a size: found out by drawing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    BinaryError,
    EngineOutOfMemoryError,
    GenerationError,
    InsufficientResourcesError,
    InvalidRequestError,
    SDManagerError,
)
from sdmanager.generation import MemoryPlan, Progress
from sdmanager.resources import Footprint
from sdmanager.threads import in_thread

from .combinations import combinations_for
from .fitting import weights_of
from .measurements import CalibrationProgress, CalibrationReport, EngineClock, Measurement, recommend
from .run import draws_on_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdmanager.binaries import EngineBinary
    from sdmanager.generation import Event, GenerationResult, ImageRequest
    from sdmanager.models import ModelFiles
    from sdmanager.resources import PeakStore

    from .local import LocalGenerator

RUNS_MAX: Final = 20

# Enough to have read the files once and to have the driver compile what it needs; one step alone is more than some
# schedules can divide.
_WARM_UP_STEPS: Final = 2

# What says something of the flags. Anything else would end the other runs just so, and ends the whole.
_SAYS_NO: Final = (GenerationError, BinaryError, InsufficientResourcesError)
_LACKS_MEMORY: Final = (EngineOutOfMemoryError, InsufficientResourcesError)

# 100 is for the end alone.
_BEFORE_THE_END: Final = 99.9


async def calibrate(
    generator_for: Callable[[MemoryPlan], LocalGenerator],
    request: ImageRequest,
    *,
    plans: Sequence[MemoryPlan] | None = None,
    runs: int = 1,
    store: PeakStore | None = None,
    on_progress: Callable[[CalibrationProgress], None] | None = None,
) -> CalibrationReport:
    """Draw the same picture with one combination of memory flags after the other, and say which is the fastest.

    A short run that does not count goes first. With several runs the combinations take turns, in the opposite order
    every second time, so that a machine that gets slower or faster meanwhile favours none. A combination that fails
    once is not tried again; running out of memory is a result.

    Args:
        generator_for: Makes the generator that draws with exactly these flags; each is closed in the end.
        request: What to draw; the size and the steps are what matters. Previews are left out.
        plans: The combinations; None: those that are worth a try with this engine and model.
        runs: How often to draw with each, 1 to ``RUNS_MAX``.
        store: Where to keep the recommendation; None: nowhere.
        on_progress: Called on the event loop; must not block. What it raises ends the calibration and is raised from
            here.

    Returns:
        What each took. Also where none works: then nothing is recommended, and ``error`` of the report says why.

    Raises:
        InvalidRequestError: The request does not fit the engine or the model, no combination was given, or ``runs``
            is out of range.
        ModelError: The model is not there, or not what it should be.
        BinaryError: There is no engine that runs here.
        StorageError: A file could not be written.

    Cancelling ends the engine at once: nothing is left, nothing is stored, and what was measured so far is in the
    last progress only.
    """
    _check(plans, runs)
    async with contextlib.AsyncExitStack() as stack:
        plain = await stack.enter_async_context(generator_for(MemoryPlan()))
        engine, model, wanted = await _prepared(plain, request)
        generators = {MemoryPlan(): plain}
        chosen = list(dict.fromkeys(plans or combinations_for(engine, model.family)))
        for plan in chosen:
            if plan not in generators:
                generators[plan] = await stack.enter_async_context(generator_for(plan))
        measurements = await _Calibration(chosen, generators, wanted, runs, on_progress).measure()
        best, stored = recommend(measurements), False
        if store is not None and best is not None:
            stored = await in_thread(_keep, store, engine, model, wanted, best)
        return CalibrationReport(
            model=model.name, variant=engine.variant, width=wanted.width, height=wanted.height,
            steps=wanted.steps, seed=wanted.seed or 0, runs=runs, measurements=measurements, recommended=best,
            stored=stored,
        )  # fmt: skip


def _check(plans: Sequence[MemoryPlan] | None, runs: int) -> None:
    if not 1 <= runs <= RUNS_MAX:
        raise InvalidRequestError(
            f"The number of runs must be 1 to {RUNS_MAX}, not {runs}.",
            hint="Three tell noise from difference.",
        )
    if plans is not None and not plans:
        raise InvalidRequestError(
            "There is no combination of flags to try.", hint="Give one, or leave the choice to sdmanager."
        )


async def _prepared(
    generator: LocalGenerator, request: ImageRequest
) -> tuple[EngineBinary, ModelFiles, ImageRequest]:
    """The engine, the model, and the request as it is drawn each time."""
    with contextlib.suppress(InsufficientResourcesError):  # of the plain flags: a result like any other
        await generator.prepare()
    engine, model = generator.binary, await generator.model_for(request)
    assert engine is not None  # noqa: S101 - prepare() has found one, or raised
    wanted = request.with_defaults(**model.defaults.as_fields()).with_seed()
    wanted = wanted.model_copy(update={"previews": None})
    await in_thread(generator.check, wanted)
    return engine, model, wanted


def _keep(
    store: PeakStore, engine: EngineBinary, model: ModelFiles, request: ImageRequest, plan: MemoryPlan
) -> bool:
    footprint = Footprint(
        model=model.key, name=model.name, backend=engine.variant, on_gpu=draws_on_gpu(engine.variant),
        width=request.width, height=request.height, weights=weights_of(model), family=model.family,
    )  # fmt: skip
    store.recommend(footprint, plan)  # which does not say whether it could be written
    kept = store.learned(model.key, engine.variant).recommended
    return kept.get((request.width, request.height)) == plan


class _Calibration:
    """The runs of one calibration and what came of them."""

    def __init__(
        self,
        plans: Sequence[MemoryPlan],
        generators: Mapping[MemoryPlan, LocalGenerator],
        request: ImageRequest,
        runs: int,
        on_progress: Callable[[CalibrationProgress], None] | None,
    ) -> None:
        self._plans = plans
        self._generators = generators
        self._request = request
        self._runs = runs
        self._on_progress = on_progress
        self._results: dict[MemoryPlan, list[GenerationResult]] = {plan: [] for plan in plans}
        self._errors: dict[MemoryPlan, SDManagerError] = {}
        self._measured: tuple[Measurement, ...] = ()
        self._done = 0.0
        self._percentage = 0.0

    async def measure(self) -> tuple[Measurement, ...]:
        for plan in self._plans:
            if await self._warm_up(plan):
                break
        for number in range(1, self._runs + 1):
            alive = [plan for plan in self._plans if plan not in self._errors]
            for plan in alive if number % 2 else reversed(alive):
                await self._run(plan, number)
        self._percentage = 100.0
        self._tell(self._plans[-1], self._runs)
        return self._measured

    async def _warm_up(self, plan: MemoryPlan) -> bool:
        """Draw a little; of failures only those count that more steps would not change."""
        short = self._request.model_copy(update={"steps": min(self._request.steps, _WARM_UP_STEPS)})
        try:
            await self._draw(plan, 0, short)
        except _LACKS_MEMORY as exc:
            self._fail(plan, exc)
            return False
        except _SAYS_NO:
            return False
        self._done += self._share(short)
        return True

    async def _run(self, plan: MemoryPlan, number: int) -> None:
        try:
            result = await self._draw(plan, number, self._request)
        except _SAYS_NO as exc:
            self._fail(plan, exc)
        else:
            self._done += 1
            self._results[plan].append(result)
            self._sum_up()
        self._tell(plan, number)

    async def _draw(self, plan: MemoryPlan, number: int, request: ImageRequest) -> GenerationResult:
        clock = EngineClock()

        def on_event(event: Event) -> None:
            clock.see(event)
            if isinstance(event, Progress):
                self._tell(plan, number, event.percentage / 100 * self._share(request))

        self._tell(plan, number)
        generator = self._generators[plan]
        await generator.prepare()
        result = await generator.generate(request, on_event)
        if result.plan != plan:  # it took stricter flags, for want of memory
            raise EngineOutOfMemoryError(f"The memory does not suffice with {plan.key}.")
        # Without the pictures: nobody looks at them, and there may be many.
        return replace(result, images=(), time_taken=max(result.time_taken - clock.started, 0.0))

    def _fail(self, plan: MemoryPlan, error: SDManagerError) -> None:
        self._errors[plan] = error
        self._sum_up()

    def _sum_up(self) -> None:
        self._measured = tuple(
            Measurement.of(plan, results, self._errors.get(plan))
            for plan, results in self._results.items()
            if results or plan in self._errors
        )

    def _share(self, request: ImageRequest) -> float:
        return request.steps / self._request.steps

    def _tell(self, plan: MemoryPlan, number: int, current: float = 0.0) -> None:
        if self._percentage < 100:
            warm_up = min(1.0, _WARM_UP_STEPS / self._request.steps)
            runs = [
                len(results) if each in self._errors else self._runs
                for each, results in self._results.items()
            ]
            share = (self._done + current) / (warm_up + sum(runs))
            self._percentage = max(self._percentage, min(100 * share, _BEFORE_THE_END))
        if self._on_progress is not None:
            self._on_progress(
                CalibrationProgress(
                    plan=plan, index=self._plans.index(plan) + 1, count=len(self._plans), run=number,
                    runs=self._runs, percentage=self._percentage, measured=self._measured,
                )
            )  # fmt: skip
