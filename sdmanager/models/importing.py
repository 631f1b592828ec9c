"""Taking in models that the user has: a file, a folder, or parts; where they lie, or as a copy."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    InvalidRequestError,
    ModelChangedError,
    ModelError,
    ModelNotFoundError,
    ModelUnsafeError,
    ModelUnsupportedError,
    SDManagerError,
)
from sdmanager.files import expanded
from sdmanager.threads import in_thread

from ._composing import MAINS, Candidate, Composed, compose
from ._copying import copy_parts
from ._reading import digest, metered
from .inspection import inspect_file
from .installed import InstalledFile, InstalledModel, Origin
from .names import NAME_MAX, check_name
from .store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdmanager.settings import Settings

    from ._reading import Meter
    from .families import Role

_Source = str | os.PathLike[str]

_SUFFIXES: Final = frozenset({".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin"})
_FILES_MAX: Final = 200

_UNUSABLE: Final = re.compile(r"[^\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What was found at the places that were named."""

    composed: Composed
    name: str
    files: tuple[InstalledFile, ...]
    former: InstalledModel | None


async def import_model(
    sources: Sequence[_Source] | _Source,
    settings: Settings,
    *,
    name: str | None = None,
    copy: bool = False,
    replace: bool = False,
    allow_pickle: bool = False,
    roles: Mapping[Role, Path] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> InstalledModel:
    """Give a model that lies on this machine a name.

    What each file is, is read from its header. Of a folder, those files in it (not in folders in it) are taken that
    belong to the model.

    Args:
        sources: Files, or a folder.
        settings: Says where models are kept.
        name: By which to call it; None: that of the folder or of the diffusion model's file.
        copy: Copy the files into the folder of models; else they stay where they are, and are never deleted.
        replace: In the place of a model of that name; files of ours that only that one had are deleted.
        allow_pickle: Take checkpoints, too, as with ``settings.allow_pickle``.
        roles: Files by the part that they play, where headers do not tell, or a folder has two of a kind.
        on_progress: Called on the event loop with the bytes that are read, and all. By reference, none are.

    Returns:
        What was written down. Importing the same files again is no error.

    Raises:
        ModelError: A file is missing, damaged, unsafe, no model, or lacks a part.
        InvalidRequestError: Two files could play one part, another model has the name, or it is none.
        InsufficientResourcesError: The disk is too small for a copy.
        StorageError: A folder cannot be written.

    Cancelling leaves nothing.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    store = ModelStore(settings)
    found = await in_thread(
        _survey, [expanded(each) for each in given], dict(roles or {}), store,
        name=name, allow_pickle=allow_pickle or settings.allow_pickle,
    )  # fmt: skip
    former = found.former
    if former is not None and not replace:
        if not (
            await _same_content(former, found.files, store, on_progress)
            if copy
            else _same_places(former, found)
        ):
            raise _taken(found.name)
        if copy or set(_with_digests(found)) == set(former.files):
            return former
    if copy:
        return await copy_parts(
            found.name, found.files, settings.models_dir, on_progress,
            lambda files: _write_down(store, found, files, Origin.IMPORTED),
        )  # fmt: skip
    return await in_thread(_write_down, store, found, _with_digests(found), Origin.IMPORTED)


def _survey(
    sources: Sequence[Path],
    roles: Mapping[Role, Path],
    store: ModelStore,
    *,
    name: str | None,
    allow_pickle: bool,
) -> _Survey:
    chosen = check_name(name) if name is not None else None  # first: it takes no time
    candidates = [
        Candidate(path, inspect_file(path, allow_pickle=allow_pickle), role)
        for role, path in ((role, expanded(path)) for role, path in roles.items())
    ]
    for path in sources:
        if path.is_dir():
            candidates += _candidates_in(path, allow_pickle=allow_pickle)
        else:
            candidates.append(Candidate(path, inspect_file(path, allow_pickle=allow_pickle)))
    if not candidates:
        raise InvalidRequestError(
            "There is nothing to import.", hint="Name the files of the model, or their folder."
        )
    composed = compose(candidates)
    if chosen is None:
        chosen = _usable_name(_proposed_name(sources, composed))
    files = tuple(_look_at(role, part) for role, part in composed.parts.items())
    return _Survey(composed, chosen, files, store.find(chosen))


def _candidates_in(folder: Path, *, allow_pickle: bool) -> Iterator[Candidate]:
    """Weights files of a folder; those that cannot be read are an error only where there are no others."""
    try:
        if (folder / "model_index.json").exists():
            raise ModelUnsupportedError(
                f"The folder {folder.name!r} holds a model in the many files of Diffusers.",
                hint="Get the model as a single .safetensors or .gguf file, or name its files by their parts.",
                details={"path": str(folder)},
            )
        paths = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file()
        )
    except OSError as exc:
        raise ModelNotFoundError(
            f"The folder {folder.name!r} cannot be read: {exc.strerror or exc}.",
            details={"path": str(folder)},
        ) from exc
    if not paths:
        raise ModelNotFoundError(
            f"The folder {folder.name!r} has no .safetensors or .gguf file in it.",
            hint="Name the folder that the files themselves are in.",
            details={"path": str(folder)},
        )
    if len(paths) > _FILES_MAX:
        raise InvalidRequestError(
            f"The folder {folder.name!r} has {len(paths):,} weights files in it, which are no one model.",
            hint="Name the files that belong together.",
            details={"path": str(folder), "files": len(paths)},
        )
    unsafe: ModelUnsafeError | None = None
    taken = 0
    for path in paths:
        try:
            facts = inspect_file(path, allow_pickle=allow_pickle)
        except ModelUnsafeError as exc:  # often the same model once more
            unsafe = unsafe or exc
        else:
            taken += 1
            yield Candidate(path, facts, picked=True)
    if unsafe is not None and not taken:
        raise unsafe


def _look_at(role: Role, part: Candidate) -> InstalledFile:
    try:
        found = part.path.stat()
    except OSError as exc:
        raise ModelNotFoundError(
            f"The file {part.path.name!r} cannot be read: {exc.strerror or exc}.",
            details={"path": str(part.path)},
        ) from exc
    return InstalledFile(
        role, part.path, found.st_size, found.st_mtime_ns, quantisation=part.facts.quantisation
    )


def _proposed_name(sources: Sequence[Path], composed: Composed) -> str:
    if len(sources) == 1 and sources[0].is_dir():
        return sources[0].name
    return next(part.path.stem for role, part in composed.parts.items() if role in MAINS)


def _usable_name(proposed: str) -> str:
    name = _UNUSABLE.sub("-", proposed).strip("-._")[:NAME_MAX].rstrip("-._")
    try:
        return check_name(name)
    except SDManagerError:
        raise InvalidRequestError(
            f"No model can have the name {proposed[:100]!r}, which its file has.",
            hint="Give it another one with --name.",
            details={"name": proposed},
        ) from None


def _taken(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"A model named {name!r} is installed, with other files.",
        hint="Give it another name with --name, or put it in that one's place with --replace.",
        details={"name": name},
    )


def _same_places(former: InstalledModel, found: _Survey) -> bool:
    return {file.role: file.path for file in former.files} == {file.role: file.path for file in found.files}


async def _same_content(
    former: InstalledModel,
    files: Sequence[InstalledFile],
    store: ModelStore,
    on_progress: Callable[[int, int], None] | None,
) -> bool:
    """Whether an installed model is whole and has the content of these files, which are read for it."""
    known = {file.role: file for file in former.files}
    if {file.role: file.size for file in files} != {role: file.size for role, file in known.items()}:
        return False
    if not all(file.owned and file.sha256 for file in former.files):
        return False
    try:
        await in_thread(store.check, former)
    except ModelError:
        return False

    def compare(meter: Meter) -> bool:
        return all(digest(file.path, meter) == known[file.role].sha256 for file in files)

    try:
        return await metered(sum(file.size for file in files), on_progress, compare)
    except OSError as exc:
        raise ModelNotFoundError(f"A file of the model cannot be read: {exc.strerror or exc}.") from exc


def _with_digests(found: _Survey) -> tuple[InstalledFile, ...]:
    """The files; those that are as they were, with all that was known of them."""
    former = {file.path: file for file in found.former.files} if found.former is not None else {}
    return tuple(
        before
        if (before := former.get(file.path)) is not None
        and (before.role, before.size, before.mtime_ns) == (file.role, file.size, file.mtime_ns)
        else file
        for file in found.files
    )


def _write_down(
    store: ModelStore, found: _Survey, files: tuple[InstalledFile, ...], origin: Origin
) -> InstalledModel:
    model = InstalledModel(
        found.name,
        files,
        found.composed.defaults,
        found.composed.family,
        origin,
        datetime.datetime.now(datetime.UTC),
    )
    if not store.swap(model, found.former):
        raise ModelChangedError(
            f"The model {found.name!r} was installed by somebody else meanwhile.",
            hint="Import it again, under another name or with --replace.",
            details={"name": found.name},
        )
    return model
