"""``DiffusionServerManager``: what an application starts, draws with, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Literal, Unpack

from sdmanager.engine import check_input_images
from sdmanager.errors import (
    SDManagerError,
    ServerAlreadyRunningError,
    ServerError,
    ServerNotRunningError,
)
from sdmanager.generation import Cancelled, Completed, Failed, callback_of, request_of
from sdmanager.listeners import Listeners
from sdmanager.logbook import LogBook
from sdmanager.server import EngineInfo, ErrorInfo, ServerInfo
from sdmanager.server.asking import answers
from sdmanager.settings import Settings
from sdmanager.version import __version__

from .options import StartOptions
from .parts import assemble
from .states import NEXT_STATES, ServerState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import TracebackType
    from typing import Self

    from sdmanager.generation import (
        Event,
        EventCallback,
        GenerationResult,
        ImageRequest,
        Preview,
        Progress,
        RequestFields,
    )
    from sdmanager.jobs import Generation, GenerationService
    from sdmanager.logbook import LogEntry
    from sdmanager.models import ModelFiles

    from .options import StartFields
    from .parts import Parts

_log = logging.getLogger("sdmanager.manager")

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
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.from_environment()
        self._listeners = Listeners()
        self._book = LogBook(self._settings.logs_dir)
        self._state = ServerState.STOPPED
        self._options: StartOptions | None = None
        self._error: SDManagerError | None = None
        self._starting: asyncio.Task[None] | None = None
        self._joiners = 0
        self._stopping: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._running: Parts | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def status(self) -> ServerState:
        """Where in its life the manager is."""
        return self._state

    async def start(
        self, model: str | os.PathLike[str] | ModelFiles | None = None, **options: Unpack[StartFields]
    ) -> ServerInfo:
        """See that the port is free, the model there and an engine proven, then serve.

        Args:
            model: ``"demo"``, the path of a model file, or ``ModelFiles``; None is the demo model.
            **options: See ``StartFields``; such as ``port="auto"``, ``queue=8``, ``token="…"``.

        Raises:
            InvalidRequestError: An option is unknown or out of range, or a token is missing.
            ServerAlreadyRunningError: It runs, or is starting with other options.
            ServerNotRunningError: ``stop()`` was called before it had started.
            PortInUseError: Another program listens there.
            ModelError: The model is not there.
            BinaryError: No engine works here.
            StorageError: A folder cannot be written.

        Cancelling the only call that waits for the start aborts it.
        """
        wanted = StartOptions.build(model, options)
        while self._state is ServerState.STOPPING:
            await self.stop()
        if self._state is ServerState.RUNNING:
            raise ServerAlreadyRunningError("The server runs already.")
        if self._state is ServerState.STARTING:
            if wanted != self._options:
                raise ServerAlreadyRunningError("The server is being started with other options.")
        else:
            self._set(ServerState.STARTING)
            self._options, self._error = wanted, None
            self._starting = asyncio.create_task(self._bring_up(wanted), name="sdmanager-start")
        return await self._join_start()

    async def stop(self) -> None:
        """Stop whatever goes on: a start is aborted, the work in hand cancelled, the server closed.

        Idempotent. When it returns, no process of the server runs. Cancelling the call does not undo it.
        """
        if self._state is ServerState.STOPPED:
            return
        if self._stopping is None:
            self._set(ServerState.STOPPING)
            self._book.write("info", "manager", "stopping")
            self._stopping = asyncio.create_task(self._take_down(), name="sdmanager-stop")
        await asyncio.shield(self._stopping)

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
            **fields: Fields of ``ImageRequest``, such as ``width=768``.

        Raises:
            ServerBusyError: Another is being drawn, and there is no place in the queue.
            GenerationCancelledError: Somebody else cancelled it.
            SDManagerError: As ``submit``, or what the generation failed with.

        Cancelling the task cancels the generation: when this returns or raises, its engine is dead. What a callback
        raises does the same, and is raised from here.
        """
        request = request_of(prompt, fields, with_previews=on_preview is not None)
        service = self._service
        await check_input_images(request)
        return await service.draw(request, callback_of(on_progress, on_preview, on_event))

    async def submit(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> Generation:
        """Take a request and return; ``get(id)`` and ``events(id)`` say what becomes of it.

        Args:
            prompt: What to draw, or a whole request.
            **fields: Fields of ``ImageRequest``.

        Raises:
            InvalidRequestError: The request does not fit the engine or the model, or a picture in it is unusable.
            ServerBusyError: There is no place.
            ServerNotRunningError: The manager does not run.
            StorageError: The request cannot be written down.
        """
        request = request_of(prompt, fields)
        service = self._service
        await check_input_images(request)
        return service.submit(request)

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
        running, error = self._running, self._error
        binary = running.generator.binary if running else None
        model = running.generator.model if running else None
        return ServerInfo(
            version=__version__,
            status=self._state.value,
            model=model.name if model else None,
            engine=EngineInfo(variant=binary.variant, version=binary.version) if binary else None,
            url=running.http.url if running else None,
            host=self._options.host if self._options else None,
            port=running.http.port if running else None,
            pid=os.getpid(),
            started_at=running.started_at if running else None,
            busy=running.service.busy if running else False,
            waiting=running.service.waiting if running else 0,
            queue_size=running.service.queue_size if running else 0,
            samplers=binary.capabilities.samplers if binary else (),
            schedulers=binary.capabilities.schedulers if binary else (),
            preview_methods=binary.capabilities.preview_methods if binary else (),
            error=ErrorInfo(message=error.message, code=error.code, suggestion=error.hint) if error else None,
        )

    async def is_healthy(self) -> bool:
        """Whether the server really answers now, asked over HTTP."""
        running = self._running
        return running is not None and await answers(running.http.url, running.token)

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
        """
        return self._listeners.add(what, callback)

    @property
    def _service(self) -> GenerationService:
        if self._running is None or self._state is not ServerState.RUNNING:
            raise ServerNotRunningError(f"The server is {self._state.value}, so it cannot draw.")
        return self._running.service

    def _set(self, state: ServerState) -> None:
        assert state in NEXT_STATES[self._state], (self._state, state)  # noqa: S101 - a fault of this class
        self._state = state

    async def _join_start(self) -> ServerInfo:
        starting = self._starting
        assert starting is not None  # noqa: S101 - the caller is in the state that has one
        self._joiners += 1
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            if self._joiners == 1 and not starting.done():
                await self.stop()
            raise
        finally:
            self._joiners -= 1
        if starting.cancelled():
            raise ServerNotRunningError("The server was stopped before it had started.")
        starting.result()
        return self.info()

    async def _bring_up(self, options: StartOptions) -> None:
        began = time.monotonic()
        try:
            self._stack.enter_context(self._book.capture(options.log_level))
            self._running = await assemble(
                options,
                self._settings,
                self._stack,
                info=self.info,
                on_prepare=lambda progress: self._listeners.tell("binary-progress", progress),
                on_output=self._on_output,
                on_event=self._on_event,
                on_crash=self._crash,
            )
        except Exception as exc:
            await self._stack.aclose()
            self._crash(exc)
            raise
        self._set(ServerState.RUNNING)
        took = 1000 * (time.monotonic() - began)
        self._book.write("info", "manager", f"started in {took:.0f} ms, model {self.info().model!r}")
        self._listeners.tell("started", self.info())

    async def _take_down(self) -> None:
        try:
            if self._starting is not None and not self._starting.done():
                self._starting.cancel()
                await asyncio.wait([self._starting])
            await self._stack.aclose()
        except Exception:  # noqa: BLE001 - whatever a part says, the others have been taken down by now
            _log.exception("a part of the server did not stop well")
        finally:
            self._running = None
            self._starting = self._stopping = None
            self._set(ServerState.STOPPED)
            self._listeners.tell("stopped", self.info())

    def _crash(self, error: BaseException) -> None:
        self._error = (
            error
            if isinstance(error, SDManagerError)
            else ServerError(f"The server failed ({type(error).__name__}).")
        )
        self._running = None
        self._set(ServerState.CRASHED)
        self._book.write("error", "manager", f"crashed: {self._error.message}")
        self._listeners.tell("crashed", self._error)

    def _on_output(self, stream: str, data: bytes) -> None:
        self._book.write_output(stream, data)
        self._listeners.tell("binary-log", stream, data)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Completed | Failed | Cancelled):
            for stream in ("stdout", "stderr"):
                self._book.write_output(stream, b"\n")  # the engine has ended, also in the middle of a line
            what = type(event).__name__.lower()
            why = f": {event.error.code}" if isinstance(event, Failed) else ""
            self._book.write(
                "info", "manager", f"generation {event.generation_id} {what} in {event.elapsed:.1f} s{why}"
            )
        self._listeners.tell("generation", event)
