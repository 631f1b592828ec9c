"""What is written down about a model that is installed."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from .families import Family, ModelDefaults, Role
from .files import ModelFiles


class Origin(StrEnum):
    """How a model came here."""

    PULLED = "pulled"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """One file of an installed model, as it was when it was installed.

    Attributes:
        role: The part that it plays.
        path: Absolute.
        size: Bytes.
        mtime_ns: Of its content, in nanoseconds since the epoch; with the size, it tells a change cheaply.
        sha256: Of its content, in hex; None where it was never read whole.
        owned: Whether it is ours to delete: copied by us, or fetched by us into the shared cache.
        repo: Repository that it came from, such as ``stabilityai/sd-turbo``; None for one that was imported.
        revision: The commit of that repository.
        quantisation: As its header says it, such as ``Q8_0`` or ``F16``; None where unknown.
    """

    role: Role
    path: Path
    size: int
    mtime_ns: int
    sha256: str | None = None
    owned: bool = False
    repo: str | None = None
    revision: str | None = None
    quantisation: str | None = None


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that is on this machine with all of its parts.

    Attributes:
        name: By which it is called: of the catalogue, with ``:OPTION`` for another than the first, or the user's own.
        files: One per role.
        defaults: What suits it.
        family: None where it could not be told.
        origin: How it came here.
        installed_at: When, in UTC.
    """

    name: str
    files: tuple[InstalledFile, ...]
    defaults: ModelDefaults
    family: Family | None
    origin: Origin
    installed_at: datetime.datetime

    @property
    def size_bytes(self) -> int:
        """Size of all files together, as it was when they were installed."""
        return sum(file.size for file in self.files)

    def model_files(self) -> ModelFiles:
        """The model as an engine needs it."""
        return ModelFiles(self.name, {file.role: file.path for file in self.files}, self.defaults, self.family)

    def to_json(self) -> dict[str, object]:
        """Plain data, for the record and for programs."""
        return {
            "name": self.name,
            "family": self.family,
            "origin": self.origin.value,
            "installed_at": self.installed_at.isoformat(),
            "defaults": self.defaults.as_fields(),
            "files": [{**asdict(file), "path": str(file.path)} for file in self.files],
        }

    @classmethod
    def from_json(cls, data: object) -> InstalledModel | None:
        """What ``to_json`` gave, or None where the data is anything else."""
        try:
            return cls._from_json(data)
        except (TypeError, ValueError, KeyError, AttributeError):
            return None

    @classmethod
    def _from_json(cls, data: object) -> InstalledModel:
        assert isinstance(data, dict)  # noqa: S101
        raise NotImplementedError
