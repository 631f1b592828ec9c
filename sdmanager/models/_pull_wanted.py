"""What a pull is to fetch, and whether it is there already."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelError, ModelNotFoundError, ModelUnsafeError

from ._composing import MAINS
from .catalog import CatalogFile
from .families import Family, ModelDefaults, Role
from .installed import InstalledFile, InstalledModel, Origin
from .store import ModelStore, taken_by_import

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


def check_name_is_free(wanted: Wanted, store: ModelStore) -> InstalledModel | None:
    """See that no other model has the name; the installed model that is to be replaced, if there is one.

    Raises:
        InvalidRequestError: One was imported, which is not replaced by force either; or another one was pulled.
    """
    found = store.find(wanted.name)
    if found is None:
        return None
    if found.origin is not Origin.PULLED:
        raise taken_by_import(found)
    if not wanted.force and not _is_same_model(found, wanted):
        raise InvalidRequestError(
            f"Another model that was pulled has the name {wanted.name!r}.",
            hint=f"Remove it first with 'sdmanager models remove {wanted.name}', or use --force"
            f"{', or give this one another name with --name' if wanted.by_header else ''}.",
            details={"name": wanted.name},
        )
    return found


def find_installed(wanted: Wanted, settings: Settings) -> InstalledModel | None:
    """The installed model of that name, if it is whole and has every part that is wanted; None if to be fetched.

    Raises:
        InvalidRequestError: Another model has the name.
    """
    store = ModelStore(settings)
    found = check_name_is_free(wanted, store)
    if found is None or wanted.force:
        return None
    if not all(any(_is_same_file(file, each) for file in found.files) for each in wanted.files):
        return None
    with contextlib.suppress(ModelError):
        store.check(found)
        return found
    return None


def _is_same_model(found: InstalledModel, wanted: Wanted) -> bool:
    """Whether it is that model, perhaps of another catalogue, with other parts or newer files."""
    if wanted.by_header:
        return all(any(_is_in_place(file, each) for file in found.files) for each in wanted.files)
    mains = {each.repo for each in wanted.files if each.role in MAINS}
    return any(file.repo in mains for file in found.files if file.role in MAINS)


def _is_same_file(file: InstalledFile, wanted: CatalogFile) -> bool:
    return _is_in_place(file, wanted) and wanted.sha256 in {None, file.sha256}


def _is_in_place(file: InstalledFile, wanted: CatalogFile) -> bool:
    return file.repo == wanted.repo and file.path.as_posix().endswith(
        f"/snapshots/{file.revision}/{wanted.path}"
    )


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
