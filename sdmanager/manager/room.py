"""What a manager says and does about programs that are put aside for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from sdmanager.generation import request_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.engine import LocalGenerator
    from sdmanager.generation import ImageRequest, RequestFields
    from sdmanager.resources import ResourceOrchestrator, SavedState


class ServerRoom:
    """What was put aside for pictures, and what will be.

    Args:
        orchestrator: Puts aside and brings back.
        drawing: Gives the generator of the running server, or raises.
    """

    def __init__(self, orchestrator: ResourceOrchestrator, drawing: Callable[[], LocalGenerator]) -> None:
        self._orchestrator, self._drawing = orchestrator, drawing

    async def would_need_offload(self, prompt: str | ImageRequest, **fields: Unpack[RequestFields]) -> bool:
        """Whether a program would be put aside for this picture, as things are.

        Args:
            prompt: What would be drawn, or a whole request.
            **fields: Fields of ``ImageRequest``, such as ``width=1024``.

        Raises:
            InvalidRequestError: The request is none.
            ModelError: The model that it names is not there, or is not what it should be.
            ServerNotRunningError: The manager does not run.
        """
        return await self._drawing().would_need_offload(request_of(prompt, fields))

    def saved_state(self) -> tuple[SavedState, ...]:
        """What is aside now, or still to be brought back, also from before a crash."""
        return self._orchestrator.saved_state()

    async def clear_saved_state(self) -> None:
        """Forget what is aside: nothing of it will be brought back.

        Raises:
            StorageError: What was written down cannot be deleted.
        """
        await self._orchestrator.clear_saved_state()

    async def wait_for_reload(self) -> None:
        """Wait until everything is back, or was given up for the time being; what failed is tried again at once.

        If cancelled, it goes on in the background.
        """
        await self._orchestrator.wait_for_reload()
