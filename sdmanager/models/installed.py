"""What is written down about a model that is installed."""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .families import Family, ModelDefaults, Role
from .files import ModelFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


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
        return ModelFiles(
            self.name,
            {file.role: file.path for file in self.files},
            self.defaults,
            self.family,
            {file.role: file.quantisation for file in self.files},
        )

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
        """What ``to_json`` gave, or None where the data is anything else; keys that it does not know are ignored."""
        try:
            return cls._from_json(_record(data))
        except (TypeError, ValueError, KeyError, OverflowError):
            return None

    @classmethod
    def _from_json(cls, data: Mapping[str, object]) -> InstalledModel:
        files = tuple(_file(_record(each)) for each in _list(data["files"]))
        roles = {file.role for file in files}
        if len(roles) != len(files) or not roles & {Role.MODEL, Role.DIFFUSION_MODEL}:
            raise ValueError
        installed_at = datetime.datetime.fromisoformat(_text(data["installed_at"]))
        if installed_at.tzinfo is None:
            raise ValueError
        return cls(
            name=_text(data["name"]),
            files=files,
            defaults=_defaults(_record(data["defaults"])),
            family=None if data["family"] is None else Family(_text(data["family"])),
            origin=Origin(_text(data["origin"])),
            installed_at=installed_at.astimezone(datetime.UTC),
        )


def _file(data: Mapping[str, object]) -> InstalledFile:
    path = Path(_text(data["path"]))
    sha256 = _optional_text(data["sha256"])
    if not path.is_absolute() or (sha256 is not None and not _SHA256.fullmatch(sha256)):
        raise ValueError
    return InstalledFile(
        role=Role(_text(data["role"])),
        path=path,
        size=_count(data["size"]),
        mtime_ns=_whole(data["mtime_ns"]),
        sha256=sha256,
        owned=_truth(data["owned"]),
        repo=_optional_text(data["repo"]),
        revision=_optional_text(data["revision"]),
        quantisation=_optional_text(data["quantisation"]),
    )


def _defaults(data: Mapping[str, object]) -> ModelDefaults:
    def count(name: str) -> int | None:
        return None if data.get(name) is None else _count(data[name])

    def scale(name: str) -> float | None:
        return None if data.get(name) is None else _scale(data[name])

    return ModelDefaults(
        steps=count("steps"),
        cfg_scale=scale("cfg_scale"),
        width=count("width"),
        height=count("height"),
        guidance=scale("guidance"),
        sampler=_optional_text(data.get("sampler")),
        scheduler=_optional_text(data.get("scheduler")),
    )


def _record(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value or "\0" in value:
        raise ValueError
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _count(value: object) -> int:
    if _whole(value) <= 0:
        raise ValueError
    return _whole(value)


def _scale(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number
