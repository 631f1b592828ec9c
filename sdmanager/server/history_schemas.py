"""What the gallery answers, as types, for ``/openapi.json``; ``history_api`` makes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .schemas import Body, StageTimingsBody


class HistoryImageBody(Body):
    """An image of the gallery; while it forms, a frame that shows its newest preview."""

    id: str
    generation_id: str
    index: int = Field(ge=0, description="Its place within the generation.")
    status: Literal["forming", "complete"]
    created_at: int = Field(description="When its drawing began, in milliseconds since the epoch.")
    completed_at: int | None = Field(None, description="When it was whole, in milliseconds since the epoch.")
    url: str = Field(description="Of the picture; another one whenever the picture becomes another.")
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int
    seed: int | None = None
    model: str | None = None
    variant: str | None = Field(None, description="Of the engine.")
    time_taken: int | None = Field(None, description="Milliseconds of the whole generation.")
    timings: StageTimingsBody | None = None
    request: dict[str, Any] = Field(
        description="Fields of the request, once it is whole with the model's defaults; without input images."
    )


class HistoryPageBody(Body):
    """A part of the gallery, newest first."""

    images: tuple[HistoryImageBody, ...]
    total: int = Field(ge=0, description="How many the search finds in all.")
    after: str | None = Field(None, description="For the next page; missing on the last.")


class HistoryDeleted(Body):
    """An image that was deleted, with its file."""

    id: str
    deleted: Literal[True]


class HistoryCleared(Body):
    """How many images were deleted."""

    deleted: int = Field(ge=0)
