"""The models that a server can draw with, and which of them it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmanager.engine import LocalGenerator
    from sdmanager.server import ModelEntry
    from sdmanager.settings import Settings


class ModelShelf:
    """The installed models, ``demo``, and the model that the server was started with. Also ``Face.models``.

    Args:
        generator: Draws; prepared.
        settings: Says where models are kept.
    """

    def __init__(self, generator: LocalGenerator, settings: Settings) -> None:
        self._generator = generator
        self._settings = settings

    @property
    def current(self) -> str:
        """See ``Models``."""
        model = self._generator.model
        return model.name if model is not None else ""

    async def list(self) -> list[ModelEntry]:
        """See ``Models``."""
        raise NotImplementedError

    async def use(self, name: str) -> None:
        """See ``Models``."""
        raise NotImplementedError
