"""Answers of a server as the types of this package. What a newer server says besides is passed over."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sdmanager.errors import InvalidRequestError, SDManagerError
from sdmanager.generation import (
    EMPTY_PROMPT,
    GeneratedImage,
    GenerationResult,
    ImageData,
    ImageRequest,
    MemoryPlan,
    MemoryUse,
    Preview,
    PreviewTimings,
    Progress,
    Stage,
    StageTimings,
)
from sdmanager.jobs import Failure, Generation, Status

from .facts import GalleryImage, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("is no text")
    return base64.b64decode(text, validate=True)


def _seconds(milliseconds: object) -> float:
    if not isinstance(milliseconds, int | float):
        raise ValueError("is no number")
    return milliseconds / 1000


_Bytes = Annotated[bytes, BeforeValidator(_bytes)]
_Seconds = Annotated[float, BeforeValidator(_seconds)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)

    @classmethod
    def of(cls, data: object) -> Self:
        """What an answer says.

        Raises:
            pydantic.ValidationError: It is not of this shape; a ``ValueError``.
        """
        return cls.model_validate(data)


class FailureBody(_Body):
    """An error, in an answer or as an event."""

    message: str
    code: str
    suggestion: str | None = None

    def to_failure(self) -> Failure:
        """The same as a generation keeps it."""
        return Failure(self.code, self.message, self.suggestion)

    def to_error(self) -> SDManagerError:
        """The same to be raised."""
        return SDManagerError.of_code(self.code, self.message, hint=self.suggestion)


class ProgressBody(_Body):
    """How far a generation is."""

    current_step: int
    total_steps: int
    stage: Stage
    percentage: float
    current_image: int
    total_images: int
    eta_seconds: float | None = None

    def to_progress(self, stamp: Mapping[str, Any]) -> Progress:
        """The event, with what every event has besides."""
        return Progress(
            **stamp, stage=self.stage, step=self.current_step, total_steps=self.total_steps,
            percentage=self.percentage, image=self.current_image, total_images=self.total_images,
            seconds_per_step=None, eta_seconds=self.eta_seconds,
        )  # fmt: skip


class PreviewBody(_Body):
    """A preview with its bytes."""

    step: int
    total_steps: int
    current_image: int
    width: int
    height: int
    format: str
    image: _Bytes

    def to_preview(self, stamp: Mapping[str, Any]) -> Preview:
        """The event, with what every event has besides."""
        image = ImageData(self.image, self.format, self.width, self.height)
        return Preview(
            **stamp, step=self.step, total_steps=self.total_steps, image_index=self.current_image, image=image
        )


class QueuedBody(_Body):
    """A place in the queue."""

    position: int


class PlanBody(_Body):
    """Memory flags."""

    flags: tuple[str, ...] = ()
    evictions: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_plan(self) -> MemoryPlan:
        """The plan that has them."""
        return MemoryPlan.of_flags(self.flags, evictions=self.evictions, reasons=self.reasons)


class ReplannedBody(_Body):
    """A second start of the engine."""

    plan: PlanBody
    reason: str


class _Picture(_Body):
    image: _Bytes
    seed: int
    width: int
    height: int


class _Timings(_Body):
    loading: _Seconds = 0.0
    diffusion: _Seconds = 0.0
    decoding: _Seconds = 0.0
    offloading: _Seconds = 0.0


class _Memory(_Body):
    ram_bytes: int | None = None
    vram_bytes: int | None = None


class _Previews(_Body):
    count: int = 0
    first_after: _Seconds | None = None
    reading: _Seconds = 0.0
    encoding: _Seconds = 0.0


class _Result(_Body):
    images: Annotated[tuple[_Picture, ...], Field(min_length=1)]
    time_taken: _Seconds
    timings: _Timings
    model: str
    variant: str
    plan: PlanBody = PlanBody()
    memory: _Memory | None = None
    out_of_memory: tuple[PlanBody, ...] = ()
    previews: _Previews | None = None
    request: dict[str, Any] | None = None

    def to_result(self) -> GenerationResult:
        memory = self.memory
        return GenerationResult(
            images=tuple(
                GeneratedImage(each.image, each.seed, each.width, each.height) for each in self.images
            ),
            time_taken=self.time_taken,
            timings=StageTimings(**self.timings.model_dump()),
            model=self.model,
            variant=self.variant,
            plan=self.plan.to_plan(),
            previews=PreviewTimings(**self.previews.model_dump()) if self.previews is not None else None,
            memory=MemoryUse(memory.ram_bytes, memory.vram_bytes) if memory is not None else None,
            out_of_memory=tuple(each.to_plan() for each in self.out_of_memory),
            request=_request_of(self.request) if self.request is not None else None,
        )


def _request_of(fields: dict[str, Any]) -> ImageRequest | None:
    """What was drawn; None where a server of another version says what is not known here."""
    try:
        return ImageRequest.model_validate(fields, context=EMPTY_PROMPT)
    except InvalidRequestError:
        return None


class AcceptedBody(_Body):
    """A generation that was just taken."""

    id: str
    status: Status
    created_at: int

    def to_generation(self) -> Generation:
        """How it stands."""
        return Generation(self.id, self.status, self.created_at, self.created_at)


class GenerationBody(_Body):
    """A generation, with its result if it has one."""

    id: str
    status: Status
    created_at: int
    updated_at: int
    queue_position: int | None = None
    progress: ProgressBody | None = None
    result: _Result | None = None
    error: FailureBody | None = None

    def to_generation(self) -> Generation:
        """How it stands."""
        elapsed = (self.updated_at - self.created_at) / 1000
        stamp = {"generation_id": self.id, "sequence": 0, "elapsed": elapsed}
        return Generation(
            id=self.id,
            status=self.status,
            created_at=self.created_at,
            updated_at=self.updated_at,
            position=self.queue_position,
            progress=self.progress.to_progress(stamp) if self.progress is not None else None,
            result=self.result.to_result() if self.result is not None else None,
            error=self.error.to_failure() if self.error is not None else None,
        )


class _Model(_Body):
    id: str
    current: bool = False
    family: str | None = None
    defaults: dict[str, object] = {}


class ModelListBody(_Body):
    """The models of a server."""

    data: tuple[_Model, ...]

    def to_models(self) -> list[ModelInfo]:
        """The same as facts."""
        return [ModelInfo(each.id, each.current, each.family, each.defaults) for each in self.data]


class _GalleryImage(_Body):
    id: str
    generation_id: str
    index: int
    status: str
    created_at: int
    completed_at: int | None = None
    url: str
    format: str
    width: int
    height: int
    seed: int | None = None
    model: str | None = None
    variant: str | None = None
    time_taken: _Seconds | None = None
    timings: dict[str, _Seconds] = {}
    request: dict[str, object] = {}

    def to_image(self) -> GalleryImage:
        fields = self.model_dump(exclude={"status"})
        return GalleryImage(**fields, is_complete=self.status == "complete")


class HealthBody(_Body):
    """That a server answers."""

    busy: bool


class GalleryPageBody(_Body):
    """A part of the gallery."""

    images: tuple[_GalleryImage, ...]
    after: str | None = None

    def to_images(self) -> list[GalleryImage]:
        """The images on it, newest first."""
        return [each.to_image() for each in self.images]
