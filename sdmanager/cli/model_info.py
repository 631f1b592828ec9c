"""``sdmanager models info``: what is known of a model, or of any model file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError
from sdmanager.files import expanded

from .model_facts import demo_folder, describe, is_file, is_of_catalogue, means_demo, state_of
from .model_lines import catalogue_json, demo_lines, facts_json, facts_lines, model_lines
from .output import camel_case, folder_size, say

if TYPE_CHECKING:
    import argparse

    from sdmanager.settings import Settings


async def run_info(args: argparse.Namespace) -> int:
    """Say what is known of a model, or of a file."""
    from sdmanager.models import ModelStore, complete, inspect_file, load_catalog
    from sdmanager.settings import Settings

    if not args.name.strip():
        raise InvalidRequestError("The name of the model is empty.", hint="Name a model, or a file.")
    settings = Settings.from_environment()
    if means_demo(args.name):
        return _tell_demo(settings, as_json=args.json)
    store = ModelStore(settings)
    path = expanded(args.name)
    if store.find(args.name) is None and is_file(path):
        facts = inspect_file(path, allow_pickle=True)  # its head is looked at, nothing of it is run
        lines = facts_lines(path, facts)
        say(json.dumps(camel_case(facts_json(path, facts))) if args.json else "\n".join(lines))
        return 0
    catalog = load_catalog(settings.catalog)
    own = [model.name for model in store.list()]
    taken = {name.casefold() for name in own}
    name = complete(args.name, [*own, *(name for name in catalog.names if name.casefold() not in taken)])
    known = catalog.find(name)
    installed = store.find(name) or (store.find(known[0].name_of(known[1])) if known else None)
    if installed and known and not is_of_catalogue(installed, *known):
        known = None
    state = state_of(installed, store) if installed else ""
    if args.json:
        facts_known = {
            "name": name,
            "installed": describe(installed) | {"state": state} if installed else None,
            "catalogue": catalogue_json(known[0]) if known else None,
        }
        say(json.dumps(camel_case(facts_known)))
        return 0
    for line in model_lines(name, installed, state, known):
        say(line)
    return 0


def _tell_demo(settings: Settings, *, as_json: bool) -> int:
    from sdmanager.models import DEMO_NAME, load_catalog

    known = load_catalog().find(DEMO_NAME)  # a catalogue of the user's own need not have it
    folder = demo_folder(settings)
    size = folder_size(folder) if folder else None
    if as_json:
        facts = {
            "name": DEMO_NAME,
            "installed": None,
            "catalogue": catalogue_json(known[0]) if known else None,
            "made": folder is not None,
            "sizeBytes": size,
        }
        say(json.dumps(camel_case(facts)))
        return 0
    for line in demo_lines(DEMO_NAME, known, size):
        say(line)
    return 0
