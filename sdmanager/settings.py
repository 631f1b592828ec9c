"""Folders, environment and limits, read once and passed down."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import platformdirs

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
        stop_grace: Seconds between asking a child to end and killing it.
        pipe_backstop: Seconds to wait for the last output of a dead child whose pipe somebody still holds.
        guard: Command that guards each child, or None for the built-in one (see ``sdmanager.process``).
    """

    data_dir: Path
    cache_dir: Path
    state_dir: Path
    engine: Path | None = None
    stop_grace: float = 2.0
    pipe_backstop: float = 1.0
    guard: tuple[str, ...] | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``SDMANAGER_HOME`` (one folder for everything) and ``SDMANAGER_ENGINE``.

        Args:
            environ: Variables to read; the process's own when None.
        """
        env = os.environ if environ is None else environ
        engine = expanded(env["SDMANAGER_ENGINE"]) if env.get("SDMANAGER_ENGINE") else None
        if env.get("SDMANAGER_HOME"):
            home = expanded(env["SDMANAGER_HOME"])
            return cls(home / "data", home / "cache", home / "state", engine=engine)
        dirs = platformdirs.PlatformDirs(APP_NAME, appauthor=False)
        return cls(dirs.user_data_path, dirs.user_cache_path, dirs.user_state_path, engine=engine)

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
    def jobs_dir(self) -> Path:
        """One private folder per running generation."""
        return self.cache_dir / "jobs"
