"""Installing an engine from its release archives: fetched, verified, unpacked, proven, and swapped in whole."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import threading
from typing import TYPE_CHECKING

from sdmanager.download import download
from sdmanager.errors import (
    BinaryError,
    DownloadError,
    GenerationError,
    SDManagerError,
    StorageError,
)
from sdmanager.threads import in_stoppable_thread, in_thread

from ._staging import install, use_or_make
from ._unpack import unpack_archive
from .inspection import inspect_engine
from .installed import find_installed, write_record
from .manifest import mirrored
from .progress import EngineProgress
from .proof import Meaning, meaning_of

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.download import DownloadProgress, Patience
    from sdmanager.settings import Settings

    from .binary import EngineBinary
    from .manifest import Archive, Offer
    from .progress import EnginePhase, OnProgress
    from .proof import Prover

_SOURCE = "release"

# What an archive unpacks to is not known before; the largest seen unpacks to less than this many times its size.
_UNPACKED_RATIO = 3

# The first start of large libraries from a slow disk, or past a virus scanner, takes its time.
_INSPECTION_SECONDS = 120.0


async def install_release(
    settings: Settings,
    offer: Offer,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
    prove: Prover | None = None,
    patience: Patience | None = None,
) -> EngineBinary:
    """Fetch an engine's archives and install it; what is installed already is used instead.

    Two installers at once, in whatever processes: the second waits, and then uses what the first installed.

    Args:
        settings: Folders, and the mirror where there is one.
        offer: Which archives.
        force: Fetch it also where it is installed.
        on_progress: Called on the event loop with each step.
        prove: Raises where the finished engine, still in its staging folder, does not do its work.
        patience: With the server; the usual one when None.

    Raises:
        DownloadError: An archive cannot be fetched, is not the pinned one, or is not safe to unpack.
        EngineNotRunnableError: The engine cannot be executed here, such as for a library that is missing.
        StorageError: A folder cannot be written, or has too little space.
        InvalidRequestError: The mirror is no URL.
        SDManagerError: Whatever ``prove`` raised.

    However it ends, the engine that was installed before still works until the new one is in its place. If
    cancelled, what was received stays for the next call, and the staging folder is gone.
    """
    work = _Installation(settings, offer, on_progress, patience)
    return await use_or_make(
        settings,
        lambda: find_installed(settings, offer.variant, _SOURCE, offer.version),
        lambda staging: work.run(staging, prove),
        force=force,
        on_wait=lambda: work.report("waiting", 0, 0, "another process is installing an engine"),
        trouble="The engine cannot be unpacked",
    )


class _Installation:
    """One installation of one offer."""

    def __init__(
        self,
        settings: Settings,
        offer: Offer,
        on_progress: OnProgress | None,
        patience: Patience | None,
    ) -> None:
        self._settings = settings
        self._offer = offer
        self._on_progress = on_progress
        self._patience = patience
        self._loop = asyncio.get_running_loop()

    def report(self, phase: EnginePhase, step: int, total: int, message: str) -> None:
        if self._on_progress is not None:
            self._on_progress(EngineProgress(phase, step, total, message))

    async def run(self, staging: Path, prove: Prover | None) -> EngineBinary:
        settings, offer = self._settings, self._offer
        await in_thread(self._check_space)
        archives = [await self._fetch(archive) for archive in offer.archives]
        finished = staging / "finished"
        finished.mkdir()
        try:
            for archive, path in zip(offer.archives, archives, strict=True):
                await self._unpack(archive, path, finished)
            engine = await self._inspect(finished)
            self.report("proving", 0, 1, f"does the {offer.variant} engine draw?")
            if prove is not None:
                await prove(engine)
        except (BinaryError, GenerationError) as exc:
            if meaning_of(exc) is Meaning.FAILED:
                await in_thread(_remove, archives)
            raise
        self.report("installing", 0, 1, "putting it in place")
        await in_thread(write_record, finished, engine)
        target = settings.engines_dir / f"{offer.variant}-{offer.version}"
        engine = await in_thread(install, finished, target)
        await in_thread(_remove, archives)
        self.report("installing", 1, 1, str(engine.path))
        return engine

    def _check_space(self) -> None:
        needed = _UNPACKED_RATIO * sum(archive.size for archive in self._offer.archives)
        free = shutil.disk_usage(self._settings.engines_dir).free
        if free < needed:
            raise StorageError(
                f"The {self._offer.variant} engine needs {needed / 1e9:.1f} GB of free space and"
                f" {free / 1e9:.1f} GB is there.",
                hint="Free some space, or set SDMANAGER_HOME to a folder on another disk.",
                details={"needed": needed, "free": free},
            )

    async def _fetch(self, archive: Archive) -> Path:
        url = mirrored(archive.url, self._settings.mirror) if self._settings.mirror else archive.url
        name = archive.name
        self.report("downloading", 0, archive.size, name)

        def on_progress(progress: DownloadProgress) -> None:
            self.report("downloading", progress.done, archive.size, name)

        target = self._settings.downloads_dir / name
        return await download(
            url,
            target,
            sha256=archive.sha256,
            size=archive.size,
            on_progress=on_progress,
            patience=self._patience,
        )

    async def _unpack(self, archive: Archive, path: Path, into: Path) -> None:
        name = archive.name
        self.report("unpacking", 0, 0, name)
        stop = threading.Event()

        def on_progress(done: int, total: int) -> None:
            self._loop.call_soon_threadsafe(self.report, "unpacking", done, total, name)

        await in_stoppable_thread(
            stop, unpack_archive, path, into,
            root=archive.root, executables=archive.executables, on_progress=on_progress, cancelled=stop.is_set,
        )  # fmt: skip
        missing = [file for file in archive.files if not (into / file).is_file()]
        if missing:
            raise DownloadError(
                f"The archive {name} has no {missing[0]!r} in it.",
                hint="The binaries.json that names this file does not fit the archive: update sdmanager.",
                details={"reason": "archive", "missing": missing},
            )

    async def _inspect(self, finished: Path) -> EngineBinary:
        executable = finished / self._offer.archives[0].executables[0]
        try:
            engine = await inspect_engine(
                executable,
                settings=self._settings,
                variant=self._offer.variant,
                source=_SOURCE,
                remember=False,
                time_limit=_INSPECTION_SECONDS,
            )
        except SDManagerError as exc:
            # The staging folder is gone when the message is read.
            exc.message = exc.message.replace(f" at {executable}", f" for {self._offer.variant}")
            exc.args = (exc.message,)
            exc.details.pop("path", None)
            raise
        # The pinned release is what it is, whatever it says of itself.
        return dataclasses.replace(engine, version=self._offer.version)


def _remove(archives: list[Path]) -> None:
    for path in archives:
        path.unlink(missing_ok=True)
