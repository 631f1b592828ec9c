"""``LocalGenerator``: pictures from the engine on this machine."""

from __future__ import annotations

import dataclasses
import math
import secrets
from typing import TYPE_CHECKING, Final

from sdmanager.binaries import (
    EngineBinary,
    Ensured,
    Meaning,
    Proof,
    find_engine,
    meaning_of,
    record_failure,
    record_success,
)
from sdmanager.errors import (
    BinaryError,
    EngineArgumentError,
    GenerationError,
    SDManagerError,
)
from sdmanager.generation import Completed, LoopLocks, MemoryChoices, MemoryPlan, RunningTasks
from sdmanager.models import DEMO_NAME
from sdmanager.resources import PeakStore, ResourceOrchestrator
from sdmanager.settings import Settings
from sdmanager.threads import in_thread

from .emitting import Emitter
from .ensuring import ensure_binary
from .estimates import EstimateStore
from .fitting import check_fits
from .jobs import sweep_jobs
from .model_lookup import ModelLookup
from .patience import Patience
from .room import RoomMaker
from .run import Run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sdmanager.binaries import EngineProgress
    from sdmanager.generation import EventCallback, GenerationResult, ImageRequest
    from sdmanager.models import ModelFiles

    from .model_lookup import Found

# A driver that hangs would keep everybody waiting for ever. What draws may be silent for long, but never idle so long.
_PATIENCE: Final = Patience(quiet=600.0, work=math.inf, every=10.0)


