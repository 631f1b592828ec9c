"""The one place that makes the parts of a running server and joins them together."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Final

from sdmanager.engine import LocalGenerator, check_input_images
from sdmanager.errors import StorageError
from sdmanager.jobs import GenerationRegistry, GenerationService, free_folder
from sdmanager.server import Face, HttpServer, Metrics, bind
from sdmanager.threads import in_thread

from .shelf import ModelShelf

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable

    from sdmanager.binaries import EngineProgress
    from sdmanager.generation import Event, EventCallback, ImageRequest
    from sdmanager.history import History
    from sdmanager.resources import ResourceOrchestrator
    from sdmanager.server import ServerInfo
    from sdmanager.settings import Settings

    from .options import StartOptions

# Another server that starts at the same moment may take the folder that was just found to be free.
_FOLDER_TRIES: Final = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What a running server consists of.

    Attributes:
        options: What it was started with.
        room: Puts others aside for it, and brings them back.
        generator: Draws.
        models: What it can draw with.
        service: Takes requests and has them drawn one at a time.
        check: Raises what the engine, the model or the pictures of a request make impossible.
        http: Shows the service.
        token: What clients must show, or None.
        started_at: Milliseconds since the epoch.
    """

    options: StartOptions
    room: ResourceOrchestrator
    generator: LocalGenerator
    models: ModelShelf
    service: GenerationService
    check: Callable[[ImageRequest], Awaitable[None]]
    http: HttpServer
    token: str | None
    started_at: int


async def assemble(
    options: StartOptions,
    settings: Settings,
    room: ResourceOrchestrator,
    stack: contextlib.AsyncExitStack,
    *,
    info: Callable[[], ServerInfo],
    on_prepare: Callable[[EngineProgress], None],
    on_output: Callable[[str, bytes], None],
    on_event: EventCallback,
    on_use: Callable[[str], None],
    on_crash: Callable[[BaseException], None],
) -> Parts:
    """Make all parts; the stack takes down, in reverse order, as many as there were when this ended.

    Args:
        options: What the server is started with.
        settings: Folders and times.
        room: Who can be put aside, and when.
        stack: Given each part as it is made.
        info: What ``/v1/info`` says.
        on_prepare: Told how far the getting of an engine is.
        on_output: Given what the engine prints.
        on_event: Given every event of every generation.
        on_use: Told the name of each model that takes the place of another.
        on_crash: Told when a part fails that nobody waits for.

    Raises:
        SDManagerError: A part could not be made.
    """
    sock = bind(options.host, options.port)  # first: a port that is taken is seen before an engine is built
    stack.callback(sock.close)
    history = await _history(options, stack)  # likewise a folder that cannot be written
    stack.push_async_callback(room.aclose)
    await room.recover()  # now: who was aside before a crash is missed, and the engine may take long
    generator = await _generator(options, settings, room, stack, on_prepare, on_output)
    registry = await _registry(settings, str(options.port or "auto"), stack)
    metrics, models = Metrics(), ModelShelf(generator, settings, on_use)
    service = _service(options, generator, registry, history, _both(metrics.take, on_event))
    check = functools.partial(_check, generator)
    policy = dataclasses.replace(options.policy, port=sock.getsockname()[1])
    face = Face(service, info, check, models, history, metrics, settings.loras_dir)
    http = HttpServer(face, sock, policy)
    stack.push_async_callback(http.aclose)
    # Taken down before the connections, so that who watches a generation is told that it was cancelled.
    stack.push_async_callback(service.aclose)
    sweeping = asyncio.create_task(registry.sweep_forever(), name="sdmanager-sweep")
    stack.push_async_callback(_end, sweeping)
    await http.start()
    # From here on; before, its failure would be that of the start.
    sweeping.add_done_callback(lambda task: _report(task, on_crash))
    return Parts(
        options, room, generator, models, service, check, http, options.policy.token, int(time.time() * 1000)
    )


async def _history(options: StartOptions, stack: contextlib.AsyncExitStack) -> History | None:
    if options.gallery is None:
        return None
    from sdmanager.history import History

    history = History(options.gallery)
    stack.push_async_callback(history.aclose)
    await history.open()
    return history


async def _generator(
    options: StartOptions,
    settings: Settings,
    room: ResourceOrchestrator,
    stack: contextlib.AsyncExitStack,
    on_prepare: Callable[[EngineProgress], None],
    on_output: Callable[[str, bytes], None],
) -> LocalGenerator:
    """The generator, with an engine that draws and a model that is whole."""
    generator = LocalGenerator(
        options.model, settings=settings, plan=options.choices, threads=options.threads, room=room,
        ignore_fit=options.ignore_fit, on_prepare=on_prepare, on_output=on_output,
    )  # fmt: skip
    stack.push_async_callback(generator.aclose)
    await generator.prepare(force_validation=options.force_validation)
    if generator.model is not None:
        # Now, and not with the first request.
        await in_thread(generator.model.check_formats, allow_pickle=settings.allow_pickle)
    return generator


def _service(
    options: StartOptions,
    generator: LocalGenerator,
    registry: GenerationRegistry,
    history: History | None,
    on_event: EventCallback,
) -> GenerationService:
    return GenerationService(
        generator,
        registry,
        queue_size=options.queue,
        # The model, too: it may be another one by the time that the request is drawn.
        complete=lambda request: generator.bound(request.with_defaults(count=options.batch_size)),
        on_event=on_event,
        recorder=history,
    )


def _both(first: EventCallback, second: EventCallback) -> EventCallback:
    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell


async def _check(generator: LocalGenerator, request: ImageRequest) -> None:
    await check_input_images(request)
    await in_thread(generator.check, request)  # it may look for a model, and for LoRAs


async def _registry(settings: Settings, name: str, stack: contextlib.AsyncExitStack) -> GenerationRegistry:
    """The registry of a server, with what an earlier one of that name left."""
    tries, keep = 0, GenerationRegistry.from_environment().ttl
    while True:
        folder = await in_thread(free_folder, settings.generations_dir, name, keep=keep)
        registry = GenerationRegistry.from_environment(folder)
        stack.callback(
            registry.destroy
        )  # before it is opened: a start that is aborted must not keep the lock
        try:
            await in_thread(registry.open)
        except StorageError:
            tries += 1
            if tries == _FOLDER_TRIES:
                raise
        else:
            return registry


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _report(task: asyncio.Task[None], on_crash: Callable[[BaseException], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        on_crash(error)
