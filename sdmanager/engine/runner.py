"""One request, one engine process: from arguments to pictures that have been checked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import (
    EngineHungError,
    EngineNotFoundError,
    EngineNotRunnableError,
    GenerationError,
    StorageError,
)
from sdmanager.generation import (
    Completed,
    GeneratedImage,
    GenerationResult,
    ImageData,
    MemoryUse,
    Preview,
    Stage,
    without_pictures,
)
from sdmanager.hardware import ram_now
from sdmanager.process import activity, child_environment, spawn
from sdmanager.resources import watch_memory
from sdmanager.threads import in_thread

from . import output as out
from .arguments import INIT_NAME, LORA_FOLDER, MASK_NAME, PREVIEW_NAME, output_name
from .emitting import Emitter
from .failures import Diary, check_whole, explain_failure, explain_picture, was_killed
from .images import check_result, fit_init_image, fit_mask_image
from .jobs import JobFolder
from .kills import count_kills, kills_since
from .loras import as_asked
from .parser import OutputParser
from .patience import Watch
from .previews import PreviewWatcher
from .progress import ProgressTracker
from .run import NO_CARD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sdmanager.generation import ImageRequest
    from sdmanager.process import Child, ExitStatus

    from .run import Run

_log = logging.getLogger("sdmanager.engine")

_TAIL_CHARS: Final = 64 * 1024

# With less free space than this after a run, a cut image needs no other explanation.
_FULL_DISK_BYTES: Final = 256 * 1024

_MIB: Final = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn, as the engine gets it: the same however often it has to start for it.

    Attributes:
        request: Complete, with its seed; its size is that of the picture that it starts from, where none was named.
        pictures: Those that it starts from, by their names in the job's folder.
    """

    request: ImageRequest
    pictures: Mapping[str, bytes]


async def run_generation(run: Run) -> GenerationResult:
    """Draw what the request asks for, with exactly the run's memory flags.

    Cancelling the task ends the engine and all that it started; when this returns or raises, no process of it
    runs and its folder is gone.

    Raises:
        InvalidRequestError: The request does not fit this engine or model, or an input image is unusable.
        ModelError: The engine cannot use the model.
        BinaryError: The engine cannot be run.
        GenerationError: The engine ran and gave no usable picture.
        StorageError: A file could not be written.
    """
    emitter = Emitter(run.on_event, run.generation_id)
    with emitter.ending():
        result = await run_engine(run, await complete(run), emitter)
    emitter.emit(Completed, result=result)
    return result


async def complete(run: Run) -> Drawing:
    """Fill in what the caller left open, and fit the pictures that it starts from to the size.

    Raises:
        InvalidRequestError: A picture is unusable.
    """
    request, pictures = run.complete_request(), {}
    if request.init_image is not None:
        # One after the other: each may take a second, and a cancelled run waits for the one in hand.
        request, pictures[INIT_NAME] = await in_thread(fit_init_image, request)
        if request.mask_image is not None:
            pictures[MASK_NAME] = await in_thread(fit_mask_image, request)
    return Drawing(request, pictures)


async def run_engine(run: Run, drawing: Drawing, emitter: Emitter) -> GenerationResult:
    """Start the engine once, and tell all but the end.

    Raises:
        SDManagerError: As ``run_generation``. Of an engine that was killed, the details say what is known about why.
    """
    return await _Execution(run, drawing, emitter).draw()


