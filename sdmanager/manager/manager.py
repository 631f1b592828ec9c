"""``DiffusionServerManager``: what an application starts, draws with, and stops."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Literal, Unpack, get_args

from sdmanager.errors import InvalidRequestError, SDManagerError, ServerNotRunningError
from sdmanager.generation import Cancelled, Completed, Failed, callback_of, request_of
from sdmanager.listeners import Listeners
from sdmanager.logbook import LogBook
from sdmanager.resources import DEFAULT_LINGER, DEFAULT_THRESHOLD, ResourceOrchestrator
from sdmanager.server import answers
from sdmanager.settings import Settings

from .calibrating import measure
from .facts import facts_of
from .lifecycle import Lifecycle
from .options import StartOptions
from .parts import assemble
from .room import ServerRoom
from .shelf import ServerModels
from .states import ServerState

if TYPE_CHECKING:
    import contextlib
    import os
    from collections.abc import AsyncGenerator, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from sdmanager.engine import CalibrationProgress, CalibrationReport
    from sdmanager.generation import (
        Event,
        EventCallback,
        GenerationResult,
        ImageRequest,
        MemoryPlan,
        Preview,
        Progress,
        RequestFields,
    )
    from sdmanager.jobs import Generation, GenerationService
    from sdmanager.logbook import LogEntry
    from sdmanager.models import ModelFiles
    from sdmanager.resources import Offloadable
    from sdmanager.server import ServerInfo

    from .options import StartFields
    from .parts import Parts

What = Literal["started", "stopped", "crashed", "binary-log", "binary-progress", "generation"]


class DiffusionServerManager:
    """A server that draws, started and stopped by the application, which may draw with it directly, too.

    Also an async context manager, which stops on leaving. All methods belong to one event loop; in a program
    without one, ``BlockingServerManager`` has the same methods.

    ========== ========================= ================ ==============================
    state      start()                   stop()           generate_image(), submit(), …
    ========== ========================= ================ ==============================
    stopped    starts                    nothing to do    ServerNotRunningError
    starting   joins it (same options)   aborts it        ServerNotRunningError
    running    ServerAlreadyRunningError stops            done
    stopping   waits, then starts        joins it         ServerNotRunningError
    crashed    starts                    becomes stopped  ServerNotRunningError
    ========== ========================= ================ ==============================

    Args:
        settings: Folders and times; from the environment when None.
        offloadables: Programs that are put aside for pictures that do not fit beside them, such as ``Ollama()``, and
            brought back. They belong to the caller, who starts and ends them.
        threshold: Share of RAM and of VRAM, above 0 and at most 1, over which they are.
        linger: Seconds after the last picture before they are brought back, 0 or more.

    Attributes:
        room: What was put aside, and what would be.
        models: What the running server can draw with, and which model it does.

    Raises:
        InvalidRequestError: The threshold or the time is out of range, or two of the programs have one name.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        offloadables: Sequence[Offloadable] = (),
        threshold: float = DEFAULT_THRESHOLD,
        linger: float = DEFAULT_LINGER,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        # One for all starts: what is aside is known, and waited for, between them and during them, too.
        self._orchestrator = ResourceOrchestrator(
            self._settings, offloadables, threshold=threshold, linger=linger
        )
        self._listeners = Listeners()
        self._book = LogBook(self._settings.logs_dir)
        self._began = 0.0
        self._life = Lifecycle(self._make, self._changed)
        self.room = ServerRoom(self._orchestrator, lambda: self._parts.generator)
        self.models = ServerModels(lambda: self._parts.models)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def status(self) -> ServerState:
        """Where in its life the manager is."""
        return self._life.state

    async def start(
        self, model: str | os.PathLike[str] | ModelFiles | None = None, **options: Unpack[StartFields]
    ) -> ServerInfo:
        """See that the port is free, the model there and an engine proven, then serve.

        Args:
            model: Name of an installed model, the path of a model file, or ``ModelFiles``; None is the demo model.
            **options: See ``StartFields``; such as ``port="auto"``, ``queue=8``, ``token="…"``.

        Raises:
            InvalidRequestError: An option is unknown or out of range, or a token is missing.
            ServerAlreadyRunningError: It runs, or is starting with other options.
            ServerNotRunningError: ``stop()`` was called before it had started.
            PortInUseError: Another program listens there.
            ModelError: The model is not there, or is not what it was.
            InsufficientResourcesError: The model surely does not fit this machine's memory.
            BinaryError: No engine works here.
            StorageError: A folder cannot be written.

        Cancelling the only call that waits for the start aborts it.
        """
        await self._life.start(StartOptions.build(model, options))
        return self.info()

    async def stop(self) -> None:
        """Stop whatever goes on: a start is aborted, the work in hand cancelled, the server closed.

        Idempotent. When it returns, no process of the server runs. Cancelling the call does not undo it.
        """
        await self._life.stop()

    async def generate_image(
        self,
        prompt: str | ImageRequest,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        on_event: EventCallback | None = None,
        **fields: Unpack[RequestFields],
    ) -> GenerationResult:
        """Draw and wait for it, in line with the requests that come over HTTP.

        Args:
            prompt: What to draw, or a whole request.
            on_progress: Called on the event loop with each ``Progress``; must not block.
            on_preview: Called with each ``Preview``; asks for previews where ``previews`` is not given.
            on_event: Called with every event.
            **fields: Fields of ``ImageRequest``, such as ``width=768``, or ``model_id="sd-turbo"`` for another model.

        Raises:
            ServerBusyError: Another is being drawn, and there is no place in the queue.
            GenerationCancelledError: Somebody else cancelled it.
            SDManagerError: As ``submit``, or what the generation failed with.

        Cancelling the task cancels the generation: when this returns or raises, its engine is dead. What a callback
        raises does the same, and is raised from here.
        """
        request = request_of(prompt, fields, with_previews=on_preview is not None)
        service = await self._checked(request)
        return await service.draw(request, callback_of(on_progress, on_preview, on_event))

    async def submit(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> Generation:
        """Take a request and return; ``get(id)`` and ``events(id)`` say what becomes of it.

        Args:
            prompt: What to draw, or a whole request.
            **fields: Fields of ``ImageRequest``.

        Raises:
            InvalidRequestError: The request does not fit the engine or the model, or a picture in it is unusable.
            ModelError: The model that it names is not there, or is not what it should be.
            ServerBusyError: There is no place.
            ServerNotRunningError: The manager does not run.
            StorageError: The request cannot be written down.
        """
        request = request_of(prompt, fields)
        return (await self._checked(request)).submit(request)

    async def calibrate(
        self,
        prompt: str | ImageRequest,
        *,
        plans: Sequence[MemoryPlan] | None = None,
        runs: int = 1,
        store: bool = True,
        on_progress: Callable[[CalibrationProgress], None] | None = None,
        **fields: Unpack[RequestFields],
    ) -> CalibrationReport:
        """Find out by drawing which memory flags are the fastest for the current model, or the one named; minutes.

        Nothing else is drawn meanwhile: requests wait or are refused, as during a generation.

        Args:
            prompt: What to draw, or a whole request; its size and steps are what matters.
            plans: Combinations of flags; None: those that are worth a try with this engine and model.
            runs: Pictures for each, 1 to 20; the median counts.
            store: Have later pictures of this model and size start with what was recommended.
            on_progress: Called on the event loop; must not block. What it raises ends the calibration.
            **fields: Fields of ``ImageRequest``, such as ``width=768``.

        Returns:
            What each combination took, and the fastest that works; where none does, ``error`` says why.

        Raises:
            ServerBusyError: A generation is being drawn.
            SDManagerError: As ``submit``.

        Cancelling the task, and ``stop()``, end the engine at once and store nothing.
        """
        request = request_of(prompt, fields)
        service = await self._checked(request)
        async with service.reserved():
            return await measure(self._parts, self._settings, request, plans, runs, store, on_progress)

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel a generation; when this returns, its engine is dead and its files are gone. Idempotent.

        Raises:
            GenerationNotFoundError: There is none with this id.
            AlreadyTerminalError: It has ended, with its pictures or an error.
        """
        return await self._service.cancel(generation_id)

    def get(self, generation_id: str) -> Generation:
        """How a generation stands; its result is kept for five minutes, or ``IMAGE_RESULT_TTL_MS``.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
        """
        return self._service.get(generation_id)

    def events(self, generation_id: str) -> AsyncGenerator[Event, None]:
        """The events of a generation from its first to its last; of one that has ended, the last alone.

        A reader that is slower than the engine gets only the newest preview. Leaving the loop leaves the generation
        alone.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
        """
        return self._service.events(generation_id)

    def info(self) -> ServerInfo:
        """What there is to know about the server now."""
        life = self._life
        return facts_of(life.state, life.options, life.parts, life.error, self.room.saved_state())

    async def is_healthy(self) -> bool:
        """Whether the server really answers now, asked over HTTP."""
        parts = self._life.parts
        self._life.stay_in_loop()
        return parts is not None and await answers(parts.http.url, parts.token)

    def logs(self, count: int = 100) -> list[str]:
        """The last lines of the log, oldest first: what the manager did and what the engine printed."""
        return self._book.lines(count)

    def structured_logs(self, count: int = 100) -> list[LogEntry]:
        """The same, with time, level and source apart."""
        return self._book.entries(count)

    def clear_logs(self) -> None:
        """Forget the log, and empty its file."""
        self._book.clear()

    def on(self, what: What, callback: Callable[..., object]) -> Callable[[], None]:
        """Call a function whenever something happens; what it raises is logged.

        Args:
            what: ``"started"`` and ``"stopped"`` (called with ``ServerInfo``), ``"crashed"`` (with the error),
                ``"binary-log"`` (with the name of the stream and the bytes that the engine printed),
                ``"binary-progress"`` (with ``EngineProgress``, while an engine is found, fetched or built),
                ``"generation"`` (with every event of every generation).
            callback: Called on the event loop; must not block.

        Returns:
            A function that ends it.

        Raises:
            InvalidRequestError: Nothing of this name ever happens, or the callback is a coroutine function.
        """
        if what not in get_args(What) or inspect.iscoroutinefunction(callback):
            raise InvalidRequestError(
                "on() takes the name of something that happens, and a plain function.",
                hint=f"What happens: {', '.join(get_args(What))}.",
            )
        return self._listeners.add(what, callback)

    @property
    def _parts(self) -> Parts:
        parts, state = self._life.parts, self._life.state
        if parts is None or state is not ServerState.RUNNING:
            raise ServerNotRunningError(f"The server is {state.value}, so it cannot draw.")
        return parts

    @property
    def _service(self) -> GenerationService:
        return self._parts.service

    async def _checked(self, request: ImageRequest) -> GenerationService:
        """The service, once it is known that it could carry the request out."""
        self._life.stay_in_loop()
        parts = self._parts
        parts.service.refuse_if_full()
        await parts.check(request)
        return parts.service

    async def _make(self, options: StartOptions, stack: contextlib.AsyncExitStack) -> Parts:
        self._began = time.monotonic()
        stack.enter_context(self._book.capture(options.log_level))
        stack.callback(self._book.write, "info", "manager", "stopped")  # after all other parts
        try:
            return await assemble(
                options,
                self._settings,
                self._orchestrator,
                stack,
                info=self.info,
                on_prepare=lambda progress: self._listeners.tell("binary-progress", progress),
                on_output=self._on_output,
                on_event=self._on_event,
                on_use=lambda name: self._book.write("info", "manager", f"draws with the model {name!r} now"),
                on_crash=self._life.crash,
            )
        except SDManagerError as exc:
            self._book.write("error", "manager", f"the start failed: {exc.message}")
            raise

    def _changed(self, state: ServerState) -> None:
        info = self.info()
        match state:
            case ServerState.RUNNING:
                took = 1000 * (time.monotonic() - self._began)
                engine = f"{info.engine.variant} {info.engine.version}" if info.engine else "unknown"
                what = f"started at {info.url} in {took:.0f} ms, model {info.model!r}, engine {engine}"
                self._book.write("info", "manager", what)
                self._listeners.tell("started", info)
            case ServerState.STOPPING:
                self._book.write("info", "manager", "stopping")
            case ServerState.STOPPED:
                self._listeners.tell("stopped", info)
            case ServerState.CRASHED if self._life.error is not None:
                self._book.write("error", "manager", f"crashed: {self._life.error.message}")
                self._listeners.tell("crashed", self._life.error)
            case _:
                pass

    def _on_output(self, stream: str, data: bytes) -> None:
        self._book.write_output(stream, data)
        self._listeners.tell("binary-log", stream, data)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Completed | Failed | Cancelled):
            parts = self._life.parts
            if parts is None or not parts.service.busy:
                for stream in ("stdout", "stderr"):  # the engine has ended, also in the middle of a line
                    self._book.write_output(stream, b"\n")
            what = type(event).__name__.lower()
            why = f": {event.error.code}" if isinstance(event, Failed) else ""
            self._book.write(
                "info", "manager", f"generation {event.generation_id} {what} in {event.elapsed:.1f} s{why}"
            )
        self._listeners.tell("generation", event)
