"""Who can draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .events import EventCallback
    from .request import ImageRequest
    from .result import GenerationResult


@runtime_checkable
class ImageGenerator(Protocol):
    """Draws pictures: this machine's engine, a hosted service, or whatever an application brings.

    Those of this package may be used on several event loops, one after the other or at once in threads.
    """

    async def generate(
        self, request: ImageRequest, on_event: EventCallback | None = None
    ) -> GenerationResult:
        """Draw what the request asks for.

        Args:
            request: What to draw.
            on_event: Called on the event loop with each event, in order; must not block.

        Raises:
            SDManagerError: The request, the model, the engine or the disk made it impossible.

        Cancelling the task cancels the work: when this returns or raises, no engine of it runs on this machine and
        its files are gone. What a hosted service has been asked already cannot be recalled.
        """
        ...

    async def is_available(self) -> bool:
        """Whether ``generate`` can be expected to work now."""
        ...

    async def aclose(self) -> None:
        """Give back what is held; idempotent."""
        ...