class _Execution:
    """The state of one run."""

    def __init__(self, run: Run, drawing: Drawing, emitter: Emitter) -> None:
        self._run = run
        self._drawing = drawing
        self._request = drawing.request
        self._emitter = emitter
        self._began = time.monotonic()
        self._diary = Diary()
        self._save_failed = False
        self._printed = 0
        self._image = 1
        self._weights: int | None = None
        self._memory: MemoryUse | None = None
        self._watcher: PreviewWatcher | None = None
        self._tracker: ProgressTracker  # made once the size, and with it the estimate, is known
        self._parser: OutputParser  # made once the texts that the engine may echo are known

    @property
    def _elapsed(self) -> float:
        """Seconds since this run began; what came before it teaches nothing about runs."""
        return time.monotonic() - self._began

    async def draw(self) -> GenerationResult:
        run = self._run
        self._request, invocation = run.invocation(self._request)
        request = self._request
        self._parser = OutputParser(request.steps, f"{request.prompt}\n{request.negative_prompt}")
        texts = {name: text.encode("utf-8", "surrogateescape") for name, text in invocation.texts.items()}
        estimate = run.estimates.get(run.model.key, run.binary.variant, request.width, request.height)
        self._tracker = ProgressTracker(request.steps, request.count, estimate)
        with JobFolder(run.settings.jobs_dir, run.generation_id) as folder:
            folder.write_inputs({**self._drawing.pictures, **texts})
            if invocation.loras:
                await in_thread(folder.link_files, LORA_FOLDER, invocation.loras)
            if request.previews is not None:
                self._watcher = PreviewWatcher(
                    folder.path / PREVIEW_NAME, request.previews, request.steps, self._on_preview
                )
            await self._execute(folder, [run.binary.path, *invocation.arguments])
            images = await in_thread(self._collect, folder)
        self._emitter.progress(self._tracker.finish(self._elapsed))
        self._learn()
        return GenerationResult(
            images=images,
            time_taken=self._emitter.elapsed,
            timings=self._tracker.timings,
            model=run.model.name,
            variant=run.binary.variant,
            plan=run.plan,
            previews=self._watcher.timings(self._emitter.began) if self._watcher is not None else None,
            memory=replace(self._memory, weights=self._weights) if self._memory is not None else None,
            # As it was asked for: with LoRAs by their own names.
            request=without_pictures(self._drawing.request),
        )

    async def _execute(self, folder: JobFolder, argv: list[Any]) -> None:
        settings = self._run.settings
        self._emitter.enter(Stage.LOADING)
        kills, (_, free) = count_kills(), ram_now()
        async with _running(self._watcher), contextlib.AsyncExitStack() as stack:
            try:
                child = await stack.enter_async_context(
                    spawn(
                        argv,
                        cwd=folder.path,
                        env=child_environment(),
                        on_stdout=lambda data: self._on_output("stdout", data),
                        on_stderr=lambda data: self._on_output("stderr", data),
                        grace=settings.stop_grace,
                        backstop=settings.pipe_backstop,
                        guard=settings.guard,
                    )
                )
            except FileNotFoundError as exc:
                raise EngineNotFoundError("The engine is not there any more.") from exc
            except OSError as exc:
                raise EngineNotRunnableError(f"The engine cannot be started: {exc.strerror or exc}.") from exc
            folder.started(child.pid)
            status = await self._watch(child)
        for event in self._parser.close():
            self._take(event)
        if not status.ok:
            error = explain_failure(status, self._diary)
            error.details["stage"] = self._tracker.stage.value
            if was_killed(status):
                had = self._memory.ram if self._memory is not None else None
                error.details |= {"oom_killer": kills_since(kills), "ram_bytes": had, "ram_free": free}
            raise error

    async def _watch(self, child: Child) -> ExitStatus:
        """The end of the child, with what memory it used until then."""
        run = self._run
        if not run.measure:
            return await self._wait(child)
        on_card = run.binary.variant not in NO_CARD if run.measure_vram is None else run.measure_vram
        async with watch_memory(child.pid, run.settings, vram=on_card) as seen:
            try:
                return await self._wait(child)
            finally:
                self._memory = seen.use()

    async def _wait(self, child: Child) -> ExitStatus:
        """The end of the child; of one that hangs, the end that we make."""
        patience, clock = self._run.patience, asyncio.get_running_loop().time
        if patience is None:
            return await child.wait()
        watch, ended = Watch(patience, clock()), asyncio.ensure_future(child.wait())
        try:
            while not (await asyncio.wait([ended], timeout=patience.every))[0]:
                if reason := watch.feed(clock(), self._printed, activity(child.pid)):
                    await child.stop(0)
                    raise EngineHungError(f"The engine {reason} and was ended.")
            return await ended
        finally:
            ended.cancel()

    def _on_output(self, stream: str, data: bytes) -> None:
        self._printed += len(data)
        if self._run.on_output is not None:
            self._run.on_output(stream, data)
        if stream == "stderr":
            tail = self._diary.stderr_tail + data.decode("utf-8", "replace")
            self._diary.stderr_tail = tail[-_TAIL_CHARS:]
        for event in self._parser.feed(stream, data):
            self._take(event)

    def _take(self, event: out.EngineOutput) -> None:
        match event:
            case out.LogLine(level, message):
                kept = self._diary.errors if level is out.LogLevel.ERROR else self._diary.warnings
                if len(kept) < 1000:
                    kept.append(message)
            case out.ModelFamily(name):
                self._diary.family = name
            case out.ParamsSize(total_mib=total):
                self._weights = round(total * _MIB)
            case out.ImageSaved(_, success):
                self._save_failed |= not success
            case out.ImageStarted(index):
                self._image = index
            case _:
                pass
        snapshot = self._tracker.feed(event, self._elapsed)
        if snapshot is not None:
            self._emitter.progress(snapshot)
        if isinstance(event, out.Step) and self._watcher is not None:
            self._watcher.on_step(event.step, event.total, self._image)

    def _on_preview(self, step: int, total_steps: int, image: int, picture: ImageData) -> None:
        self._emitter.emit_aside(
            Preview, step=step, total_steps=total_steps, image_index=image, image=picture
        )

    def _collect(self, folder: JobFolder) -> tuple[GeneratedImage, ...]:
        request = self._request
        if self._save_failed:
            raise StorageError("The engine could not save its image: the disk may be full.")
        check_whole(self._diary)
        first_seed = request.seed or 0
        # Drawn again, a picture's own text has to name the LoRAs, and not our links to them.
        prompts = request.prompt, as_asked(self._drawing.request)
        try:
            return tuple(
                check_result(
                    folder.path / output_name(index),
                    request.width,
                    request.height,
                    first_seed + index,
                    prompts=prompts,
                )
                for index in range(request.count)
            )
        except GenerationError as exc:
            if shutil.disk_usage(folder.path).free < _FULL_DISK_BYTES:
                raise StorageError(
                    "The image could not be written whole: the disk that holds the cache folder is full."
                ) from exc
            closer = explain_picture(exc, self._diary)
            if closer is exc:
                raise
            raise closer from exc

    def _learn(self) -> None:
        seen = self._tracker.learned()
        if seen is not None:
            run, request = self._run, self._request
            run.estimates.learn(run.model.key, run.binary.variant, request.width, request.height, seen)


@contextlib.asynccontextmanager
async def _running(watcher: PreviewWatcher | None) -> AsyncIterator[None]:
    if watcher is None:
        yield
        return
    task = asyncio.create_task(watcher.run(), name="sdmanager-previews")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