class LocalGenerator:
    """Draws with stable-diffusion.cpp on this machine, one engine process per request.

    Also an async context manager. Requests may run at the same time, also on several event loops in threads; each has
    its own process and folder.

    A request that names an installed model in ``model_id`` is drawn with that one; any other with the generator's own,
    which ``use`` changes. What was found out about a model is kept for the next request.

    Memory flags are chosen for each by what is free then and by what earlier runs used; where memory runs out all the
    same, the engine starts once more with the next stricter ones, which ``Replanned`` tells.

    Args:
        model: Its own model: name of an installed one, the path of a model file, or ``ModelFiles``; None is the demo
            model.
        engine: Path of an ``sd-cli`` to use; None: ``SDMANAGER_ENGINE``, else the best that works here, which is
            fetched or built and proven on first use (building takes minutes and needs a C++ compiler).
        settings: Folders and times; from the environment when None.
        plan: What is decided of the memory flags; a ``MemoryPlan``: all of it; None: nothing.
        room: Puts others aside where the memory is too small, and brings them back; the caller's to close. None: nobody
            is put aside.
        threads: CPU threads; None: one per physical core.
        ignore_fit: Start also where the model does not fit the memory that is free.
        on_prepare: Told how far the getting of an engine is.
        on_output: Given each raw piece of the engine's output with the name of its stream.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFiles | None = None,
        *,
        engine: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        plan: MemoryPlan | MemoryChoices | None = None,
        room: ResourceOrchestrator | None = None,
        threads: int | None = None,
        ignore_fit: bool = False,
        on_prepare: Callable[[EngineProgress], None] | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        if engine is not None:
            self._settings = self._settings.with_engine(engine)
        self._models = ModelLookup(model, self._settings)
        self._name: str | None = None  # of the model in use; None: the one that was given
        choices = MemoryChoices() if plan is None else plan
        self._plan = choices if isinstance(choices, MemoryPlan) else choices.plan
        self._choices = choices
        self._given_room = room
        peaks = PeakStore(self._settings.memory_file)
        self._maker = RoomMaker(self._settings, choices, room or ResourceOrchestrator(self._settings), peaks)
        self._threads = threads
        self._ignore_fit = ignore_fit
        self._on_prepare = on_prepare
        self._on_output = on_output
        self._estimates = EstimateStore(self._settings.state_dir / "estimates.json")
        # One preparation at a time on each loop. Those of several loops do the same twice, and each is set as a whole.
        self._preparing = LoopLocks()
        self._ensured: Ensured | None = None
        self._swept = False
        self._running = RunningTasks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def binary(self) -> EngineBinary | None:
        """The engine that ``prepare`` found; None before."""
        ensured = self._ensured
        return ensured.engine if ensured is not None else None

    @property
    def model(self) -> ModelFiles | None:
        """The generator's own model now: the one that ``use`` was given, else the first; None before ``prepare``."""
        found = self._models.known(self._name)
        return found.files if found is not None else None

    @property
    def first_model(self) -> ModelFiles | None:
        """The model that the generator was made with, whichever is in use; None before it was looked up."""
        found = self._models.known(None)
        return found.files if found is not None else None

    async def prepare(self, *, force_validation: bool = False) -> EngineBinary:
        """Ensure the engine and see that the model is there, so that ``generate`` starts at once.

        Args:
            force_validation: Forget what is known of engines, and prove one again by drawing.

        Returns:
            The engine that will be used.

        Raises:
            ModelError: The model is not there, or is not what it should be.
            InsufficientResourcesError: It does not fit the memory that is free.
            BinaryError: No engine works here.
            GenerationError: The only engine that could be tried does not draw.
            StorageError: The data folder cannot be written.

        Cancelling ends a download or a build and leaves the engine that was there before.
        """
        return (await self._prepare(self._name, force_validation=force_validation))[0].engine

    async def use(self, name: str) -> ModelFiles:
        """Make another model the generator's own, for requests from now on; what was bound, or runs, keeps its own.

        Of several calls at once on one event loop the last one made counts.

        Args:
            name: Of an installed model, ``demo``, or of the model that the generator was made with; never a path.

        Returns:
            The model, with its whole name.

        Raises:
            ModelError: There is none of this name, or it is not what it should be.
            InvalidRequestError: This is no name.
            InsufficientResourcesError: It does not fit the memory that is free.
            SDManagerError: No engine works here, as for ``prepare``.

        Where it raises or is cancelled, the model stays the one that it was.
        """
        _, found = await self._prepare(name)
        self._name = found.files.name
        return found.files

    def bound(self, request: ImageRequest) -> ImageRequest:
        """The request with the name of the model that it means now, to be drawn with that one after a ``use``, too.

        Takes no time. Before ``prepare`` no model is known, and the request stays as it is.
        """
        model = self.model
        if request.model_id is not None or model is None:
            return request
        return request.model_copy(update={"model_id": model.name})

    async def model_for(self, request: ImageRequest) -> ModelFiles:
        """The files of the model that a request would be drawn with now.

        Raises:
            ModelError: It is not there, or is not what it should be.
            InvalidRequestError: It is named by no name.
            StorageError: The demo model cannot be written.
        """
        return (await in_thread(self._models.find, self._name_for(request))).files

    def check(self, request: ImageRequest) -> None:
        """See that the engine and the model can do what is asked, without starting anything.

        Before ``prepare`` nothing is known, and everything passes. Input images are not looked at: see
        ``check_input_images``. It looks at the model's files, and reads their headers where a model is named for the
        first time; that may take its time.

        Raises:
            ModelError: The model is not there, or is not what it should be.
            InvalidRequestError: An unknown sampler, scheduler or LoRA, a preview method without its file, a prompt
                that is too long.
            EngineArgumentError: This engine lacks something that the request needs.
        """
        ensured = self._ensured
        if ensured is not None:
            run = self._run("", request, ensured, self._models.find(self._name_for(request)).files)
            run.invocation(run.complete_request())

    async def generate(
        self, request: ImageRequest, on_event: EventCallback | None = None
    ) -> GenerationResult:
        """Draw what the request asks for.

        Args:
            request: What to draw; the model's own defaults apply where the caller said nothing.
            on_event: Called on the event loop with each event, in order; must not block. What it raises ends the
                generation and is raised from here.

        Raises:
            InvalidRequestError: The request does not fit the engine or the model.
            ModelError: The model is missing, damaged, incomplete or unknown to the engine.
            InsufficientResourcesError: The model does not fit the memory that was free when it was first used.
            BinaryError: There is no engine that runs here.
            GenerationError: The engine ran and gave no usable picture.
            StorageError: A file could not be written.

        Cancelling the task ends the engine: when this returns or raises, no process of it runs and its files are
        gone.
        """
        with self._running.current():
            emitter = Emitter(on_event, generation_id := secrets.token_hex(12))
            with emitter.ending():
                ensured, found = await self._prepare(self._name_for(request))
                run = self._run(generation_id, request, ensured, found.files)
                result = await self._judged(ensured, run, found, emitter)
            emitter.emit(Completed, result=result)
            return result

    async def would_need_offload(self, request: ImageRequest) -> bool:
        """Whether another program would be put aside for this picture, as things are.

        Raises:
            SDManagerError: As ``prepare``, or a picture that it starts from is unusable.
        """
        ensured, found = await self._prepare(self._name_for(request))
        run = self._run("", request, ensured, found.files)
        return await self._maker.would_need_offload(run, found.weights)

    async def is_available(self) -> bool:
        """Whether an engine is installed and the model is there; builds nothing."""
        try:
            await in_thread(self._models.find, self._name)
            await find_engine(self._settings)
        except SDManagerError:
            return False
        return True

    async def aclose(self) -> None:
        """Cancel what runs, on whatever event loop, and wait until it has ended; idempotent."""
        await self._running.cancel_others()
        if self._given_room is None:
            await self._maker.orchestrator.aclose()

    def _run(
        self,
        generation_id: str,
        request: ImageRequest,
        ensured: Ensured,
        model: ModelFiles,
    ) -> Run:
        return Run(
            generation_id=generation_id,
            request=request,
            binary=ensured.engine,
            model=model,
            plan=self._plan,
            settings=self._settings,
            estimates=self._estimates,
            threads=self._threads,
            on_output=self._on_output,
            patience=_PATIENCE,
        )

    def _name_for(self, request: ImageRequest) -> str | None:
        return self._name if request.model_id is None else request.model_id

    async def _prepare(self, name: str | None, *, force_validation: bool = False) -> tuple[Ensured, Found]:
        """The engine, and the model of a name; None: the one that the generator was made with."""
        async with self._preparing.current():
            found = await in_thread(self._models.find, name)
            if not self._swept:
                await in_thread(sweep_jobs, self._settings.jobs_dir)
                self._swept = True
            ensured = self._ensured
            if force_validation or ensured is None or not ensured.engine.path.exists():
                ensured = self._ensured = await ensure_binary(
                    self._settings,
                    model=None if found.files.name == DEMO_NAME else found.files,
                    plan=self._plan,
                    force_validation=force_validation,
                    on_progress=self._on_prepare,
                )
            if not found.fits and not self._ignore_fit:
                await check_fits(
                    found.files, self._choices, self._settings, ensured.engine.variant,
                    with_room=self._given_room is not None and self._given_room.makes_room,
                )  # fmt: skip
            found.fits = True
            return ensured, found

    async def _judged(self, ensured: Ensured, run: Run, found: Found, emitter: Emitter) -> GenerationResult:
        """Draw; where the engine could not be proven before, this is its proof."""
        try:
            result = await self._maker.draw(run, found.weights, emitter)
        except (BinaryError, GenerationError) as exc:
            refused = meaning_of(exc) is not Meaning.FAILED or isinstance(exc, EngineArgumentError)
            if not ensured.proof.proven and not refused:
                self._ensured = None
                await record_failure(self._settings, ensured, exc)
            raise
        if ensured.proof.proven:
            return result
        image, timings = result.image, result.timings
        drew = Proof(
            proven=True, model=run.model.name, width=image.width, height=image.height,
            steps=run.request.steps, seconds=timings.loading + timings.diffusion + timings.decoding,
            note="the first real picture",
        )  # fmt: skip
        await record_success(self._settings, ensured, drew)
        self._ensured = dataclasses.replace(ensured, proof=drew)
        return result
