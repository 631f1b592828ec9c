"""The blocking face of the package: one event loop in one thread, and no second implementation."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, Unpack

from sdmanager.engine import LocalGenerator
from sdmanager.errors import InvalidRequestError
from sdmanager.files import expanded
from sdmanager.generation import callback_of, request_of
from sdmanager.models import DEMO_NAME, ModelFiles
from sdmanager.resources import DEFAULT_LINGER, DEFAULT_THRESHOLD
from sdmanager.settings import Settings
from sdmanager.threads import LoopThread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
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
    from sdmanager.jobs import Generation
    from sdmanager.logbook import LogEntry
    from sdmanager.manager import DiffusionServerManager, ServerState, StartFields, What
    from sdmanager.models import InstalledModel, PullProgress
    from sdmanager.resources import Offloadable, SavedState
    from sdmanager.server import ModelEntry, ServerInfo

_thread = LoopThread("sdmanager-loop")
_generators: dict[object, LocalGenerator] = {}
_managers: weakref.WeakSet[DiffusionServerManager] = weakref.WeakSet()


async def _stop_managers() -> None:
    for manager in list(_managers):
        await manager.stop()


def _close() -> None:
    _generators.clear()
    _thread.close(before=_stop_managers)


def _forget() -> None:
    _thread.forget()
    _generators.clear()
    _managers.clear()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def generate_image(
    prompt: str | ImageRequest,
    *,
    model: str | os.PathLike[str] | ModelFiles | None = None,
    engine: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    on_event: EventCallback | None = None,
    **fields: Unpack[RequestFields],
) -> GenerationResult:
    """Draw and wait for it.

    Callbacks are called in the thread that called this function, while it waits; what they raise ends the
    generation and is raised from here. So does Ctrl-C.

    Args:
        prompt: What to draw, or a whole request.
        model: Name of an installed model, the path of a model file, or ``ModelFiles``; None is the demo model, whose
            pictures are noise.
        engine: Path of an ``sd-cli``; None: ``SDMANAGER_ENGINE``, an installed one, or one built on first use.
        settings: Folders and times; from the environment when None.
        on_progress: Called with each ``Progress``.
        on_preview: Called with each ``Preview``; asks for previews where ``previews`` is not given.
        on_event: Called with every event.
        **fields: Fields of ``ImageRequest``, such as ``width=768`` or ``seed=7``. ``model_id`` names an installed
            model, as ``model`` does; both together are refused, unless they are the same.

    Raises:
        InvalidRequestError: Two models are named, or a field is out of range.
        SDManagerError: The request, the model, the engine or the disk made it impossible.
    """
    request = request_of(prompt, fields, with_previews=on_preview is not None)
    if model is not None and request.model_id is not None and request.model_id != model:
        raise InvalidRequestError(
            "Two models are named, by model and by model_id.", hint="Leave one of them out."
        )
    return _thread.run(
        lambda tell: _generate(request, model, engine, settings, tell),
        callback_of(on_progress, on_preview, on_event),
    )


async def _generate(
    request: ImageRequest,
    model: str | os.PathLike[str] | ModelFiles | None,
    engine: str | os.PathLike[str] | None,
    settings: Settings | None,
    on_event: EventCallback,
) -> GenerationResult:
    return await _shared_generator(model, engine, settings).generate(request, on_event)


def _shared_generator(
    model: str | os.PathLike[str] | ModelFiles | None,
    engine: str | os.PathLike[str] | None,
    settings: Settings | None,
) -> LocalGenerator:
    # The environment may change between two calls, so what it says is part of the key.
    chosen = settings or Settings.from_environment()
    name: object = model
    if isinstance(model, ModelFiles):
        name = (model.key, model.defaults)
    elif model not in {None, DEMO_NAME}:
        name = expanded(model)
    key = (name, expanded(engine) if engine is not None else None, chosen)
    generator = _generators.get(key)
    if generator is None:
        generator = _generators[key] = LocalGenerator(model, engine=engine, settings=chosen)
    return generator


def pull_model(
    name: str,
    *,
    settings: Settings | None = None,
    save_as: str | None = None,
    token: str | None = None,
    force: bool = False,
    with_preview: bool = True,
    ignore_fit: bool = False,
    on_progress: Callable[[PullProgress], None] | None = None,
) -> InstalledModel:
    """Fetch a model with all its parts, check them, and wait for it.

    ``on_progress`` is called in the thread that called this function, while it waits; what it raises ends the
    transfer and is raised from here. So does Ctrl-C. Both leave nothing unfinished.

    Args:
        name: Of the catalogue, such as ``sd-turbo`` or ``sd-1.5:f32``, or ``ORG/REPO/FILE.gguf``.
        settings: Folders; from the environment when None.
        save_as: By which to call a file of a repository; None: as the file is called.
        token: For gated repositories; None: ``HF_TOKEN``, else that of ``hf auth login``.
        force: Fetch again what is installed.
        with_preview: With the tiny autoencoder of sharp previews.
        ignore_fit: Also if this machine has too little memory for it.
        on_progress: Called with each ``PullProgress``.

    Raises:
        ModelError: It is unknown, gated, cannot be fetched, or is not what its publisher names.
        InsufficientResourcesError: The disk is too small for it, or the memory.
        StorageError: A folder cannot be written.
    """
    from sdmanager.models import pull_model as pull

    return _thread.run(
        lambda tell: pull(
            name,
            settings or Settings.from_environment(),
            save_as=save_as,
            token=token,
            force=force,
            with_preview=with_preview,
            ignore_fit=ignore_fit,
            on_progress=tell,
        ),
        on_progress or (lambda _: None),
    )


class BlockingServerManager:
    """``DiffusionServerManager`` for programs without an event loop, and for threads of those that have one.

    The same methods with the same options and errors; each waits until it is done. Ctrl-C during a call cancels it.
    Also a context manager, which stops on leaving; servers that still run are stopped at exit. Its methods may be
    called from any thread; within callbacks of ``on``, only those that wait for nothing: ``status``, ``get``, ``info``,
    ``logs``, ``structured_logs``, ``clear_logs`` and ``on``.

    Args:
        settings: Folders and times; from the environment when None.
        offloadables: See ``DiffusionServerManager``.
        threshold: Likewise.
        linger: Likewise.

    Attributes:
        room: What was put aside, and what would be.
        models: What the running server can draw with, and which model it does.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        offloadables: Sequence[Offloadable] = (),
        threshold: float = DEFAULT_THRESHOLD,
        linger: float = DEFAULT_LINGER,
    ) -> None:
        from sdmanager.manager import DiffusionServerManager

        self._manager = DiffusionServerManager(
            settings, offloadables=offloadables, threshold=threshold, linger=linger
        )
        self.room = BlockingServerRoom(self._manager)
        self.models = BlockingServerModels(self._manager)
        _managers.add(self._manager)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def status(self) -> ServerState:
        """Where in its life the manager is."""
        return self._manager.status

    def start(
        self, model: str | os.PathLike[str] | ModelFiles | None = None, **options: Unpack[StartFields]
    ) -> ServerInfo:
        """See ``DiffusionServerManager.start``."""
        return _thread.run(lambda _: self._manager.start(model, **options))

    def stop(self) -> None:
        """See ``DiffusionServerManager.stop``."""
        _thread.run(lambda _: self._manager.stop())

    def generate_image(
        self,
        prompt: str | ImageRequest,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        on_event: EventCallback | None = None,
        **fields: Unpack[RequestFields],
    ) -> GenerationResult:
        """See ``DiffusionServerManager.generate_image``; callbacks are called in this thread while it waits."""
        request = request_of(prompt, fields, with_previews=on_preview is not None)
        return _thread.run(
            lambda tell: self._manager.generate_image(request, on_event=tell),
            callback_of(on_progress, on_preview, on_event),
        )

    def submit(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> Generation:
        """See ``DiffusionServerManager.submit``."""
        return _thread.run(lambda _: self._manager.submit(prompt, **fields))

    def calibrate(
        self,
        prompt: str | ImageRequest,
        *,
        plans: Sequence[MemoryPlan] | None = None,
        runs: int = 1,
        store: bool = True,
        on_progress: Callable[[CalibrationProgress], None] | None = None,
        **fields: Unpack[RequestFields],
    ) -> CalibrationReport:
        """See ``DiffusionServerManager.calibrate``; the callback is called in this thread while it waits."""
        return _thread.run(
            lambda tell: self._manager.calibrate(
                prompt, plans=plans, runs=runs, store=store, on_progress=tell, **fields
            ),
            on_progress or (lambda _: None),
        )

    def cancel(self, generation_id: str) -> Generation:
        """See ``DiffusionServerManager.cancel``."""
        return _thread.run(lambda _: self._manager.cancel(generation_id))

    def get(self, generation_id: str) -> Generation:
        """See ``DiffusionServerManager.get``."""
        return _thread.call(self._manager.get, generation_id)

    def events(self, generation_id: str) -> Iterator[Event]:
        """See ``DiffusionServerManager.events``; each step of the loop waits for the next event."""
        events = self._manager.events(generation_id)
        try:
            while (event := _thread.run(lambda _: _next(events))) is not None:
                yield event
        finally:
            if _thread.is_current():  # a loop over it that was left is tidied up wherever Python gets to it
                _thread.leave(events.aclose())
            else:
                _thread.run(lambda _: events.aclose())

    def info(self) -> ServerInfo:
        """See ``DiffusionServerManager.info``."""
        return _thread.call(self._manager.info)

    def is_healthy(self) -> bool:
        """See ``DiffusionServerManager.is_healthy``."""
        return _thread.run(lambda _: self._manager.is_healthy())

    def logs(self, count: int = 100) -> list[str]:
        """See ``DiffusionServerManager.logs``."""
        return _thread.call(self._manager.logs, count)

    def structured_logs(self, count: int = 100) -> list[LogEntry]:
        """See ``DiffusionServerManager.structured_logs``."""
        return _thread.call(self._manager.structured_logs, count)

    def clear_logs(self) -> None:
        """See ``DiffusionServerManager.clear_logs``."""
        _thread.call(self._manager.clear_logs)

    def on(self, what: What, callback: Callable[..., object]) -> Callable[[], None]:
        """See ``DiffusionServerManager.on``; callbacks are called in the thread of the event loop."""
        return _thread.call(self._manager.on, what, callback)


class BlockingServerRoom:
    """``ServerRoom`` without an event loop."""

    def __init__(self, manager: DiffusionServerManager) -> None:
        self._room = manager.room

    def would_need_offload(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> bool:
        """See ``ServerRoom.would_need_offload``."""
        return _thread.run(lambda _: self._room.would_need_offload(prompt, **fields))

    def saved_state(self) -> tuple[SavedState, ...]:
        """See ``ServerRoom.saved_state``."""
        return _thread.call(self._room.saved_state)

    def clear_saved_state(self) -> None:
        """See ``ServerRoom.clear_saved_state``."""
        _thread.run(lambda _: self._room.clear_saved_state())

    def wait_for_reload(self) -> None:
        """See ``ServerRoom.wait_for_reload``."""
        _thread.run(lambda _: self._room.wait_for_reload())


class BlockingServerModels:
    """``ServerModels`` without an event loop."""

    def __init__(self, manager: DiffusionServerManager) -> None:
        self._models = manager.models

    @property
    def current(self) -> str:
        """See ``ServerModels.current``."""
        return _thread.call(lambda: self._models.current)

    def list(self) -> list[ModelEntry]:
        """See ``ServerModels.list``."""
        return _thread.run(lambda _: self._models.list())

    def use(self, name: str) -> None:
        """See ``ServerModels.use``."""
        _thread.run(lambda _: self._models.use(name))


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)
