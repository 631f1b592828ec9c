"""What the gallery knows of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class HistoryImage:
    """One image of the gallery; while it forms, a frame that shows its newest preview.

    Attributes:
        id: Its name in the gallery.
        generation_id: The generation that drew it.
        index: Place within that generation, from 0.
        created_at: When its drawing began, in milliseconds since the epoch.
        completed_at: When it was whole, in milliseconds since the epoch; None while it forms.
        path: Of the picture, or of the newest preview while it forms; None before the first preview.
        format: ``png``; of a preview also ``jpeg`` or ``webp``.
        width: Pixels of the picture that was asked for.
        height: Likewise.
        seed: That draws it again; None while it forms and was not named.
        model: Name of the model; None while it forms and was not named.
        variant: Variant of the engine; None while it forms.
        time_taken: Seconds of the whole generation; None while it forms.
        timings: Seconds per stage of the whole generation.
        request: Fields of the request by their names on the wire, with the model's defaults once it is whole;
            without input images.
        version: Counts up whenever the picture becomes another.
    """

    id: str
    generation_id: str
    index: int
    created_at: int
    completed_at: int | None
    path: Path | None
    format: str
    width: int
    height: int
    seed: int | None
    model: str | None
    variant: str | None
    time_taken: float | None
    timings: Mapping[str, float]
    request: Mapping[str, object]
    version: int = 0


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A part of the gallery, newest first.

    Attributes:
        images: Of this page.
        total: How many images the search finds in all.
        after: What to give as ``after`` for the next page; None: this is the last.
    """

    images: tuple[HistoryImage, ...]
    total: int
    after: str | None
