"""What a pull is to fetch, and whether it is there already."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelError, ModelNotFoundError, ModelUnsafeError

from .catalog import CatalogFile
from .families import Family, ModelDefaults, Role
from .installed import InstalledModel, Origin
from .store import ModelStore

if TYPE_CHECKING:
    from sdmanager.settings import Settings

_WEIGHTS: Final = frozenset({".safetensors", ".gguf", ".sft"})
_PICKLES: Final = frozenset({".ckpt", ".pt", ".pth", ".bin"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to fetch."""

    name: str
    files: tuple[CatalogFile, ...]
    defaults: ModelDefaults
    family: Family | None
    gated: bool
    by_header: bool
    force: bool
    token: str | None = field(repr=False)
    ignore_fit: bool


def find_installed(wanted: Wanted, settings: Settings) -> InstalledModel | None:
    """The installed model of that name, if it is whole and has every part that is wanted."""
    store = ModelStore(settings)
    found = store.find(wanted.name)
    if found is None:
        return None
    if found.origin is not Origin.PULLED:
        raise InvalidRequestError(
            f"A model that was imported has the name {wanted.name!r}.",
            hint=f"Remove it first with 'sdmanager models remove {wanted.name}', which deletes no file of yours.",
            details={"name": wanted.name},
        )
    there = {(file.repo, file.path.name) for file in found.files}
    if not {(file.repo, file.path.rpartition("/")[2]) for file in wanted.files} <= there:
        if wanted.by_header:
            raise InvalidRequestError(
                f"Another model that was pulled has the name {wanted.name!r}.",
                hint=f"Remove it first with 'sdmanager models remove {wanted.name}', or use --force.",
                details={"name": wanted.name},
            )
        return None
    with contextlib.suppress(ModelError):
        store.check(found)
        return found
    return None


def named_file(name: str, settings: Settings) -> CatalogFile:
    """The file of ``ORG/REPO/PATH``."""
    parts = name.split("/")
    details = {"name": name}
    if len(parts) < 3 or any(part in {"", ".", ".."} for part in parts) or ":" in name or "\\" in name:
        raise ModelNotFoundError(
            f"{name[:200]!r} names no file of a repository.",
            hint="Name it as ORG/REPO/FILE.gguf, or a model of the catalogue: 'sdmanager models list --all'.",
            details=details,
        )
    suffix = Path(name).suffix.lower()
    if suffix in _PICKLES and not settings.allow_pickle:
        raise ModelUnsafeError(
            f"The file {parts[-1]!r} is a pickle, which can run any program when it is opened.",
            details=details,
        )
    if suffix not in _WEIGHTS | _PICKLES:
        raise ModelNotFoundError(
            f"The file {parts[-1]!r} is no model.",
            hint="Name a .safetensors or .gguf file of the repository.",
            details=details,
        )
    return CatalogFile(Role.MODEL, "/".join(parts[:2]), "/".join(parts[2:]))
