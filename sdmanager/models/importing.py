"""Taking in models that the user has: a file, a folder, or parts; where they lie, or as a copy."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    InvalidRequestError,
    ModelChangedError,
    ModelComponentMissingError,
    ModelError,
    ModelNotFoundError,
    ModelUnsupportedError,
)
from sdmanager.files import expanded
from sdmanager.threads import in_thread

from ._composing import MAINS, Candidate, Composed, check_whole, compose
from ._copying import copy_parts
from ._reading import digest, metered
from .inspection import FileKind, inspect_file
from .installed import InstalledFile, InstalledModel, Origin
from .names import check_name, usable_name
from .store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sdmanager.settings import Settings

    from ._reading import Meter
    from .families import Role

_Source = str | os.PathLike[str]

_SUFFIXES: Final = frozenset({".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin"})
_FILES_MAX: Final = 200


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
    belong to the model; those that are damaged are left out. A file that is named twice, or through a link, too, is
    one.

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
        InvalidRequestError: Two files could play one part, another model has the name, or it is none; or a path is
            empty.
        InsufficientResourcesError: The disk is too small for a copy.
        StorageError: A folder cannot be written.

    Cancelling leaves nothing; only if it comes while the record is written, the model is listed, with all its files.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if not all(os.fspath(each) for each in given):
        raise InvalidRequestError(
            "A path to import is empty.", hint="Name the files of the model, or their folder."
        )
    store = ModelStore(settings)
    found = await in_thread(
        _survey, given, dict(roles or {}), store,
        name=name, allow_pickle=allow_pickle or settings.allow_pickle,
    )  # fmt: skip
    if found.former is not None and not replace:
        there = await (_same_content if copy else _unchanged)(found.former, found, on_progress)
        if there is not None:
            return await in_thread(_refreshed, store, there, found.former)
    if copy:
        return await copy_parts(
            found.name, found.files, settings.models_dir, on_progress,
            lambda files: _write_down(store, found, files, Origin.IMPORTED),
        )  # fmt: skip
    return await in_thread(_write_down, store, found, _with_digests(found), Origin.IMPORTED)


def _survey(
    given: Sequence[_Source],
    roles: Mapping[Role, Path],
    store: ModelStore,
    *,
    name: str | None,
    allow_pickle: bool,
) -> _Survey:
    chosen = check_name(name) if name is not None else None  # first: it takes no time
    sources = [_normalised(each) for each in given]
    candidates = [
        Candidate(path, inspect_file(path, allow_pickle=allow_pickle), role)
        for role, path in ((role, _normalised(path)) for role, path in roles.items())
    ]
    bad: list[ModelError] = []
    for path in sources:
        if _is_folder(path):
            candidates += _candidates_in(path, bad, allow_pickle=allow_pickle)
        else:
            candidates.append(Candidate(path, inspect_file(path, allow_pickle=allow_pickle)))
    if not candidates:
        raise (
            bad[0]
            if bad
            else InvalidRequestError(
                "There is nothing to import.", hint="Name the files of the model, or their folder."
            )
        )
    composed = _composed(_distinct(candidates), bad)
    if chosen is None:
        chosen = usable_name(_proposed_name(sources, composed))
    files = tuple(_look_at(role, part) for role, part in composed.parts.items())
    return _Survey(composed, chosen, files, store.find(chosen))


def _normalised(source: _Source) -> Path:
    """The absolute path without ``..``, which a link may lead to another place than it seems."""
    path = expanded(source)
    if ".." not in path.parts:
        return path
    try:
        folder = Path(os.path.realpath(path.parent if path.name != ".." else path))
    except ValueError:  # a NUL
        return path
    return folder if path.name == ".." else folder / path.name


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where a folder may not be looked into


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Each file once, what was named before what lay in a folder; by all the parts that the user says it plays."""
    found: dict[tuple[object, Role | None], Candidate] = {}
    by_role: set[object] = set()
    for each in sorted(candidates, key=lambda each: (each.role is None, each.picked)):
        content = _identity_of(each.path)
        if each.role is not None:
            by_role.add(content)
        elif content in by_role:
            continue
        found.setdefault((content, each.role), each)
    return list(found.values())


def _identity_of(path: Path) -> object:
    try:
        seen = path.stat()
    except OSError:  # gone meanwhile, which is told where it is needed
        return path
    return seen.st_dev, seen.st_ino


def _composed(candidates: Sequence[Candidate], bad: Sequence[ModelError]) -> Composed:
    try:
        composed = compose(candidates)
    except ModelComponentMissingError as exc:
        if bad:
            exc.hint = f"{exc.hint} In the folder, {bad[0].message[0].lower()}{bad[0].message[1:]}"
        raise
    except ModelUnsupportedError:
        if bad and all(each.picked and each.facts.role not in MAINS for each in candidates):
            raise bad[0] from None  # which may have been the model
        raise
    main = next(part for role, part in composed.parts.items() if role in MAINS)
    if bad and main.picked and main.facts.kind is FileKind.UNKNOWN and main.facts.tensors:
        raise bad[0]  # which is more likely to have been the model than what nobody knows
    return composed


