"""``sdmanager doctor``: all that decides which engine is used, on one screen, fit for a bug report."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from sdmanager import __version__
from sdmanager.errors import SDManagerError
from sdmanager.files import free_bytes

from .aside import aside_now, facts_of
from .model_facts import demo_folder, hub_cache, state_of
from .output import camel_case, folder_size, say
from .privacy import names_of, without_private

if TYPE_CHECKING:
    import argparse

    from sdmanager.binaries import Candidate, Verdict
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

_VARIABLES: Final = (
    "SDMANAGER_HOME", "SDMANAGER_ENGINE", "SDMANAGER_VARIANT", "SDMANAGER_BINARIES", "SDMANAGER_MIRROR",
    "SDMANAGER_CATALOG", "SDMANAGER_LORAS", "SDMANAGER_ALLOW_PICKLE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT",
    "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
)  # fmt: skip
_SOURCES: Final = {
    "release": "release archive",
    "source": "built from source",
    "installed": "installed before",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="show hardware, engines and what was tested",
        description="Shows hardware, which engines could be used here and why or why not, what was tested with what "
        "outcome, disk space and models. It changes nothing, fetches nothing, and prints no prompts, tokens or home "
        "folders: paste it into a bug report.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_doctor)


async def _doctor(args: argparse.Namespace) -> int:
    from sdmanager.settings import Settings

    settings = Settings.from_environment()
    facts = camel_case(without_private(await _examine(settings), names_of(settings)))
    if args.json:
        say(json.dumps(facts))
        return 0
    from .report import report

    for line in report(facts):
        say(line)
    return 0


async def _examine(settings: Settings) -> dict[str, Any]:
    from sdmanager.hardware import take_snapshot

    snapshot = await take_snapshot(settings)
    return {
        "sdmanager": __version__,
        "python": sys.version.partition(" ")[0],
        "hardware": snapshot.to_json(),
        "engine": _engine(settings),
        **_candidates(settings, snapshot),
        "disk": _disk(settings),
        **_models(settings),
        "memory": _memory(settings),
        "aside": [facts_of(state) for state in aside_now(settings)],
        "environment": _environment(),
    }


def _engine(settings: Settings) -> dict[str, Any]:
    """The engine in use and how it was proven, or why there is none."""
    from sdmanager.binaries import in_use, own_failure

    try:
        ensured = in_use(settings)
    except SDManagerError as exc:
        return {"problem": exc.message}
    if ensured is None:
        failure = own_failure(settings) if settings.engine is not None else None
        return {"problem": failure.reason if failure else None}
    engine = ensured.engine
    facts = {"variant": engine.variant, "version": engine.version, "source": engine.source}
    return facts | {
        "sha256": engine.sha256, "candidate": ensured.key, "proof": ensured.proof.to_json(), "problem": None
    }  # fmt: skip


def _candidates(settings: Settings, snapshot: HardwareSnapshot) -> dict[str, Any]:
    from sdmanager.binaries import (
        VARIANTS,
        choose,
        list_installed,
        load_manifest,
        programs_in_path,
        read_book,
        surroundings,
    )

    try:
        manifest = load_manifest(settings.manifest)
    except SDManagerError as exc:
        return {"release": None, "candidates": [], "manifestError": exc.message}
    candidates = choose(
        manifest,
        snapshot,
        programs=programs_in_path(),
        installed=list_installed(settings),
        variant=settings.variant if settings.variant in VARIANTS else None,
    )
    book = read_book(settings, surroundings(settings))
    verdicts = book.verdicts if book else {}
    return {
        "release": manifest.tag,
        "note": manifest.notes.get(snapshot.platform),
        "candidates": [_candidate(candidate, verdicts.get(candidate.key)) for candidate in candidates],
        "ownEngine": settings.engine is not None,
    }


def _candidate(candidate: Candidate, verdict: Verdict | None) -> dict[str, Any]:
    tested: dict[str, Any] | None = None
    if verdict is not None:
        tested = {
            "outcome": verdict.meaning
            or ("proven" if verdict.proof and verdict.proof.proven else "unproven"),
            "at": verdict.tested_at,
            "seconds": round(verdict.proof.seconds, 2) if verdict.proof and verdict.proof.proven else None,
            "slow": verdict.proof.slow if verdict.proof else None,
            "code": verdict.code,
            "reason": verdict.reason or (verdict.proof.note if verdict.proof else None),
            "hint": verdict.hint,
        }
    return {
        "key": candidate.key,
        "variant": candidate.variant,
        "source": candidate.origin,
        "version": candidate.version,
        "usable": candidate.usable,
        "installed": candidate.engine is not None,
        "reason": candidate.reason,
        "tested": tested,
    }


def _disk(settings: Settings) -> dict[str, Any]:
    import os

    from sdmanager.models import ModelStore, Origin

    store = ModelStore(settings)
    pulled = [model for model in store.list() if model.origin is Origin.PULLED]
    return {
        "free": free_bytes(settings.data_dir),
        "engines": folder_size(settings.engines_dir),
        "models": folder_size(settings.models_dir),
        "downloads": folder_size(settings.downloads_dir),
        "pulled": store.size_bytes(pulled),
        "hub_cache_free": free_bytes(hub_cache(os.environ)),
    }


def _models(settings: Settings) -> dict[str, Any]:
    from sdmanager.models import DEMO_NAME, ModelStore

    made = demo_folder(settings)
    demo = [{"name": DEMO_NAME, "size": folder_size(made), "state": "ok"}] if made else []
    store = ModelStore(settings)
    listing = store.read()
    installed = [
        {"name": model.name, "size": model.size_bytes, "state": state_of(model, store)}
        for model in listing.models
    ]
    return {"models": [*demo, *installed], "unreadable_models": list(listing.unreadable)}


def _memory(settings: Settings) -> list[dict[str, Any]]:
    """What runs used, and where memory ran out, the newest first."""
    from sdmanager.resources import PeakStore

    return [
        {
            "model": entry.model,
            "backend": entry.backend,
            "width": entry.width,
            "height": entry.height,
            "flags": entry.flags,
            "ram": entry.peak.ram,
            "vram": entry.peak.vram,
            "runs": entry.peak.runs,
            "too_small_ram": entry.peak.too_small_ram,
            "too_small_vram": entry.peak.too_small_vram,
            "recommended": entry.recommended,
        }
        for entry in PeakStore(settings.memory_file).entries()
    ]


def _environment() -> list[str]:
    """Names of variables that are set, never what they are set to."""
    import os

    return [name for name in _VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
