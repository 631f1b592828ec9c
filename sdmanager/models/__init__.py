"""Models: names for files by role, where they come from, what they are, and whether they fit.

What drawing does not need is loaded when it is first used, so that a start waits for none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .demo import DEMO_NAME as DEMO_NAME
from .families import Family as Family
from .families import FamilyTraits as FamilyTraits
from .families import ModelDefaults as ModelDefaults
from .families import Role as Role
from .families import traits_of as traits_of
from .files import HEAD_BYTES as HEAD_BYTES
from .files import ModelFiles as ModelFiles
from .files import are_weights as are_weights
from .resolving import demo_model as demo_model
from .resolving import model_of_files as model_of_files
from .resolving import named_model as named_model
from .resolving import resolve_model as resolve_model

if TYPE_CHECKING:
    from ._pull_progress import PullProgress as PullProgress
    from .catalog import Catalog as Catalog
    from .catalog import CatalogFile as CatalogFile
    from .catalog import CatalogModel as CatalogModel
    from .catalog import CatalogOption as CatalogOption
    from .catalog import load_catalog as load_catalog
    from .fit import Have as Have
    from .fit import Need as Need
    from .fit import check_disk as check_disk
    from .fit import check_fit as check_fit
    from .fit import have_at_most as have_at_most
    from .fit import have_now as have_now
    from .fit import need_of as need_of
    from .fitting import is_large as is_large
    from .fitting import judge_fit as judge_fit
    from .fitting import smaller_models as smaller_models
    from .importing import import_model as import_model
    from .inspection import FileFacts as FileFacts
    from .inspection import FileFormat as FileFormat
    from .inspection import FileKind as FileKind
    from .inspection import inspect_file as inspect_file
    from .installed import InstalledFile as InstalledFile
    from .installed import InstalledModel as InstalledModel
    from .installed import Origin as Origin
    from .names import check_name as check_name
    from .names import complete as complete
    from .names import suggest as suggest
    from .pull import pull_files as pull_files
    from .pull import pull_model as pull_model
    from .store import Listing as Listing
    from .store import ModelStore as ModelStore
    from .store import Removed as Removed
    from .verifying import verify_model as verify_model

_HOMES: Final = {
    "PullProgress": "_pull_progress",
    "Catalog": "catalog",
    "CatalogFile": "catalog",
    "CatalogModel": "catalog",
    "CatalogOption": "catalog",
    "load_catalog": "catalog",
    "Have": "fit",
    "Need": "fit",
    "check_disk": "fit",
    "check_fit": "fit",
    "have_at_most": "fit",
    "have_now": "fit",
    "need_of": "fit",
    "is_large": "fitting",
    "judge_fit": "fitting",
    "smaller_models": "fitting",
    "import_model": "importing",
    "FileFacts": "inspection",
    "FileFormat": "inspection",
    "FileKind": "inspection",
    "inspect_file": "inspection",
    "InstalledFile": "installed",
    "InstalledModel": "installed",
    "Origin": "installed",
    "check_name": "names",
    "complete": "names",
    "suggest": "names",
    "pull_files": "pull",
    "pull_model": "pull",
    "Listing": "store",
    "ModelStore": "store",
    "Removed": "store",
    "verify_model": "verifying",
}

__all__ = (
    "DEMO_NAME",
    "HEAD_BYTES",
    "Catalog",
    "CatalogFile",
    "CatalogModel",
    "CatalogOption",
    "Family",
    "FamilyTraits",
    "FileFacts",
    "FileFormat",
    "FileKind",
    "Have",
    "InstalledFile",
    "InstalledModel",
    "Listing",
    "ModelDefaults",
    "ModelFiles",
    "ModelStore",
    "Need",
    "Origin",
    "PullProgress",
    "Removed",
    "Role",
    "are_weights",
    "check_disk",
    "check_fit",
    "check_name",
    "complete",
    "demo_model",
    "have_at_most",
    "have_now",
    "import_model",
    "inspect_file",
    "is_large",
    "judge_fit",
    "load_catalog",
    "model_of_files",
    "named_model",
    "need_of",
    "pull_files",
    "pull_model",
    "resolve_model",
    "smaller_models",
    "suggest",
    "traits_of",
    "verify_model",
)


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
