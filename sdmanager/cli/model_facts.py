"""What commands find out about models beyond their records: whether files are there, and why some stay."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import ModelError, ModelNotFoundError
from sdmanager.files import expanded

from .output import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdmanager.models import (
        CatalogModel,
        CatalogOption,
        InstalledFile,
        InstalledModel,
        Listing,
        ModelStore,
    )
    from sdmanager.settings import Settings


def state_of(model: InstalledModel, store: ModelStore) -> str:
    """``ok``, or what is wrong with its files at a glance: ``missing`` or ``changed``."""
    try:
        store.check(model)
    except ModelNotFoundError:
        return "missing"
    except ModelError:
        return "changed"
    return "ok"


def describe(model: InstalledModel) -> dict[str, object]:
    """The record of a model, for programs."""
    return model.to_json() | {"size_bytes": model.size_bytes}


def is_file(path: Path) -> bool:
    """Whether there is such a file, as far as this user may know."""
    # Path.is_file raises for names that are too long, and in folders that may not be read.
    return os.path.isfile(path)  # noqa: PTH113


def means_demo(name: str) -> bool:
    """Whether a name is that of the demo model, in any case."""
    from sdmanager.models import DEMO_NAME

    return name.strip().casefold() in {DEMO_NAME, f"{DEMO_NAME}:local"}


def demo_folder(settings: Settings) -> Path | None:
    """Where the demo model is; None while it is not made."""
    from sdmanager.models import DEMO_NAME

    return next((path for path in settings.models_dir.glob(f"{DEMO_NAME}-*") if path.is_dir()), None)


def is_of_catalogue(installed: InstalledModel, model: CatalogModel, option: CatalogOption) -> bool:
    """Whether an installed model has come from where the catalogue has it: a name alone says nothing."""
    repos = {file.repo for file in (*option.files, *([model.preview] if model.preview else []))}
    return bool(repos) and {file.repo for file in installed.files} <= repos


def hub_cache(environment: Mapping[str, str]) -> Path:
    """The folder where huggingface_hub keeps files, by its own rules; the library itself takes long to load.

    Args:
        environment: Variables.
    """
    home = environment.get("HF_HOME") or str(
        Path(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    )
    named = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    return expanded(os.path.expandvars(named or Path(home, "hub")))


def why_kept(model: InstalledModel | None, kept: Sequence[Path], after: Listing) -> str:
    """How many files of a model that was removed are still there, and why; empty where there are none.

    Args:
        model: Its record; None where that could not be read.
        kept: The files.
        after: The models that are left.
    """
    files = {file.path: file for file in model.files} if model else {}
    needed = {os.path.realpath(file.path) for other in after.models for file in other.files}
    reasons = Counter(
        _reason(files[path], needed, unread=bool(after.unreadable)) for path in kept if path in files
    )
    return ", ".join(
        f"{counted(count, 'file')} {'stays where it is' if count == 1 else 'stay where they are'} ({reason})"
        for reason, count in reasons.items()
    )


def _reason(file: InstalledFile, needed: set[str], *, unread: bool) -> str:
    if not file.owned:
        return "your own" if file.repo is None else "in Hugging Face's cache before"
    if os.path.realpath(file.path) in needed:
        return "shared with another model"
    if unread:
        return "a record that cannot be read may name it"
    return "changed since it was copied" if file.repo is None else "in use by a pull"
