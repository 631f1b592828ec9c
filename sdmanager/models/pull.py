"""Getting models from the hub: all parts at once, each checked, and listed only when all are there."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError
from sdmanager.threads import in_thread

from ._pull_progress import OnPull
from ._pull_progress import PullProgress as PullProgress
from ._pull_run import Pull
from ._pull_sharing import PULLS
from ._pull_wanted import Wanted, find_installed, named_file
from .catalog import CatalogFile, load_catalog
from .demo import DEMO_NAME
from .families import Family, ModelDefaults, Role
from .installed import InstalledFile, InstalledModel, Origin
from .names import check_name, usable_name
from .resolving import demo_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.settings import Settings


async def pull_model(
    name: str,
    settings: Settings,
    *,
    save_as: str | None = None,
    token: str | None = None,
    force: bool = False,
    with_preview: bool = True,
    ignore_fit: bool = False,
    on_progress: OnPull | None = None,
) -> InstalledModel:
    """Fetch a model with all its parts into the cache of huggingface_hub, check them, and list it.

    What is installed already is not fetched again, and what the cache has is only read. Whoever asks for the same
    model meanwhile shares the transfer; of two processes the second waits.

    Args:
        name: Of the catalogue, such as ``sd-turbo`` or ``sd-1.5:f32``; or ``ORG/REPO/FILE.gguf``.
        settings: Says where models are kept.
        save_as: By which to call a file of a repository; None: as the file is called, without what no name can have.
        token: For gated repositories; None: ``HF_TOKEN``, else that of ``hf auth login``.
        force: Fetch again what is installed, and replace another model of that name which was pulled.
        with_preview: With the tiny autoencoder of sharp previews, where there is one.
        ignore_fit: Also if this machine has too little memory for it.
        on_progress: Called on the event loop; what it raises ends the call.

    Returns:
        What was written down. The demo model is made instead, and not listed.

    Raises:
        ModelNotFoundError: The catalogue, or the hub, has no such model.
        ModelGatedError: It is given only to those who agreed to its terms, and the token does not show that.
        ModelDownloadError: It could not be fetched, or is not what its publisher, or the catalogue, names.
        ModelError: A file is no model, or lacks a part.
        InsufficientResourcesError: The disk is too small, or all the memory of this machine.
        InvalidRequestError: Another model has the name, or none can have it.
        StorageError: A folder cannot be written.

    If cancelled, the transfer has ended and what it had fetched is deleted before CancelledError goes on, unless
    others wait for it.
    """
    wanted = await in_thread(_wanted, name, save_as, settings, with_preview=with_preview)
    if wanted is None:
        return await in_thread(_demo, settings)
    wanted = replace(wanted, token=token, force=force, ignore_fit=ignore_fit)
    return await _shared(wanted, settings, on_progress)


def _wanted(name: str, save_as: str | None, settings: Settings, *, with_preview: bool) -> Wanted | None:
    """What is to be fetched by that name; None: nothing, it is made."""
    if "/" in name:
        file = named_file(name, settings)
        called = _free_name(save_as, Path(file.path).stem, settings)
        return Wanted(called, (file,), ModelDefaults(), None, False, True, False, None, False)
    if save_as is not None:
        raise InvalidRequestError(
            f"The model {name[:100]!r} of the catalogue cannot be given another name.",
            hint="Leave --name out: it is for files of repositories, ORG/REPO/FILE.",
            details={"name": name},
        )
    if name == DEMO_NAME:
        return None
    model, option = load_catalog(settings.catalog).get(name)
    if model.name == DEMO_NAME:
        return None
    files = option.files
    if with_preview and model.preview is not None and Role.TAE not in option.sizes:
        files = (*files, model.preview)
    name = model.name_of(option)
    return Wanted(name, files, model.defaults, model.family, option.gated, False, False, None, False)


def _free_name(chosen: str | None, stem: str, settings: Settings) -> str:
    """What to call a file of a repository: by no name of the catalogue, whose models would replace it."""
    name = usable_name(stem) if chosen is None else check_name(chosen)
    if name.casefold() in {each.casefold() for each in load_catalog(settings.catalog).names}:
        raise InvalidRequestError(
            f"A model of the catalogue has the name {name!r}.",
            hint=f"Give the file another name with --name, or pull that model with 'sdmanager models pull {name}'.",
            details={"name": name},
        )
    return name


async def pull_files(
    name: str,
    files: Sequence[CatalogFile],
    settings: Settings,
    *,
    defaults: ModelDefaults,
    family: Family | None,
    gated: bool = False,
    token: str | None = None,
    force: bool = False,
    ignore_fit: bool = False,
    on_progress: OnPull | None = None,
) -> InstalledModel:
    """Fetch files by role and list them as a model: what ``pull_model`` does for one of the catalogue.

    Args:
        name: By which to call it.
        files: One per role, with a whole model or a diffusion model among them.
        settings: Says where models are kept.
        defaults: What suits it.
        family: Its architecture; None where that is not known.
        gated: Whether its publisher asks for an agreement.
        token: As of ``pull_model``.
        force: As of ``pull_model``.
        ignore_fit: As of ``pull_model``.
        on_progress: As of ``pull_model``.

    Raises:
        SDManagerError: As of ``pull_model``.

    Cancelling does what it does to ``pull_model``.
    """
    roles = [file.role for file in files]
    if len(set(roles)) != len(roles) or not {Role.MODEL, Role.DIFFUSION_MODEL} & set(roles):
        raise InvalidRequestError("A model has one file per part, and one of them is the diffusion model.")
    wanted = Wanted(check_name(name), tuple(files), defaults, family, gated, False, force, token, ignore_fit)
    return await _shared(wanted, settings, on_progress)


async def _shared(wanted: Wanted, settings: Settings, on_progress: OnPull | None) -> InstalledModel:
    found = await in_thread(find_installed, wanted, settings)
    if found is not None:
        if on_progress is not None:
            size, count = found.size_bytes, len(found.files)
            on_progress(PullProgress("done", wanted.name, size, size, None, count, count, 0.0))
        return found
    key = (
        settings.state_dir,
        settings.models_dir,
        wanted.name.casefold(),
        wanted.files,
        wanted.force,
        wanted.token,
        wanted.ignore_fit,
    )
    return await PULLS.share(key, lambda report: Pull(wanted, settings, report).run(), on_progress)


def _demo(settings: Settings) -> InstalledModel:
    model = demo_model(settings)
    files = tuple(
        replace(InstalledFile(role, path, path.stat().st_size, path.stat().st_mtime_ns), owned=True)
        for role, path in model.files.items()
    )
    now = datetime.datetime.now(datetime.UTC)
    return InstalledModel(model.name, files, model.defaults, model.family, Origin.PULLED, now)
