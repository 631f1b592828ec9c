"""The models that a server can draw with, and which of them it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdmanager.models import DEMO_NAME, ModelStore, Role, demo_model
from sdmanager.server import ModelEntry
from sdmanager.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sdmanager.engine import LocalGenerator
    from sdmanager.models import InstalledModel, ModelFiles
    from sdmanager.settings import Settings


class ModelShelf:
    """The installed models, ``demo``, and the model that the server was started with. Also ``Face.models``.

    Args:
        generator: Draws; prepared.
        settings: Says where models are kept.
        on_use: Told the name of each model that takes the place of another.
    """

    def __init__(
        self, generator: LocalGenerator, settings: Settings, on_use: Callable[[str], None] | None = None
    ) -> None:
        self._generator = generator
        self._settings = settings
        self._on_use = on_use

    @property
    def current(self) -> str:
        """See ``Models``."""
        model = self._generator.model
        return model.name if model is not None else ""

    async def list(self) -> list[ModelEntry]:
        """See ``Models``. A model is listed when its record can be read; its files are not looked at."""
        # What is drawn with is there, also where its record was taken away since, or it never had one.
        used = [model for model in (self._generator.first_model, self._generator.model) if model is not None]
        return await in_thread(_entries, self._settings, used)

    async def use(self, name: str) -> None:
        """See ``Models``; also raises what ``LocalGenerator.use`` does. Cancelled, it leaves the model as it was."""
        before = self.current
        model = await self._generator.use(name)
        if self._on_use is not None and model.name != before:
            self._on_use(model.name)


class ServerModels:
    """The models of a manager's server, for as long as it runs.

    Args:
        shelf: Gives those of the running server, or raises.
    """

    def __init__(self, shelf: Callable[[], ModelShelf]) -> None:
        self._shelf = shelf

    @property
    def current(self) -> str:
        """Name of the model that draws where a request names none.

        Raises:
            ServerNotRunningError: The manager does not run.
        """
        return self._shelf().current

    async def list(self) -> list[ModelEntry]:
        """All that can be drawn with, by name: the installed ones, ``demo``, and the one that it was started with.

        Raises:
            ServerNotRunningError: The manager does not run.
        """
        return await self._shelf().list()

    async def use(self, name: str) -> None:
        """Draw with another model from now on, until the next start; what was accepted before keeps its own.

        Args:
            name: As ``list`` has it; never a path.

        Raises:
            ModelError: There is none of this name, or it is not what it should be.
            InvalidRequestError: This is no name.
            InsufficientResourcesError: It does not fit the memory that is free.
            ServerNotRunningError: The manager does not run.

        Where it raises or is cancelled, the model stays the one that it was.
        """
        await self._shelf().use(name)


def _entries(settings: Settings, used: Iterable[ModelFiles]) -> list[ModelEntry]:
    found = {model.name: _installed(model) for model in ModelStore(settings).list()}
    found[DEMO_NAME] = _loose(demo_model(settings, make=False))
    for model in used:
        entry = _loose(model)
        if model.name not in found or found[model.name].path != entry.path:
            found[model.name] = entry
    return sorted(found.values(), key=lambda entry: (entry.name.casefold(), entry.name))


def _installed(model: InstalledModel) -> ModelEntry:
    files = {file.role: file for file in model.files}
    main = files.get(Role.MODEL) or files[Role.DIFFUSION_MODEL]
    vae = files.get(Role.VAE)
    return ModelEntry(
        name=model.name,
        family=model.family,
        path=main.path,
        sha256=main.sha256,
        installed_at=int(model.installed_at.timestamp()),
        defaults=model.defaults.as_fields(),
        vae=vae.path if vae is not None else None,
    )


def _loose(model: ModelFiles) -> ModelEntry:
    """A model of which nothing but its files is known."""
    return ModelEntry(
        name=model.name,
        family=model.family,
        path=model.files.get(Role.MODEL) or model.files[Role.DIFFUSION_MODEL],
        sha256=None,
        installed_at=0,
        defaults=model.defaults.as_fields(),
        vae=model.files.get(Role.VAE),
    )
