"""The blocking face of the package: one event loop in one thread, and no second implementation."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
from typing import TYPE_CHECKING, TypeVar, Unpack

from sdmanager.engine import LocalGenerator
from sdmanager.files import expanded
from sdmanager.generation import ImageRequest, Preview, PreviewOptions, Progress, RequestFields
from sdmanager.models import DEMO_NAME, ModelFiles
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sdmanager.generation import Event, EventCallback, GenerationResult

T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread, started on first use and closed at exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.generators: dict[object, LocalGenerator] = {}

    def start(self, coroutine: Coroutine[object, object, T], on_done: Callable[[], None]) -> asyncio.Task[T]:
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

    def close(self) -> None:
        """Cancel what runs, wait for it, and end the thread; idempotent."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self.generators.clear()
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def forget(self) -> None:
        """In a forked child the thread does not exist: start afresh."""
        self.__init__()  # type: ignore[misc]


async def _cancel_all() -> None:
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
    if isinstance(prompt, ImageRequest):
        request = ImageRequest(**{**prompt.model_dump(exclude_unset=True), **fields}) if fields else prompt
    else:
        request = ImageRequest(prompt=prompt, **fields)
    if on_preview is not None and request.previews is None:
        request = request.model_copy(update={"previews": PreviewOptions()})

    def deliver(event: Event) -> None:
        if on_event is not None:
            on_event(event)
        if on_progress is not None and isinstance(event, Progress):
            on_progress(event)
        if on_preview is not None and isinstance(event, Preview):
            on_preview(event)

    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    task = _thread.start(_generate(request, model, engine, settings, events), lambda: events.put(None))
    try:
        while (event := events.get()) is not None:
            deliver(event)
    except BaseException:
        task.get_loop().call_soon_threadsafe(task.cancel)
        while events.get() is not None:  # until the engine has ended
            pass
        raise
    return task.result()


async def _generate(
    request: ImageRequest,
    model: str | os.PathLike[str] | ModelFiles | None,
    engine: str | os.PathLike[str] | None,
    settings: Settings | None,
    events: queue.SimpleQueue[Event | None],
) -> GenerationResult:
    generator = _shared_generator(model, engine, settings)
    return await generator.generate(request, events.put)


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
