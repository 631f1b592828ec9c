"""How Python code asks for a picture: keyword arguments to a request, and callbacks to one callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .events import Preview, Progress
from .request import ImageRequest, PreviewOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from .events import Event, EventCallback
    from .request import RequestFields


def request_of(
    prompt: str | ImageRequest, fields: RequestFields, *, with_previews: bool = False
) -> ImageRequest:
    """The request that a prompt and keyword arguments make, or a whole request with some fields replaced.

    Args:
        prompt: What to draw, or a whole request.
        fields: Fields of ``ImageRequest``.
        with_previews: Ask for previews where nothing is said about them.

    Raises:
        InvalidRequestError: A field is missing, out of range or unknown.
    """
    if isinstance(prompt, ImageRequest):
        request = ImageRequest(**{**prompt.model_dump(exclude_unset=True), **fields}) if fields else prompt
    else:
        request = ImageRequest(prompt=prompt, **fields)
    if with_previews and request.previews is None:
        request = request.model_copy(update={"previews": PreviewOptions()})
    return request


def callback_of(
    on_progress: Callable[[Progress], None] | None,
    on_preview: Callable[[Preview], None] | None,
    on_event: EventCallback | None,
) -> EventCallback:
    """One callback that serves three."""

    def deliver(event: Event) -> None:
        if on_event is not None:
            on_event(event)
        if on_progress is not None and isinstance(event, Progress):
            on_progress(event)
        if on_preview is not None and isinstance(event, Preview):
            on_preview(event)

    return deliver
