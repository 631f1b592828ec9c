"""One request, one engine process: from arguments to pictures that have been checked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import (
    EngineHungError,
    EngineNotFoundError,
    EngineNotRunnableError,
    GenerationError,
    SDManagerError,
    StorageError,
)
from sdmanager.generation import (
    Cancelled,
    Completed,
    Event,
    Failed,
    GeneratedImage,
    GenerationResult,
    ImageData,
    Preview,
    Progress,
    Stage,
    StageChanged,
)
from sdmanager.process import activity, child_environment, spawn
from sdmanager.threads import in_thread

from . import output as out
from .arguments import INIT_NAME, LORA_FOLDER, MASK_NAME, PREVIEW_NAME, output_name
from .failures import Diary, explain_failure, explain_picture
from .images import check_result, fit_init_image, fit_mask_image
from .jobs import JobFolder
from .parser import OutputParser
from .patience import Watch
from .previews import PreviewWatcher
from .progress import ProgressTracker, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sdmanager.process import Child, ExitStatus

    from .run import Run

_log = logging.getLogger("sdmanager.engine")

_TAIL_CHARS: Final = 64 * 1024

# With less free space than this after a run, a cut image needs no other explanation.
_FULL_DISK_BYTES: Final = 256 * 1024


async def run_generation(run: Run) -> GenerationResult:
    """Draw what the request asks for.

    Cancelling the task ends the engine and all that it started; when this returns or raises, no process of it
    runs and its folder is gone.

    Raises:
        InvalidRequestError: The request does not fit this engine or model, or an input image is unusable.
        ModelError: The engine cannot use the model.
        BinaryError: The engine cannot be run.
        GenerationError: The engine ran and gave no usable picture.
        StorageError: A file could not be written.
    """
    execution = _Execution(run)
    try:
        result = await execution.draw()
    except asyncio.CancelledError:
        execution.raise_callback_error()
        with contextlib.suppress(Exception):  # nothing may stand in the place of the cancellation
            execution.emit(Cancelled)
        raise
    except SDManagerError as exc:
        if exc is not execution.callback_error:
            execution.emit(Failed, error=exc)
        raise
    execution.emit(Completed, result=result)
    return result


class _Execution:
    """The state of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._request = run.complete_request()
        self._began = time.monotonic()
        self._sequence = 0
        self._task = asyncio.current_task()
        self.callback_error: BaseException | None = None
        self._diary = Diary()
        self._save_failed = False
        self._printed = 0
        self._image = 1
        self._watcher: PreviewWatcher | None = None
        self._stage: Stage | None = None
        self._tracker: ProgressTracker  # made once the size, and with it the estimate, is known
        self._parser: OutputParser  # made once the texts that the engine may echo are known

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def emit(self, kind: Callable[..., Event], **fields: Any) -> None:
        if self._run.on_event is not None and self.callback_error is None:
            event = kind(
                generation_id=self._run.generation_id,
                sequence=self._sequence,
                elapsed=self._elapsed,
                **fields,
            )
            self._sequence += 1
            try:
                self._run.on_event(event)
            except BaseException as exc:
                self.callback_error = exc
                raise

    def raise_callback_error(self) -> None:
        """Where a callback's error cancelled this task from the side, that error is what the caller gets."""
        if self.callback_error is not None:
            if self._task is not None:
                self._task.uncancel()
            raise self.callback_error

    async def draw(self) -> GenerationResult:
        run = self._run
        inputs: dict[str, bytes] = {}
        if run.request.init_image is not None:
            # One after the other: each may take a second, and a cancelled run waits for the one in hand.
            self._request, inputs[INIT_NAME] = await in_thread(fit_init_image, self._request)
            if run.request.mask_image is not None:
                inputs[MASK_NAME] = await in_thread(fit_mask_image, self._request)
        self._request, invocation = run.invocation(self._request)
        request = self._request
        self._parser = OutputParser(request.steps, f"{request.prompt}\n{request.negative_prompt}")
        inputs |= {name: text.encode("utf-8", "surrogateescape") for name, text in invocation.texts.items()}
        estimate = run.estimates.get(run.model.key, run.binary.variant, request.width, request.height)
        self._tracker = ProgressTracker(request.steps, request.count, estimate)
        with JobFolder(run.settings.jobs_dir, run.generation_id) as folder:
            folder.write_inputs(inputs)
            if invocation.loras:
                await in_thread(folder.link_files, LORA_FOLDER, invocation.loras)
            if request.previews is not None:
                self._watcher = PreviewWatcher(
                    folder.path / PREVIEW_NAME, request.previews, request.steps, self._on_preview
                )
            await self._execute(folder, [run.binary.path, *invocation.arguments])
            images = await in_thread(self._collect, folder)
        self._emit_progress(self._tracker.finish(self._elapsed))
        self._learn()
        return GenerationResult(
            images=images,
            time_taken=self._elapsed,
            timings=self._tracker.timings,
            model=run.model.name,
            variant=run.binary.variant,
            plan=run.plan,
            previews=self._watcher.timings(self._began) if self._watcher is not None else None,
        )

    async def _execute(self, folder: JobFolder, argv: list[Any]) -> None:
        settings = self._run.settings
        self._emit_stage(Stage.LOADING)
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
            status = await self._wait(child)
        for event in self._parser.close():
            self._take(event)
        if not status.ok:
            raise explain_failure(status, self._diary)

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
            case out.ImageSaved(_, success):
                self._save_failed |= not success
            case out.ImageStarted(index):
                self._image = index
            case _:
                pass
        snapshot = self._tracker.feed(event, self._elapsed)
        if snapshot is not None:
            self._emit_progress(snapshot)
        if isinstance(event, out.Step) and self._watcher is not None:
            self._watcher.on_step(event.step, event.total, self._image)

    def _emit_stage(self, stage: Stage) -> None:
        if stage is not self._stage:
            self._stage = stage
            self.emit(StageChanged, stage=stage)

    def _emit_progress(self, snapshot: Snapshot) -> None:
        self._emit_stage(snapshot.stage)
        self.emit(
            Progress,
            stage=snapshot.stage,
            step=snapshot.step,
            total_steps=snapshot.total_steps,
            percentage=snapshot.percentage,
            image=snapshot.image,
            total_images=snapshot.total_images,
            seconds_per_step=snapshot.seconds_per_step,
            eta_seconds=snapshot.eta_seconds,
        )

    def _on_preview(self, step: int, total_steps: int, image: int, picture: ImageData) -> None:
        try:
            self.emit(Preview, step=step, total_steps=total_steps, image_index=image, image=picture)
        except Exception:  # noqa: BLE001 - kept by emit() and raised by the run
            if self._task is not None:
                self._task.cancel()

    def _collect(self, folder: JobFolder) -> tuple[GeneratedImage, ...]:
        request = self._request
        if self._save_failed:
            raise StorageError("The engine could not save its image: the disk may be full.")
        first_seed = request.seed or 0
        try:
            return tuple(
                check_result(
                    folder.path / output_name(index), request.width, request.height, first_seed + index
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
