"""A generation as JSON and back. Whatever a file holds, what is read is a generation that is sound, or None.

The names of the pictures are not written down: they follow from their order, so that no record can point
anywhere else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from sdmanager.generation import (
    GeneratedImage,
    GenerationResult,
    MemoryPlan,
    MemoryUse,
    PreviewTimings,
    StageTimings,
)

from .snapshots import Failure, Generation
from .states import Status

_FORMAT: Final = 1
_SEED_MAX: Final = 2**63 - 1


def image_name(index: int) -> str:
    """The file of a picture, counted from 0."""
    return f"{index}.png"


def to_json(generation: Generation) -> dict[str, object]:
    """Plain values that ``json.dumps`` takes; position and progress are not kept."""
    return {
        "format": _FORMAT,
        "id": generation.id,
        "status": generation.status.value,
        "created_at": generation.created_at,
        "updated_at": generation.updated_at,
        "key": generation.key,
        "fingerprint": generation.fingerprint,
        "error": asdict(generation.error) if generation.error else None,
        "result": _result_to_json(generation.result) if generation.result else None,
    }


def from_json(data: object, folder: Path) -> Generation | None:
    """What ``to_json`` gave, or None where the data is anything else.

    Args:
        data: Out of a file.
        folder: The generation's own, named after it; its pictures are taken to be in there.
    """
    try:
        record = _Record.model_validate(data, context=folder)
    except ValidationError:
        return None
    return Generation(
        id=record.id,
        status=record.status,
        created_at=record.created_at,
        updated_at=record.updated_at,
        result=record.result.to_result(folder) if record.result else None,
        error=Failure(record.error.code, record.error.message, record.error.hint) if record.error else None,
        key=record.key,
        fingerprint=record.fingerprint,
    )


def _result_to_json(result: GenerationResult) -> dict[str, object]:
    return {
        "images": [
            {"seed": image.seed, "width": image.width, "height": image.height} for image in result.images
        ],
        "time_taken": result.time_taken,
        "timings": asdict(result.timings),
        "model": result.model,
        "variant": result.variant,
        "plan": asdict(result.plan),
        "previews": asdict(result.previews) if result.previews else None,
        "memory": asdict(result.memory) if result.memory else None,
        "out_of_memory": [asdict(plan) for plan in result.out_of_memory],
    }


def _text(value: object) -> str:
    """Pydantic's own check refuses lone surrogates, which stand for bytes of names that are no UTF-8."""
    if not isinstance(value, str):
        raise ValueError("is no text")
    return value


def _finite(value: Any) -> Any:
    """The model's ``allow_inf_nan`` does not reach into dataclasses in older releases of pydantic."""
    values = (getattr(value, field.name) for field in fields(value))
    if not all(math.isfinite(number) for number in values if isinstance(number, float)):
        raise ValueError("is not finite")
    return value


_Text = Annotated[str, PlainValidator(_text)]
_Plan = Annotated[MemoryPlan, AfterValidator(_finite)]
_Time = Annotated[int, Field(ge=0, le=10**14)]


class _Checked(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


class _Image(_Checked):
    seed: Annotated[int, Field(ge=-_SEED_MAX, le=_SEED_MAX)]
    width: Annotated[int, Field(ge=1, le=2**20)]
    height: Annotated[int, Field(ge=1, le=2**20)]


class _Result(_Checked):
    images: Annotated[list[_Image], Field(min_length=1, max_length=100)]
    time_taken: Annotated[float, Field(ge=0)]
    timings: Annotated[StageTimings, AfterValidator(_finite)]
    model: _Text
    variant: _Text
    plan: _Plan
    previews: Annotated[PreviewTimings, AfterValidator(_finite)] | None
    # Records of older versions have none.
    memory: MemoryUse | None = None
    out_of_memory: Annotated[list[_Plan], Field(max_length=100)] = []

    def to_result(self, folder: Path) -> GenerationResult:
        return GenerationResult(
            images=tuple(
                GeneratedImage(folder / image_name(index), image.seed, image.width, image.height)
                for index, image in enumerate(self.images)
            ),
            time_taken=self.time_taken,
            timings=self.timings,
            model=self.model,
            variant=self.variant,
            plan=self.plan,
            previews=self.previews,
            memory=self.memory,
            out_of_memory=tuple(self.out_of_memory),
        )


class _Failure(_Checked):
    code: _Text
    message: _Text
    hint: _Text | None


class _Record(_Checked):
    format: Literal[1]
    id: _Text
    status: Status
    created_at: _Time
    updated_at: _Time
    key: _Text | None
    fingerprint: _Text | None
    error: _Failure | None
    result: _Result | None

    @model_validator(mode="after")
    def _sound(self, info: ValidationInfo) -> _Record:
        folder = info.context
        if not isinstance(folder, Path) or self.id != folder.name or self.updated_at < self.created_at:
            raise ValueError("belongs elsewhere, or ended before it began")
        if (self.result is not None) != (self.status is Status.COMPLETE):
            raise ValueError("has a result that its status does not explain")
        if (self.error is not None) != (self.status is Status.ERROR):
            raise ValueError("has an error that its status does not explain")
        return self
