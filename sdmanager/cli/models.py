"""``sdmanager models``: list, pull, import, inspect, verify and remove models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import ModelError, ModelNotFoundError

from .model_lines import (
    catalogue_json,
    catalogue_lines,
    facts_json,
    facts_lines,
    installed_lines,
    model_lines,
)
from .options import add_components, components_of
from .output import camel_case, megabytes, note, say

if TYPE_CHECKING:
    import argparse
    from typing import TypeAlias

    from sdmanager.models import InstalledModel, ModelStore
    from sdmanager.settings import Settings

    _Actions: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "models",
        help="list, pull, import, inspect, verify and remove models",
        description="Models have names: those of the catalogue, which 'pull' fetches with all their parts, and those "
        "of your own files, which 'import' gives them. Names may be cut short as long as they are clear; "
        "':OPTION' after a name is another size of the same model.",
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
    pull.add_argument("--force", action="store_true", help="fetch again what is installed")
    pull.add_argument(
        "--no-preview", action="store_true", help="without the tiny autoencoder of sharp previews"
    )
    pull.add_argument(
        "--ignore-fit", action="store_true", help="also if this machine has too little memory for it"
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
    info.set_defaults(run=_info)


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
    remove.add_argument("names", metavar="NAME", nargs="+", help="installed models")
    _add_json(remove)
    remove.set_defaults(run=_remove)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _settings(*, allow_pickle: bool = False) -> Settings:
    from dataclasses import replace

    from sdmanager.settings import Settings

    settings = Settings.from_environment()
    return replace(settings, allow_pickle=True) if allow_pickle else settings


def _installed_name(given: str, store: ModelStore) -> str:
    """The installed model that is meant by a name, or by the beginning of one."""
    from sdmanager.models import complete

    listing = store.read()
    names = [*(model.name for model in listing.models), *listing.unreadable]
    if not names:
        raise ModelNotFoundError(
            "No model is installed.", hint="'sdmanager models list --all' shows what can be pulled."
        )
    return complete(given, names)


async def _list(args: argparse.Namespace) -> int:
    from sdmanager.models import ModelStore, load_catalog

    settings = _settings()
    store = ModelStore(settings)
    listing = store.read()
    models = listing.models
    states = {model.name: _state_of(model, store) for model in models}
    catalog = load_catalog(settings.catalog) if args.all else None
    if args.json:
        facts: dict[str, object] = {
            "models": [_describe(model) | {"state": states[model.name]} for model in models],
            "sizeBytes": store.size_bytes(models),
            "unreadable": list(listing.unreadable),
        }
        if catalog is not None:
            facts["catalogue"] = [catalogue_json(model) for model in catalog.models.values()]
        say(json.dumps(camel_case(facts)))
        return 0
    lines = catalogue_lines(catalog, set(states)) if catalog else installed_lines(models, states)
    for line in lines:
        say(line)
    if models and catalog is None:
        say(f"{megabytes(store.size_bytes(models))} in all.")
    for name in listing.unreadable:
        note(f"Note: the record of {name!r} cannot be read: pull or import that model again, or remove it.")
    return 0


def _state_of(model: InstalledModel, store: ModelStore) -> str:
    """``ok``, or what is wrong with its files at a glance."""
    try:
        store.check(model)
    except ModelNotFoundError:
        return "missing"
    except ModelError:
        return "changed"
    return "ok"


async def _pull(args: argparse.Namespace) -> int:
    from sdmanager.models import complete, load_catalog, pull_model

    from .transfers import TransferBar

    settings = _settings()
    name = args.name
    if name.count("/") < 2:  # a file of a repository is no name of the catalogue
        name = complete(name, load_catalog(settings.catalog).names)
    bar = TransferBar(quiet=args.quiet or args.json)
    try:
        model = await pull_model(
            name,
            settings,
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
        say(json.dumps(camel_case(_describe(model))))
    else:
        say(f"{model.name} is installed ({megabytes(model.size_bytes)}).")
        note(f"Draw with it:  sdmanager generate 'a lighthouse at dusk' -m {model.name}")
    return 0


def _describe(model: InstalledModel) -> dict[str, object]:
    return model.to_json() | {"size_bytes": model.size_bytes}


async def _info(args: argparse.Namespace) -> int:
    from sdmanager.files import expanded
    from sdmanager.models import ModelStore, complete, inspect_file, load_catalog

    settings = _settings()
    store = ModelStore(settings)
    path = expanded(args.name)
    if store.find(args.name) is None and path.is_file():
        facts = inspect_file(path, allow_pickle=True)  # its head is looked at, nothing of it is run
        lines = facts_lines(path, facts)
        say(json.dumps(camel_case(facts_json(path, facts))) if args.json else "\n".join(lines))
        return 0
    catalog = load_catalog(settings.catalog)
    name = complete(args.name, [*(model.name for model in store.list()), *catalog.names])
    installed, known = store.find(name), catalog.find(name)
    state = _state_of(installed, store) if installed else ""
    if args.json:
        facts_known = {
            "name": name,
            "installed": _describe(installed) | {"state": state} if installed else None,
            "catalogue": catalogue_json(known[0]) if known else None,
        }
        say(json.dumps(camel_case(facts_known)))
        return 0
    for line in model_lines(name, installed, state, known):
        say(line)
    return 0


async def _verify(args: argparse.Namespace) -> int:
    from sdmanager.models import ModelStore, verify_model

    from .transfers import TransferBar

    settings = _settings()
    store = ModelStore(settings)
    names = [_installed_name(name, store) for name in args.names] or [model.name for model in store.list()]
    failed: ModelError | None = None
    told = []
    for name in names:
        bar = TransferBar(quiet=args.quiet or args.json)
        try:
            await verify_model(name, settings, on_progress=bar.show_bytes)
        except ModelError as exc:
            failed = failed or exc
            told.append({"name": name, "ok": False, "error": {"message": exc.message, "code": exc.code}})
            if not args.json:
                say(f"{name}: {exc.message}")
        else:
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
    names = list(dict.fromkeys(_installed_name(name, store) for name in args.names))
    told = []
    for name in names:
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
            kept = f"; {len(removed.kept)} files stay where they are" if removed.kept else ""
            say(f"removed {name}: {megabytes(removed.freed_bytes)} freed{kept}.")
    if args.json:
        say(json.dumps({"removed": told}))
    return 0
