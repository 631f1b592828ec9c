"""What is meant by a name or a path: an installed model, a file, or something that is not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelNotFoundError, ModelNotInstalledError
from sdmanager.files import expanded

from .demo import DEMO_NAME, demo_paths, demo_places
from .families import Family, ModelDefaults, Role
from .files import ModelFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdmanager.settings import Settings

    from .installed import InstalledModel
    from .store import ModelStore

_NAMES_HINT: Final = "Give the name of an installed model: 'sdmanager models list' shows them."

# More than any name has, and than any error should say again.
_GIVEN_MAX: Final = 200

# What ends so is meant as a file, even where there is none.
_SUFFIXES: Final = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


def resolve_model(model: str | os.PathLike[str] | ModelFiles | None, settings: Settings) -> ModelFiles:
    """The files behind a name, a path, or what is already a model.

    Args:
        model: The name of an installed model; or the path of a file, whose header is read. ``None`` and ``"demo"``
            (in any case) mean the demo model, which is made at need (about a second). A text without a separator is
            a name where a model of that name is installed.
        settings: Says where models are kept, and whether checkpoints are taken.

    Raises:
        ModelNotInstalledError: A model of the catalogue that was not fetched yet.
        InvalidRequestError: The text is empty.
        ModelNotFoundError: There is no such model, its record cannot be read, or a file of it is not there.
        ModelChangedError: A file of an installed model is another one now.
        ModelCorruptError: The file is damaged, or no model.
        ModelUnsafeError: It is a checkpoint.
        ModelUnsupportedError: It is something else than a model that draws pictures.
        ModelComponentMissingError: It needs other files beside it.
        StorageError: The demo model cannot be written.
    """
    if model is None or (isinstance(model, str) and _means_demo(model)):
        return demo_model(settings)
    if model == "":
        raise InvalidRequestError(
            "The name of the model is empty.", hint="Name a model, or leave it out for the demo model."
        )
    if isinstance(model, ModelFiles):
        model.check()
        return model
    if isinstance(model, str) and _is_name(model):
        from .store import ModelStore

        store = ModelStore(settings)
        installed = _installed(model, store)
        if installed is None and not _is_there(expanded(model)) and not _is_file_name(model):
            installed = _by_catalogue(model, settings, store, nor=", and no file")
        if installed is not None:
            store.check(installed)
            return installed.model_files()
    path = expanded(model)
    ModelFiles(path.stem, {Role.MODEL: path}).check()
    return model_of_files(path.stem, {Role.MODEL: path}, settings)


def named_model(name: str, settings: Settings) -> ModelFiles:
    """The files behind a name alone, whoever gives it: no file is opened, or looked for, that a text names as a path.

    Args:
        name: Of an installed model, or of the demo model, which is made at need.
        settings: Says where models are kept.

    Raises:
        ModelNotInstalledError: A model of the catalogue that was not fetched yet.
        InvalidRequestError: It is empty, or longer than any name.
        ModelNotFoundError: There is no such model, its record cannot be read, or a file of it is not there.
        ModelChangedError: A file of it is another one now.
        StorageError: The demo model cannot be written.
    """
    if not name:
        raise InvalidRequestError("The name of the model is empty.", hint=_NAMES_HINT)
    if len(name) > _GIVEN_MAX:
        raise InvalidRequestError(
            f"The name of the model has more than {_GIVEN_MAX} characters.", hint=_NAMES_HINT
        )
    if _means_demo(name):
        return demo_model(settings)
    if not _is_name(name):  # and is not said again: a path stands in no error
        raise ModelNotFoundError("No model has a name like this one, which may be a path.", hint=_NAMES_HINT)
    from .store import ModelStore

    store = ModelStore(settings)
    installed = _installed(name, store) or _by_catalogue(name, settings, store)
    store.check(installed)
    return installed.model_files()


def model_of_files(name: str, files: Mapping[Role, Path], settings: Settings) -> ModelFiles:
    """The model that some files make, with its family and what suits it, as their headers say it.

    Args:
        name: Shown to the user.
        files: By the part that the user says they play; a diffusion model given as a whole model is put right.
        settings: Says whether checkpoints are taken.

    Raises:
        ModelError: A file is missing, damaged, unsafe, or not that part; or a part is missing.
        InvalidRequestError: There is more than one diffusion model.
    """
    from ._composing import Candidate, compose
    from .inspection import inspect_file

    composed = compose(
        [
            Candidate(path, inspect_file(path, allow_pickle=settings.allow_pickle), None if alone else role)
            for role, path in files.items()
            for alone in (role is Role.MODEL and len(files) == 1,)
        ]
    )
    quantisations = {role: part.facts.quantisation for role, part in composed.parts.items()}
    return ModelFiles(name, composed.files, composed.defaults, composed.family, quantisations)


def demo_model(settings: Settings, *, make: bool = True) -> ModelFiles:
    """The demo model: random weights, so its pictures are noise, but the real engine really draws them.

    Args:
        settings: Says where models are kept.
        make: Make it where it is not there, which takes about a second; False: say where it would be.

    Raises:
        StorageError: It cannot be written.
    """
    paths = (demo_paths if make else demo_places)(settings.models_dir)
    defaults = ModelDefaults(steps=12, cfg_scale=1.0, width=256, height=256)
    files = {Role(role): path for role, path in paths.items()}
    model = ModelFiles(DEMO_NAME, files, defaults, Family.OVIS_IMAGE)
    if make:
        model.check()
    return model


def _means_demo(text: str) -> bool:
    return text.casefold() in {DEMO_NAME, f"{DEMO_NAME}:local"}


def _is_name(text: str) -> bool:
    return bool(text) and not any(mark in text for mark in ("/", "\\", "\0")) and text[0] not in ".~"


def _is_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _is_file_name(text: str) -> bool:
    return text.lower().endswith(_SUFFIXES) or len(text) > 160


def _installed(name: str, store: ModelStore) -> InstalledModel | None:
    installed = store.find(name) or store.find_only_option(name)
    if installed is None and store.is_unreadable(name):
        raise _unreadable(name)
    return installed


def _by_catalogue(name: str, settings: Settings, store: ModelStore, *, nor: str = "") -> InstalledModel:
    """The installed model that the catalogue calls so, too; the error that says what is meant where there is none."""
    from .catalog import load_catalog
    from .names import QUOTED_MAX, suggest

    catalog = load_catalog(settings.catalog)
    known = catalog.find(name.lower())
    if known is not None:
        listed = known[0].name_of(known[1])
        installed = store.find(listed)
        if installed is not None:
            return installed
        if store.is_unreadable(listed):
            raise _unreadable(listed)
        size = known[1].size_bytes
        raise ModelNotInstalledError(
            f"The model {name!r} is in the catalogue, and is not installed.",
            hint=f"Run 'sdmanager models pull {name}' to fetch it ({size / 1e9:.1f} GB).",
            details={"name": name, "sizeBytes": size},
        )
    close = suggest(name, [*(model.name for model in store.list()), *catalog.names])
    quoted = name[:QUOTED_MAX]
    raise ModelNotFoundError(
        f"There is no model named {quoted!r}{nor}.",
        hint=f"Did you mean {close!r}?" if close else "'sdmanager models list --all' shows what there is.",
        details={"name": quoted, "suggestion": close},
    )


def _unreadable(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"The record of the model {name!r} cannot be read.",
        hint=f"Pull or import it again, or take the record away with 'sdmanager models remove {name}'.",
        details={"name": name},
    )
