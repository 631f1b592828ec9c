"""The blocking face of the package: one event loop in one thread, and no second implementation."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from sdmanager.engine import LocalGenerator
from sdmanager.files import expanded
from sdmanager.generation import callback_of, request_of
from sdmanager.models import DEMO_NAME, ModelFiles
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
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
    from sdmanager.jobs import Generation
    from sdmanager.logbook import LogEntry
    from sdmanager.manager import DiffusionServerManager, ServerState, StartFields, What
    from sdmanager.server import ServerInfo

T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread, started on first use and closed at exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.generators: dict[object, LocalGenerator] = {}
        self.managers: weakref.WeakSet[DiffusionServerManager] = weakref.WeakSet()

    def start(self, coroutine: Coroutine[Any, Any, T], on_done: Callable[[], None]) -> asyncio.Task[T]:
        """Start a task on the loop; ``on_done`` is called there once it has ended, however it did."""

        async def begin() -> asyncio.Task[T]:
            task = asyncio.create_task(coroutine)
            task.add_done_callback(lambda _: on_done())
            return task

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="sdmanager-loop", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(begin(), self._loop).result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it; what interrupts the wait cancels it, and waits for that."""
        return self.run_telling(lambda _: coroutine, lambda _: None)

    def run_telling(
        self, begin: Callable[[Callable[[Any], None]], Coroutine[Any, Any, T]], deliver: Callable[[Any], None]
    ) -> T:
        """The same for a coroutine that tells things on its way.

        Args:
            begin: Makes the coroutine, given the function that it is to call on the loop.
            deliver: Called in this thread, while it waits, with each thing told; what it raises cancels the
                coroutine.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        end = object()
        task = self.start(begin(told.put), lambda: told.put(end))
        try:
            while (fact := told.get()) is not end:
                deliver(fact)
        except BaseException:
            task.get_loop().call_soon_threadsafe(task.cancel)
            while told.get() is not end:  # until nothing of it runs any more
                pass
            raise
        return task.result()

    def close(self) -> None:
        """Cancel what runs, wait for it, and end the thread; idempotent."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            managers = list(self.managers)
            self.generators.clear()
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_all(managers), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def forget(self) -> None:
        """In a forked child the thread does not exist: start afresh."""
        self.__init__()  # type: ignore[misc]


async def _end_all(managers: list[DiffusionServerManager]) -> None:
    for manager in managers:
        await manager.stop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    # At exit some Pythons start no thread any more (3.12.1); the workers are joined by then.
    with contextlib.suppress(RuntimeError):
        await asyncio.get_running_loop().shutdown_default_executor()


_thread = _LoopThread()
atexit.register(_thread.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread.forget)


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
        model: ``"demo"``, the path of a model file, or ``ModelFiles``; None is the demo model, whose pictures are
            noise.
        engine: Path of an ``sd-cli``; None: ``SDMANAGER_ENGINE``, an installed one, or one built on first use.
        settings: Folders and times; from the environment when None.
        on_progress: Called with each ``Progress``.
        on_preview: Called with each ``Preview``; asks for previews where ``previews`` is not given.
        on_event: Called with every event.
        **fields: Fields of ``ImageRequest``, such as ``width=768`` or ``seed=7``.

    Raises:
        SDManagerError: The request, the model, the engine or the disk made it impossible.
    """
    request = request_of(prompt, fields, with_previews=on_preview is not None)
    return _thread.run_telling(
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
    generator = _thread.generators.get(key)
    if generator is None:
        generator = _thread.generators[key] = LocalGenerator(model, engine=engine, settings=chosen)
    return generator


class BlockingServerManager:
    """``DiffusionServerManager`` for programs without an event loop, and for threads of those that have one.

    The same methods with the same options and errors; each waits until it is done. Ctrl-C during a call cancels it.
    Also a context manager, which stops on leaving; servers that still run are stopped at exit. Its methods may be
    called from any thread.

    Args:
        settings: Folders and times; from the environment when None.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        from sdmanager.manager import DiffusionServerManager

        self._manager = DiffusionServerManager(settings)
        _thread.managers.add(self._manager)

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
        return _thread.run(self._manager.start(model, **options))

    def stop(self) -> None:
        """See ``DiffusionServerManager.stop``."""
        _thread.run(self._manager.stop())

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
        return _thread.run_telling(
            lambda tell: self._manager.generate_image(request, on_event=tell),
            callback_of(on_progress, on_preview, on_event),
        )

    def submit(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> Generation:
        """See ``DiffusionServerManager.submit``."""
        return _thread.run(self._manager.submit(prompt, **fields))

    def cancel(self, generation_id: str) -> Generation:
        """See ``DiffusionServerManager.cancel``."""
        return _thread.run(self._manager.cancel(generation_id))

    def get(self, generation_id: str) -> Generation:
        """See ``DiffusionServerManager.get``."""
        return _thread.run(_called(self._manager.get, generation_id))

    def events(self, generation_id: str) -> Iterator[Event]:
        """See ``DiffusionServerManager.events``; each step of the loop waits for the next event."""
        events = self._manager.events(generation_id)
        try:
            while (event := _thread.run(_next(events))) is not None:
                yield event
        finally:
            _thread.run(events.aclose())

    def info(self) -> ServerInfo:
        """See ``DiffusionServerManager.info``."""
        return _thread.run(_called(self._manager.info))

    def is_healthy(self) -> bool:
        """See ``DiffusionServerManager.is_healthy``."""
        return _thread.run(self._manager.is_healthy())

    def logs(self, count: int = 100) -> list[str]:
        """See ``DiffusionServerManager.logs``."""
        return _thread.run(_called(self._manager.logs, count))

    def structured_logs(self, count: int = 100) -> list[LogEntry]:
        """See ``DiffusionServerManager.structured_logs``."""
        return _thread.run(_called(self._manager.structured_logs, count))

    def clear_logs(self) -> None:
        """See ``DiffusionServerManager.clear_logs``."""
        _thread.run(_called(self._manager.clear_logs))

    def on(self, what: What, callback: Callable[..., object]) -> Callable[[], None]:
        """See ``DiffusionServerManager.on``; callbacks are called in the thread of the event loop."""
        return _thread.run(_called(self._manager.on, what, callback))


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _called(function: Callable[..., T], *args: object) -> T:
    """What a function gives when called on the loop, which all of a manager belongs to."""
    return function(*args)
