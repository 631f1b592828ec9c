"""``sdmanager models``: list, pull, import, inspect, verify and remove models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import ModelError, ModelNotFoundError

from .model_facts import describe, is_of_catalogue, means_demo, state_of, why_kept
from .model_info import run_info
from .model_lines import catalogue_json, catalogue_lines, installed_lines
from .options import add_components, components_of
from .output import camel_case, megabytes, note, printable, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import TypeAlias

    from sdmanager.models import Catalog, InstalledModel, Listing
    from sdmanager.settings import Settings

    _Actions: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "models",
        help="list, pull, import, inspect, verify and remove models",
        description="Models have names: those of the catalogue, which 'pull' fetches with all their parts, and those "
        "of your own files, which 'import' gives them. Names may be cut short as long as they are clear, except for "
        "'remove'; ':OPTION' after a name is another size of the same model.",
        epilog="Environment: HF_TOKEN is shown to Hugging Face, HF_HOME is where its files are kept, HF_ENDPOINT is a "
        "mirror of it, HF_HUB_OFFLINE=1 asks for nothing; SDMANAGER_CATALOG=/file.json is your own catalogue.",
    )
    actions = parser.add_subparsers(title="commands", dest="action", metavar="COMMAND", required=True)
    for add_action in (_add_list, _add_pull, _add_import, _add_info, _add_verify, _add_remove):
        add_action(actions)


def _add_list(actions: _Actions) -> None:
    listing = actions.add_parser("list", help="list the models that are installed, or all that can be pulled")
    listing.add_argument("--all", action="store_true", help="the whole catalogue, with sizes and licences")
    _add_json(listing)
    listing.set_defaults(run=_list)


def _add_pull(actions: _Actions) -> None:
    pull = actions.add_parser(
        "pull",
        help="fetch a model with all its parts",
        description="Fetches a model of the catalogue, or one file of a repository, from Hugging Face into its shared "
        "cache, and checks it. Ctrl-C leaves nothing unfinished. What is there already is not fetched again.",
    )
    pull.add_argument("name", metavar="NAME", help="such as sd-turbo, sd-1.5:f32, or ORG/REPO/FILE.gguf")
    pull.add_argument(
        "--name",
        metavar="NAME",
        dest="save_as",
        help="by which to call a file of a repository (default: its own)",
    )
    pull.add_argument("--force", action="store_true", help="fetch again what is installed")
    pull.add_argument(
        "--no-preview", action="store_true", help="without the tiny autoencoder of sharp previews"
    )
    pull.add_argument(
        "--ignore-fit", action="store_true", help="also if this machine has too little memory for it"
    )
    pull.add_argument(
        "--allow-pickle",
        action="store_true",
        help="take checkpoints, which can run any program, of makers whom you trust",
    )
    pull.add_argument("--quiet", action="store_true", help="no progress")
    _add_json(pull)
    pull.set_defaults(run=_pull)


def _add_import(actions: _Actions) -> None:
    importing = actions.add_parser(
        "import",
        help="give your own files a name",
        description="Takes a model file, a folder, or components, and reads from their headers what they are. They "
        "stay where they are, unless --copy is given.",
    )
    importing.add_argument("sources", metavar="PATH", nargs="*", type=Path, help="files, or one folder")
    importing.add_argument("--name", metavar="NAME", help="by which to call it (default: that of the file)")
    importing.add_argument("--copy", action="store_true", help="copy the files into the folder of models")
    importing.add_argument("--replace", action="store_true", help="in the place of a model of that name")
    importing.add_argument(
        "--allow-pickle",
        action="store_true",
        help="take checkpoints, which can run any program, of makers whom you trust",
    )
    importing.add_argument("--quiet", action="store_true", help="no progress")
    add_components(importing.add_argument_group("parts whose header does not say what they are"))
    _add_json(importing)
    importing.set_defaults(run=_import)


def _add_info(actions: _Actions) -> None:
    info = actions.add_parser("info", help="what is known of a model, or of any model file")
    info.add_argument("name", metavar="NAME", help="installed, of the catalogue, or the path of a file")
    _add_json(info)
    info.set_defaults(run=run_info)


def _add_verify(actions: _Actions) -> None:
    verify = actions.add_parser(
        "verify", help="read every file of a model again and compare it with what was installed"
    )
    verify.add_argument("names", metavar="NAME", nargs="*", help="installed models (default: all)")
    verify.add_argument("--quiet", action="store_true", help="no progress")
    _add_json(verify)
    verify.set_defaults(run=_verify)


def _add_remove(actions: _Actions) -> None:
    remove = actions.add_parser(
        "remove",
        help="forget a model, and delete the files that were fetched or copied for it",
        description="Files that were imported where they lie stay; so do those that another model needs, or that were "
        "in Hugging Face's cache before.",
    )
    remove.add_argument("names", metavar="NAME", nargs="+", help="installed models, by their whole names")
    _add_json(remove)
    remove.set_defaults(run=_remove)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _settings(*, allow_pickle: bool = False) -> Settings:
    from dataclasses import replace

    from sdmanager.settings import Settings

    settings = Settings.from_environment()
    return replace(settings, allow_pickle=True) if allow_pickle else settings


def _installed_name(given: str, listing: Listing, *, whole: bool = False) -> str:
    """The installed model that is meant by a name, or by the beginning of one.

    Args:
        given: As typed.
        listing: What is installed.
        whole: Take no beginning of a name: the next model that it may stand for is another one.
    """
    from sdmanager.models import complete

    names = [*(model.name for model in listing.models), *listing.unreadable]
    if not names:
        raise ModelNotFoundError(
            "No model is installed.", hint="'sdmanager models list --all' shows what can be pulled."
        )
    try:
        meant = complete(given, names)
    except ModelNotFoundError as exc:
        if "candidates" in exc.details and not whole:
            raise
        hint = exc.hint
    else:
        if not whole or meant.casefold() == given.strip().casefold():
            return meant
        hint = f"Did you mean {meant!r}?"
    raise ModelNotFoundError(
        f"The model {given[:100]!r} is not installed.", hint=hint, details={"name": given}
    )


async def _list(args: argparse.Namespace) -> int:
    from sdmanager.models import ModelStore, load_catalog

    settings = _settings()
    store = ModelStore(settings)
    listing = store.read()
    models = listing.models
    states = {model.name: state_of(model, store) for model in models}
    catalog = load_catalog(settings.catalog) if args.all else None
    if args.json:
        facts: dict[str, object] = {
            "models": [describe(model) | {"state": states[model.name]} for model in models],
            "sizeBytes": store.size_bytes(models),
            "unreadable": list(listing.unreadable),
        }
        if catalog is not None:
            facts["catalogue"] = [catalogue_json(model) for model in catalog.models.values()]
        say(json.dumps(camel_case(facts)))
        return 0
    lines = (
        catalogue_lines(catalog, _of_catalogue(models, catalog))
        if catalog
        else installed_lines(models, states)
    )
    for line in lines:
        say(line)
    if models and catalog is None:
        say(f"{megabytes(store.size_bytes(models))} in all.")
    for name in listing.unreadable:
        note(f"Note: the record of {name!r} cannot be read: pull or import that model again, or remove it.")
    return 0


def _of_catalogue(models: Iterable[InstalledModel], catalog: Catalog) -> set[str]:
    found = ((model, catalog.find(model.name)) for model in models)
    return {model.name for model, known in found if known and is_of_catalogue(model, *known)}


async def _pull(args: argparse.Namespace) -> int:
    from sdmanager.models import DEMO_NAME, complete, load_catalog, pull_model

    from .transfers import TransferBar

    settings = _settings(allow_pickle=args.allow_pickle)
    name = args.name
    if means_demo(name):  # a catalogue of the user's own need not have it
        name = DEMO_NAME
    elif "/" not in name:  # a file of a repository is no name of the catalogue
        name = complete(name, load_catalog(settings.catalog).names)
    bar = TransferBar(quiet=args.quiet or args.json)
    try:
        model = await pull_model(
            name,
            settings,
            save_as=args.save_as,
            force=args.force,
            with_preview=not args.no_preview,
            ignore_fit=args.ignore_fit,
            on_progress=bar.show_pull,
        )
    finally:
        bar.close()
    return _tell(model, as_json=args.json)


async def _import(args: argparse.Namespace) -> int:
    from sdmanager.files import expanded
    from sdmanager.models import import_model

    from .transfers import TransferBar

    bar = TransferBar(quiet=args.quiet or args.json)
    try:
        model = await import_model(
            [expanded(path) for path in args.sources],
            _settings(allow_pickle=args.allow_pickle),
            name=args.name,
            copy=args.copy,
            replace=args.replace,
            roles=components_of(vars(args)),
            on_progress=bar.show_bytes,
        )
    finally:
        bar.close()
    return _tell(model, as_json=args.json)


def _tell(model: InstalledModel, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps(camel_case(describe(model))))
    else:
        say(f"{model.name} is installed ({megabytes(model.size_bytes)}).")
        if model.family is None:
            note("Its family is unknown: whether the engine can draw with it shows when it does.")
        note(f"Draw with it:  sdmanager generate 'a lighthouse at dusk' -m {model.name}")
    return 0


async def _verify(args: argparse.Namespace) -> int:
    from sdmanager.models import ModelStore, verify_model

    from .transfers import TransferBar

    settings = _settings()
    store = ModelStore(settings)
    listing = store.read()
    names = [_installed_name(name, listing) for name in args.names] or [
        model.name for model in listing.models
    ]
    names = list(dict.fromkeys(names))
    failed: ModelError | None = None
    told = []
    for name in names:
        bar = TransferBar(quiet=args.quiet or args.json)
        try:
            await verify_model(name, settings, on_progress=bar.show_bytes)
        except ModelError as exc:
            bar.close()  # else this would go on in its line
            failed = failed or exc
            told.append({"name": name, "ok": False, "error": {"message": exc.message, "code": exc.code}})
            if not args.json:
                say(f"{name}: {exc.message}")
        else:
            bar.close()
            told.append({"name": name, "ok": True})
            if not args.json:
                say(f"{name}: every file is as it was installed.")
        finally:
            bar.close()
    if args.json:
        say(json.dumps({"models": told}))
    elif not names:
        say("No model is installed.")
    if failed is not None:
        if failed.hint and not args.json:
            note(f"  {failed.hint}")
        return failed.exit_code
    return 0


async def _remove(args: argparse.Namespace) -> int:
    from sdmanager.models import ModelStore

    store = ModelStore(_settings())
    listing = store.read()
    names = list(dict.fromkeys(_installed_name(name, listing, whole=True) for name in args.names))
    told = []
    for name in names:
        model = store.find(name)
        removed = store.remove(name)
        told.append(
            {
                "name": name,
                "freedBytes": removed.freed_bytes,
                "deleted": [str(path) for path in removed.deleted],
                "kept": [str(path) for path in removed.kept],
            }
        )
        if not args.json:
            kept = why_kept(model, removed.kept, store.read())
            freed = f"{megabytes(removed.freed_bytes)} freed"
            say(f"removed {printable(name)}: {'; '.join([freed, *([kept] if kept else [])])}.")
    if args.json:
        say(json.dumps({"removed": told}))
    return 0
