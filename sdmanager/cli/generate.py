"""``sdmanager generate``: a prompt becomes a picture."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from .hosted import add_provider, hosted_of
from .offloading import add_offload, logs_as_notes, room_of
from .options import UNSET, add_lora_dir, add_memory, add_model, choices_of, model_of, settings_of
from .output import note, numbered, say

if TYPE_CHECKING:
    from sdmanager.cloud import HuggingFaceGenerator
    from sdmanager.generation import (
        Event,
        GeneratedImage,
        GenerationResult,
        ImageGenerator,
        ImageRequest,
        Lora,
        MemoryPlan,
    )
    from sdmanager.resources import ResourceOrchestrator

    from .previews import PreviewKeeper

_PREVIEW_METHODS: Final = ("none", "auto", "proj", "tae", "vae")
_PRESETS: Final = ("default", "high-quality", "fast")

DEMO_NOTICE: Final = (
    "No model was given, so this picture is noise from the model 'demo'. For a real one: "
    "sdmanager models pull sd-turbo  and add  -m sd-turbo"
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "generate",
        help="draw a picture",
        description="Draws a picture with stable-diffusion.cpp on this machine, or with a hosted service. The first "
        "run here fetches or builds the engine, once. Ctrl-C cancels and leaves nothing but the previews that were "
        "asked for.",
        epilog="Examples:  sdmanager generate 'a lighthouse at dusk' -o lighthouse.png   |   sdmanager generate "
        "'a cat' -m sd-turbo --count 4 -o cat.png --timelapse cat.webp",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.set_defaults(run=_generate)
    for add_group in (
        _add_output,
        add_provider,
        add_model,
        _add_picture,
        _add_start,
        _add_previews,
        add_memory,
        add_offload,
    ):
        add_group(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("output.png"),
        help="png, jpg or webp; several images become FILE_0, FILE_1, …; replaced only by a whole picture",
    )  # fmt: skip
    output.add_argument("--json", action="store_true", help="print one JSON object on stdout", default=UNSET)
    output.add_argument("--quiet", action="store_true", help="no bars, no notices", default=UNSET)
    output.add_argument("--verbose", action="store_true", help="show all the engine prints", default=UNSET)


def _add_picture(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group(
        "picture (what is not given is the model's own, else the default here)"
    )
    picture.add_argument("-n", "--negative-prompt", metavar="TEXT", help="what to keep out", default=UNSET)
    picture.add_argument("-W", "--width", metavar="PX", type=int, help="64-4096, by 8; 512", default=UNSET)
    picture.add_argument("-H", "--height", metavar="PX", type=int, help="64-4096, by 8; 512", default=UNSET)
    picture.add_argument("--steps", metavar="N", type=int, help="sampling steps; 20", default=UNSET)
    picture.add_argument(
        "--preset", choices=_PRESETS, default=UNSET,
        help="fast: half the steps that suit the model; high-quality: twice as many",
    )  # fmt: skip
    picture.add_argument("--cfg-scale", metavar="X", type=float, help="guidance; 7.5", default=UNSET)
    picture.add_argument(
        "--guidance",
        metavar="X",
        type=float,
        help="distilled guidance, of models such as FLUX.1 dev",
        default=UNSET,
    )
    picture.add_argument("--seed", metavar="N", type=int, help="chosen and reported if absent", default=UNSET)
    picture.add_argument("--sampler", metavar="NAME", help="the engine's name, e.g. euler_a", default=UNSET)
    picture.add_argument("--scheduler", metavar="NAME", help="the engine's name, e.g. karras", default=UNSET)
    picture.add_argument("--clip-skip", metavar="N", type=int, help="CLIP layers to ignore", default=UNSET)
    picture.add_argument(
        "--lora", metavar="NAME[:WEIGHT]", action="append", default=UNSET,
        help="LoRA from the folder of LoRAs; more than one may be given",
    )  # fmt: skip
    add_lora_dir(picture)
    picture.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=UNSET,
        help="1-10 images, seeds N, N+1, …, after one load; 1",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    start = parser.add_argument_group("starting from a picture")
    start.add_argument(
        "--init-image", metavar="FILE", type=Path, default=UNSET,
        help="picture to start from; gives the size where none is given",
    )  # fmt: skip
    start.add_argument("--mask", metavar="FILE", type=Path, help="white marks what is redrawn", default=UNSET)
    start.add_argument(
        "--strength", metavar="X", type=float, help="0-1, how far from it; 0.75", default=UNSET
    )


def _add_previews(parser: argparse.ArgumentParser) -> None:
    previews = parser.add_argument_group("watching it form")
    previews.add_argument(
        "--preview", choices=_PREVIEW_METHODS, default=UNSET,
        help="proj: nearly free, one eighth of the size; tae, vae: sharp and dear; auto",
    )  # fmt: skip
    previews.add_argument("--preview-stride", metavar="N", type=int, help="steps between two", default=UNSET)
    previews.add_argument(
        "--preview-dir", metavar="DIR", type=Path, help="keep the previews here", default=UNSET
    )
    previews.add_argument(
        "--timelapse", metavar="FILE", type=Path, default=UNSET,
        help="webp or gif: one animation of the previews and the picture",
    )  # fmt: skip


async def _generate(args: argparse.Namespace) -> int:
    from .previews import PreviewKeeper

    given = vars(args)
    quiet = bool(given.get("quiet") or given.get("json"))
    hosted = hosted_of(given)
    keeper = PreviewKeeper.from_options(
        given.get("preview"), given.get("preview_dir"), given.get("timelapse"), given.get("preview_stride")
    )
    request = _request(given, keeper)
    targets = _targets(args.output, request.count)
    keeper.check_targets(targets)
    if hosted is not None:
        hosted.check(request)
        if not quiet:
            note(_waiting_for(hosted))
    result = None
    try:
        with logs_as_notes(quiet=quiet):
            async with room_of(given, quiet=quiet) as room:
                generator: ImageGenerator | None = hosted
                if generator is None:
                    generator = await _prepared(given, room.orchestrator, quiet=quiet)
                keeper.make_folder()
                done = await _drawn(generator, request, given, keeper)
                for image, target in zip(done.images, targets, strict=True):
                    image.save(target)
                keeper.finish(done)
                result = done
                if not quiet:
                    _report(result, targets, keeper)
    finally:
        # Also where the pictures are there and waiting for others to be back was cancelled.
        if result is not None and given.get("json"):
            memory = _memory_facts(result) if hosted is None else {}
            say(json.dumps({**_as_json(result, targets, keeper), **memory, **room.facts}))
    return 0


async def _drawn(
    generator: ImageGenerator, request: ImageRequest, given: dict[str, object], keeper: PreviewKeeper
) -> GenerationResult:
    """Draw, with bars and notices where they are wanted."""
    from sdmanager.generation import Replanned

    from .bars import StageBars

    quiet = bool(given.get("quiet") or given.get("json"))
    with StageBars(quiet=quiet or bool(given.get("verbose"))) as bars:

        def on_event(event: Event) -> None:
            bars.show(event)
            if isinstance(event, Replanned) and not quiet:
                note(event.reason)
            keeper.take(event)

        return await generator.generate(request, on_event)


def _waiting_for(hosted: HuggingFaceGenerator) -> str:
    if hosted.service == "endpoint":
        return f"Waiting for the endpoint {hosted.model} to draw …"
    service = "a hosted service" if hosted.service == "auto" else hosted.service
    return f"Waiting for {service} to draw with {hosted.model} …"


async def _prepared(
    given: dict[str, object], room: ResourceOrchestrator | None, *, quiet: bool
) -> ImageGenerator:
    """The engine on this machine, ready to draw."""
    from sdmanager.engine import LocalGenerator
    from sdmanager.threads import in_thread

    from .bars import EngineBar

    model = await in_thread(model_of, given)
    engine_bar = EngineBar(quiet=quiet)
    generator = LocalGenerator(
        model,
        settings=settings_of(given),
        plan=choices_of(given),
        room=room,
        threads=given.get("threads"),  # type: ignore[arg-type]
        ignore_fit="ignore_fit" in given,
        on_prepare=engine_bar.show,
        on_output=_print_output if given.get("verbose") else None,
    )
    try:
        await generator.prepare()
    finally:
        engine_bar.close()
    if model is None and not quiet:
        print(DEMO_NOTICE, file=sys.stderr)
    return generator


def _request(given: dict[str, object], keeper: PreviewKeeper) -> ImageRequest:
    from sdmanager.generation import ImageRequest

    names = (
        "prompt", "negative_prompt", "width", "height", "steps", "preset", "cfg_scale", "guidance", "seed",
        "sampler", "scheduler", "clip_skip", "count", "init_image", "strength",
    )  # fmt: skip
    fields = {name: given[name] for name in names if name in given}
    if "mask" in given:
        fields["mask_image"] = given["mask"]
    if "lora" in given:
        fields["loras"] = [_lora(text) for text in given["lora"]]  # type: ignore[attr-defined]
    if keeper.options is not None:
        fields["previews"] = keeper.options
    return ImageRequest(**fields)


def _lora(text: str) -> Lora:
    from sdmanager.generation import Lora

    name, colon, weight = text.partition(":")
    try:
        return Lora(name=name, weight=float(weight)) if colon else Lora(name=name)
    except ValueError:
        raise InvalidRequestError(
            "The weight of a LoRA is not a number.", hint="Write --lora NAME or --lora NAME:WEIGHT."
        ) from None


def _targets(output: Path, count: int) -> list[Path]:
    """Where each image goes; checked before minutes are spent on drawing."""
    from sdmanager.generation import check_image_suffix, check_writable

    check_image_suffix(output)
    targets = numbered(output, count)
    for target in targets:
        check_writable(target)
    return targets


def _print_output(stream: str, data: bytes) -> None:
    del stream
    sys.stderr.write(data.decode("utf-8", "replace"))
    sys.stderr.flush()


def _report(result: GenerationResult, targets: list[Path], keeper: PreviewKeeper) -> None:
    for why in result.plan.reasons:
        note(why)
    for image, path in zip(result.images, targets, strict=True):
        say(f"{path}  {image.width}x{image.height}  seed {image.seed}  {result.time_taken:.1f} s")
    for line in keeper.describe():
        say(line)


def _as_json(result: GenerationResult, targets: list[Path], keeper: PreviewKeeper) -> dict[str, object]:
    def describe(image: GeneratedImage, path: Path) -> dict[str, object]:
        return {
            "path": os.fspath(path.absolute()),
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
        }

    timings = result.timings
    return {
        "images": [describe(image, path) for image, path in zip(result.images, targets, strict=True)],
        "timeTaken": round(result.time_taken * 1000),
        "timings": {
            "loading": round(timings.loading * 1000),
            "diffusion": round(timings.diffusion * 1000),
            "decoding": round(timings.decoding * 1000),
            "offloading": round(timings.offloading * 1000),
        },
        "model": result.model,
        "variant": result.variant,
        **keeper.as_json(),
    }


def _memory_facts(result: GenerationResult) -> dict[str, object]:
    def describe(plan: MemoryPlan) -> dict[str, object]:
        return {"flags": plan.flags, "evictions": plan.evictions, "reasons": plan.reasons}

    facts: dict[str, object] = {"plan": describe(result.plan)}
    if result.memory is not None:
        sizes = {"ramBytes": result.memory.ram, "vramBytes": result.memory.vram}
        facts["memory"] = {name: size for name, size in sizes.items() if size is not None}
    if result.out_of_memory:
        facts["outOfMemory"] = [describe(plan) for plan in result.out_of_memory]
    return facts
