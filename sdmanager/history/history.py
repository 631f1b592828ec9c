"""``History``: the one object through which the gallery is written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.generation import Event, GenerationResult, ImageRequest

    from .images import HistoryImage, HistoryPage


class History:
    """A folder with pictures and an index of them. All methods belong to one event loop; files are handled in a thread.

    Also the ``Recorder`` of a ``GenerationService``.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self) -> None:
        """Make or open it, and clear away what a process that was killed left half done.

        Raises:
            StorageError: The folder cannot be written, or what is in it is not ours.
        """

    async def aclose(self) -> None:
        """Finish what is being written; idempotent."""

    def begin(self, generation_id: str, request: ImageRequest) -> None:
        """See ``Recorder``."""

    def take(self, event: Event) -> None:
        """See ``Recorder``."""

    async def keep(self, generation_id: str, result: GenerationResult) -> None:
        """See ``Recorder``."""

    async def list(
        self, *, search: str = "", model: str | None = None, limit: int = 50, after: str | None = None
    ) -> HistoryPage:
        """Images, newest first.

        Args:
            search: Words that all stand in the prompt or the negative prompt; the last may be the start of one.
            model: Only of this model.
            limit: At most so many, 1 to 500.
            after: Of an earlier page.

        Raises:
            InvalidRequestError: ``after`` is none of ours.
        """
        raise NotImplementedError

    async def get(self, image_id: str) -> HistoryImage:
        """One image.

        Raises:
            ImageNotFoundError: There is none of this id.
        """
        raise NotImplementedError

    async def delete(self, image_id: str) -> None:
        """Delete an image and its file.

        Raises:
            ImageNotFoundError: There is none of this id, or it still forms.
        """
        raise NotImplementedError

    async def clear(self) -> int:
        """Delete all that is whole; how many."""
        raise NotImplementedError
