"""What a server says besides generations and their events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Health:
    """That the server answers, and what it is at.

    Attributes:
        busy: Whether a picture is being drawn.
    """

    busy: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the server can draw with.

    Attributes:
        id: Name: for ``model_id`` of a request, and for ``use_model``.
        current: Whether requests that name none are drawn with it.
        family: Such as ``sd1``; None where it is unknown.
        defaults: What suits it, by the names on the wire (``steps``, ``cfgScale``, …).
    """

    id: str
    current: bool
    family: str | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image of the server's gallery; what is not known yet is None.

    Attributes:
        id: Its name in the gallery.
        generation_id: The generation that drew it.
        index: Place within that generation, from 0.
        is_complete: Whether it is whole; what ``download`` gives before that is the newest preview.
        created_at: When its drawing began, in milliseconds since the epoch.
        completed_at: When it was whole, in milliseconds since the epoch.
        url: Path of the picture on the server.
        format: ``png``; of a preview also ``jpeg`` or ``webp``.
        width: Pixels of the picture that was asked for.
        height: Likewise.
        seed: That draws it again.
        model: Name of the model.
        variant: Variant of the engine.
        time_taken: Seconds of the whole generation.
        timings: Seconds per stage of the whole generation.
        request: Fields of the request by their names on the wire, without input images.
    """

    id: str
    generation_id: str
    index: int
    is_complete: bool
    created_at: int
    completed_at: int | None
    url: str
    format: str
    width: int
    height: int
    seed: int | None
    model: str | None
    variant: str | None
    time_taken: float | None
    timings: Mapping[str, float]
    request: Mapping[str, object]
