"""What the routes need of the manager behind them, and where they find it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from .metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from sdmanager.generation import ImageRequest
    from sdmanager.history import History
    from sdmanager.jobs import GenerationService

    from .schemas import ServerInfo


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be drawn with.

    Attributes:
        name: By which it is called: of an installed model, ``demo``, or of the file that the server was started with.
        family: Such as ``sd1``, or None where it is unknown.
        path: The file with its diffusion weights.
        sha256: Of that file, in hex; None where it was never read whole.
        installed_at: Seconds since the epoch; 0 where unknown.
        defaults: What suits it, as fields of a request (``steps``, ``cfg_scale``, ``width``, …).
        vae: The file of its own VAE; None where that is within the first file.
    """

    name: str
    family: str | None
    path: Path
    sha256: str | None
    installed_at: int
    defaults: Mapping[str, object]
    vae: Path | None = None


class Models(Protocol):
    """The models of a server. A request that names none is drawn with the current one."""

    @property
    def current(self) -> str:
        """Name of the current one."""
        ...

    async def list(self) -> list[ModelEntry]:
        """All of them by name, the current one among them."""
        ...

    async def use(self, name: str) -> None:
        """Make another one the current one, for requests from now on; what was accepted keeps its own.

        Raises:
            ModelError: There is none of this name that can be drawn with.
            InvalidRequestError: This is no name.
        """
        ...


async def model_named(models: Models, name: str) -> ModelEntry | None:
    """The model of exactly this name; None where there is none."""
    return next((entry for entry in await models.list() if entry.name == name), None)


@dataclass(frozen=True, slots=True)
class Face:
    """What a server shows.

    Attributes:
        service: Takes, draws and remembers generations.
        info: What ``/v1/info`` says now.
        check: Called with each request before it is accepted; raises what is wrong with its pictures, or what the
            engine and the model cannot do, or that there is no such model. It may take its time.
        models: What there is to draw with.
        history: The gallery, or None where there is none.
        metrics: What ``/metrics`` says.
        loras_dir: The folder of LoRAs, which may not be there.
        decoding: Held while pictures are decoded: one request at a time, so that no number of them takes all
            threads, or more memory than one.
    """

    service: GenerationService
    info: Callable[[], ServerInfo]
    check: Callable[[ImageRequest], Awaitable[None]]
    models: Models
    history: History | None = None
    metrics: Metrics = field(default_factory=Metrics)
    loras_dir: Path | None = None
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


FACE: Final = web.AppKey("face", Face)