def _candidates_in(folder: Path, bad: list[ModelError], *, allow_pickle: bool) -> list[Candidate]:
    """Weights files of a folder; what is wrong with those that are none is added to ``bad``."""
    try:
        if (folder / "model_index.json").exists():
            raise ModelUnsupportedError(
                f"The folder {folder.name!r} holds a model in the many files of Diffusers.",
                hint="Get the model as a single .safetensors or .gguf file, or name its files by their parts.",
                details={"path": str(folder)},
            )
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _SUFFIXES
            and not path.name.startswith(".")  # such as those that macOS puts beside each
            and os.path.isfile(path)  # noqa: PTH113 - as above
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
    found = []
    for path in paths:
        try:
            check_whole(path)
            facts = inspect_file(path, allow_pickle=allow_pickle)
        except ModelError as exc:  # damaged, something else, or the same model once more as a pickle
            bad.append(exc)
        else:
            found.append(Candidate(path, facts, picked=True))
    return found


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
    if len(sources) == 1 and _is_folder(sources[0]):
        return sources[0].name
    return next(part.path.stem for role, part in composed.parts.items() if role in MAINS)


def _taken(name: str, former: InstalledModel) -> InvalidRequestError:
    copies = (
        ", which deletes its copies in the folder of models" if any(f.owned for f in former.files) else ""
    )
    return InvalidRequestError(
        f"A model named {name!r} is installed, with other files.",
        hint=f"Give it another name with --name, or put it in that one's place with --replace{copies}.",
        details={"name": name},
    )


def _same_places(former: InstalledModel, found: _Survey) -> bool:
    known = {file.role: file.path for file in former.files}
    return {file.role for file in found.files} == set(known) and all(
        file.path == known[file.role] or _is_same(file.path, known[file.role]) for file in found.files
    )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _times(files: Iterable[InstalledFile]) -> set[tuple[Role, int, int]]:
    return {(file.role, file.size, file.mtime_ns) for file in files}


async def _unchanged(
    former: InstalledModel, found: _Survey, on_progress: Callable[[int, int], None] | None
) -> InstalledModel | None:
    """The installed model, if it is of these files as they are; None where they have changed since.

    Raises:
        InvalidRequestError: It is of others.
    """
    del on_progress  # nothing is read
    if not await in_thread(_same_places, former, found):
        raise _taken(found.name, former)
    return former if _times(found.files) == _times(former.files) else None


async def _same_content(
    former: InstalledModel, found: _Survey, on_progress: Callable[[int, int], None] | None
) -> InstalledModel:
    """The installed model, whose copies are whole and have the content of these files, which are read for it.

    A copy that was only touched is read, too, and has its new time then.

    Raises:
        InvalidRequestError: It has other content.
    """
    whole = await _with_same_content(former, found.files, on_progress)
    if whole is None:
        raise _taken(found.name, former)
    return whole


def _refreshed(store: ModelStore, model: InstalledModel, former: InstalledModel) -> InstalledModel:
    """The model as it is now, which is written down where something is new; unless it was replaced meanwhile."""
    written = None if model == former else store.swap(model, former)
    return model if written is None else written


async def _with_same_content(
    former: InstalledModel,
    files: Sequence[InstalledFile],
    on_progress: Callable[[int, int], None] | None,
) -> InstalledModel | None:
    known = {file.role: file for file in former.files}
    if {file.role: file.size for file in files} != {role: file.size for role, file in known.items()}:
        return None
    if not all(file.owned and file.sha256 for file in former.files):
        return None
    try:
        now = await in_thread(lambda: [file.path.stat() for file in former.files])
    except OSError:
        return None
    if [each.st_size for each in now] != [file.size for file in former.files]:
        return None
    copies = [replace(file, mtime_ns=seen.st_mtime_ns) for file, seen in zip(former.files, now, strict=True)]
    to_read = [*files, *(file for file in copies if file not in former.files)]

    def compare(meter: Meter) -> bool:
        return all(digest(file.path, meter) == known[file.role].sha256 for file in to_read)

    try:
        same = await metered(sum(file.size for file in to_read), on_progress, compare)
    except OSError as exc:
        raise ModelNotFoundError(f"A file of the model cannot be read: {exc.strerror or exc}.") from exc
    return replace(former, files=tuple(copies)) if same else None


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
    written = store.swap(model, found.former)
    if written is None:
        raise ModelChangedError(
            f"The model {found.name!r} was installed by somebody else meanwhile.",
            hint="Import it again, under another name or with --replace.",
            details={"name": found.name},
        )
    return written
