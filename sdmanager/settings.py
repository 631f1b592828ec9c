"""Folders, environment and limits, read once and passed down."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import platformdirs

from sdmanager.errors import StorageError
from sdmanager.files import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

APP_NAME = "sdmanager"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things live and how long they may take.

    Attributes:
        data_dir: Engines and models: what is expensive to make again.
        cache_dir: Private folders of running jobs and unfinished builds: may be emptied when nothing runs.
        state_dir: Learned estimates and verdicts: small, kept between runs.
        engine: The user's own ``sd-cli``, used instead of any installed one.
        variant: The variant of the engine to use, such as ``cpu``; None: the best that works.
        manifest: The user's own ``binaries.json``, used instead of the one of this package.
        mirror: Base URL that stands in the place of the host of release archives.
        stop_grace: Seconds between asking a child to end and killing it.
        pipe_backstop: Seconds to wait for the last output of a dead child whose pipe somebody still holds.
        loras: The only folder that LoRAs are taken from; None: ``loras`` in the data folder.
        logs: Log files of servers; None: ``logs`` in the state folder.
        catalog: The user's own catalogue of models, used instead of the one of this package.
        allow_pickle: Whether checkpoints are taken, which are pickles and can run any program when they are opened.
        guard: Command that guards each child, or None for the built-in one (see ``sdmanager.process``).
    """

    data_dir: Path
    cache_dir: Path
    state_dir: Path
    engine: Path | None = None
    variant: str | None = None
    manifest: Path | None = None
    mirror: str | None = None
    stop_grace: float = 2.0
    pipe_backstop: float = 1.0
    loras: Path | None = None
    logs: Path | None = None
    guard: tuple[str, ...] | None = None
    catalog: Path | None = None
    allow_pickle: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``SDMANAGER_HOME`` (one folder for everything), ``SDMANAGER_ENGINE``, ``SDMANAGER_VARIANT``,
        ``SDMANAGER_BINARIES`` (another ``binaries.json``), ``SDMANAGER_MIRROR``, ``SDMANAGER_LORAS``,
        ``SDMANAGER_CATALOG`` (another catalogue of models) and ``SDMANAGER_ALLOW_PICKLE`` (``1``: take checkpoints).

        Args:
            environ: Variables to read; the process's own when None.

        Raises:
            StorageError: There is no home folder to keep things in.
        """
        env = os.environ if environ is None else environ
        if env.get("SDMANAGER_HOME"):
            home = expanded(env["SDMANAGER_HOME"])
            folders = (home / "data", home / "cache", home / "state", home / "logs")
        else:
            folders = _platform_folders()
        data, cache, state, logs = folders
        return cls(
            data,
            cache,
            state,
            logs=logs,
            loras=expanded(env["SDMANAGER_LORAS"]) if env.get("SDMANAGER_LORAS") else None,
            engine=expanded(env["SDMANAGER_ENGINE"]) if env.get("SDMANAGER_ENGINE") else None,
            variant=env.get("SDMANAGER_VARIANT") or None,
            manifest=expanded(env["SDMANAGER_BINARIES"]) if env.get("SDMANAGER_BINARIES") else None,
            mirror=env.get("SDMANAGER_MIRROR") or None,
            catalog=expanded(env["SDMANAGER_CATALOG"]) if env.get("SDMANAGER_CATALOG") else None,
            allow_pickle=env.get("SDMANAGER_ALLOW_PICKLE") == "1",
        )

    def with_engine(self, engine: str | os.PathLike[str]) -> Settings:
        """The same settings with the user's own ``sd-cli``."""
        return replace(self, engine=expanded(engine))

    @property
    def engines_dir(self) -> Path:
        """One folder per installed engine."""
        return self.data_dir / "engines"

    @property
    def models_dir(self) -> Path:
        """One folder per model."""
        return self.data_dir / "models"

    @property
    def downloads_dir(self) -> Path:
        """Archives on their way, and unfinished ones to go on with."""
        return self.cache_dir / "downloads"

    @property
    def jobs_dir(self) -> Path:
        """One private folder per running generation."""
        return self.cache_dir / "jobs"

    @property
    def generations_dir(self) -> Path:
        """What servers accepted, and the results that they keep for a while."""
        return self.state_dir / "generations"

    @property
    def memory_file(self) -> Path:
        """What runs were seen to use."""
        return self.state_dir / "memory.json"

    @property
    def loras_dir(self) -> Path:
        """The only folder that LoRAs are taken from."""
        return self.loras or self.data_dir / "loras"

    @property
    def logs_dir(self) -> Path:
        """Log files of servers."""
        return self.logs or self.state_dir / "logs"


def _platform_folders() -> tuple[Path, Path, Path, Path]:
    dirs = platformdirs.PlatformDirs(APP_NAME, appauthor=False)
    with contextlib.suppress(
        RuntimeError
    ):  # no home folder, as in a container; older releases give back "~/…"
        folders = (dirs.user_data_path, dirs.user_cache_path, dirs.user_state_path, dirs.user_log_path)
        if all(folder.is_absolute() for folder in folders):
            return folders
    raise StorageError(
        "There is no home folder to keep engines and models in.",
        hint="Set SDMANAGER_HOME to a folder that may be written.",
    )
