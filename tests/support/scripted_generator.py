"""A generator whose every move the test decides: for what no real engine does on demand."""

from __future__ import annotations

import asyncio
import io

from PIL import Image

from sdmanager.generation import (
    Completed,
    GeneratedImage,
    GenerationResult,
    ImageData,
    MemoryPlan,
    Preview,
    Progress,
    Replanned,
    Stage,
    StageChanged,
    StageTimings,
)


def png(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (64, 64), (colour % 256, 20, 30))
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def result_of(count: int = 1, seed: int = 1) -> GenerationResult:
    images = tuple(GeneratedImage(png(seed + n), seed + n, 64, 64) for n in range(count))
    return GenerationResult(images, 1.5, StageTimings(0.1, 1.0, 0.4), "demo", "cpu", MemoryPlan())


def progress(step: int, total: int = 4, eta: float | None = 3.0) -> Progress:
    return Progress(
        generation_id="inner", sequence=0, elapsed=0.0, stage=Stage.DIFFUSION, step=step, total_steps=total,
        percentage=100 * step / (total + 1), image=1, total_images=1, seconds_per_step=1.0, eta_seconds=eta,
    )  # fmt: skip


def preview(step: int, total: int = 4, data: bytes = b"") -> Preview:
    image = ImageData(data or png(step), "png", 64, 64)
    return Preview(
        generation_id="inner",
        sequence=0,
        elapsed=0.0,
        step=step,
        total_steps=total,
        image_index=1,
        image=image,
    )


def stage(stage: Stage) -> StageChanged:
    return StageChanged(generation_id="inner", sequence=0, elapsed=0.0, stage=stage)


def replanned(reason: str) -> Replanned:
    plan = MemoryPlan(vae_tiling=True, reasons=("Tiles take less.",))
    return Replanned(generation_id="inner", sequence=0, elapsed=0.0, plan=plan, reason=reason)


class ScriptedGenerator:
    """Starts drawing when it is asked, and goes on when the test says so.

    Attributes:
        requests: What was asked for, in order.
        running: How many are being drawn; most: the most that ever were at once.
    """

    def __init__(self) -> None:
        self.requests = []
        self.running = self.most = 0
        self.cancelled = 0
        self._moves: asyncio.Queue = asyncio.Queue()

    def tell(self, *events) -> None:
        """Have the current or next drawing tell these."""
        for event in events:
            self._moves.put_nowait(event)

    def finish(self, outcome: GenerationResult | BaseException | None = None) -> None:
        """Have it end with a result or an error."""
        self._moves.put_nowait(outcome or result_of())

    async def generate(self, request, on_event=None):
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            on_event(stage(Stage.LOADING))
            while True:
                match await self._moves.get():
                    case GenerationResult() as result:
                        on_event(Completed(generation_id="inner", sequence=0, elapsed=0.0, result=result))
                        return result
                    case BaseException() as error:
                        raise error
                    case event:
                        on_event(event)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def is_available(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass
