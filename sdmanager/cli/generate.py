"""``sdmanager generate``: a prompt becomes a picture."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from .output import numbered, say

if TYPE_CHECKING:
    from sdmanager.generation import Event, GeneratedImage, GenerationResult, ImageRequest, MemoryPlan
    from sdmanager.models import ModelFiles

    from .previews import PreviewKeeper

_PREVIEW_METHODS: Final = ("none", "auto", "proj", "tae", "vae")
_COMPONENTS: Final = ("diffusion_model", "clip_l", "clip_g", "t5xxl", "llm", "vae", "tae")
_MODEL_URL: Final = "https://huggingface.co/Green-Sky/SD-Turbo-GGUF/resolve/main/sd_turbo-f16-q8_0.gguf"

# Options that are not given are not there at all, and show no "(default: …)" in the help.
_UNSET: Final = argparse.SUPPRESS

DEMO_NOTICE: Final = (
    "No model was given, so this picture is noise from the model 'demo'. For a real one: "
    f"curl -LO {_MODEL_URL}  and add  -m sd_turbo-f16-q8_0.gguf --steps 4 --cfg-scale 1"
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "generate",
        help="draw a picture",
        description="Draws a picture with stable-diffusion.cpp on this machine. The first run fetches or builds "
        "the engine, once. Ctrl-C cancels and leaves nothing but the previews that were asked for.",
        epilog="Examples:  sdmanager generate 'a lighthouse at dusk' -o lighthouse.png   |   sdmanager generate "
        "'a cat' -m sd_turbo-f16-q8_0.gguf --steps 4 --cfg-scale 1 --count 4 -o cat.png --timelapse cat.webp",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.set_defaults(run=_generate)
    for add_group in (_add_output, _add_model, _add_picture, _add_start, _add_previews, _add_memory):
        add_group(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("output.png"),
        help="png, jpg or webp; several images become FILE_0, FILE_1, …; replaced only by a whole picture",
    )  # fmt: skip
    output.add_argument("--json", action="store_true", help="print one JSON object on stdout", default=_UNSET)
    output.add_argument("--quiet", action="store_true", help="no bars, no notices", default=_UNSET)
    output.add_argument("--verbose", action="store_true", help="show all the engine prints", default=_UNSET)


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model (without one: 'demo', made locally, whose pictures are noise)")
    model.add_argument("-m", "--model", metavar="FILE", help="a whole model, or 'demo'", default=_UNSET)
    for name in _COMPONENTS:
        model.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="FILE",
            type=Path,
            default=_UNSET,
            help=_COMPONENT_HELP[name],
        )


def _add_picture(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group(
        "picture (what is not given is the model's own, else the default here)"
    )
    picture.add_argument("-n", "--negative-prompt", metavar="TEXT", help="what to keep out", default=_UNSET)
    picture.add_argument("-W", "--width", metavar="PX", type=int, help="64-4096, by 8; 512", default=_UNSET)
    picture.add_argument("-H", "--height", metavar="PX", type=int, help="64-4096, by 8; 512", default=_UNSET)
    picture.add_argument("--steps", metavar="N", type=int, help="sampling steps; 20", default=_UNSET)
    picture.add_argument("--cfg-scale", metavar="X", type=float, help="guidance; 7.5", default=_UNSET)
    picture.add_argument(
        "--seed", metavar="N", type=int, help="chosen and reported if absent", default=_UNSET
    )
    picture.add_argument("--sampler", metavar="NAME", help="the engine's name, e.g. euler_a", default=_UNSET)
    picture.add_argument("--scheduler", metavar="NAME", help="the engine's name, e.g. karras", default=_UNSET)
    picture.add_argument("--clip-skip", metavar="N", type=int, help="CLIP layers to ignore", default=_UNSET)
    picture.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=_UNSET,
        help="1-5 images, seeds N, N+1, …, after one load; 1",
    )


def _add_start(parser: argparse.ArgumentParser) -> None:
    start = parser.add_argument_group("starting from a picture")
    start.add_argument(
        "--init-image", metavar="FILE", type=Path, default=_UNSET,
        help="picture to start from; gives the size where none is given",
    )  # fmt: skip
    start.add_argument(
        "--mask", metavar="FILE", type=Path, help="white marks what is redrawn", default=_UNSET
    )
    start.add_argument(
        "--strength", metavar="X", type=float, help="0-1, how far from it; 0.75", default=_UNSET
    )


def _add_previews(parser: argparse.ArgumentParser) -> None:
    previews = parser.add_argument_group("watching it form")
    previews.add_argument(
        "--preview", choices=_PREVIEW_METHODS, default=_UNSET,
        help="proj: nearly free, one eighth of the size; tae, vae: sharp and dear; auto",
    )  # fmt: skip
    previews.add_argument("--preview-stride", metavar="N", type=int, help="steps between two", default=_UNSET)
    previews.add_argument(
        "--preview-dir", metavar="DIR", type=Path, help="keep the previews here", default=_UNSET
    )
    previews.add_argument(
        "--timelapse", metavar="FILE", type=Path, default=_UNSET,
        help="webp or gif: one animation of the previews and the picture",
    )  # fmt: skip


def _add_memory(parser: argparse.ArgumentParser) -> None:
    memory = parser.add_argument_group("memory and speed")
    memory.add_argument("--offload-to-cpu", action="store_true", help="weights stay in RAM", default=_UNSET)
    memory.add_argument("--clip-on-cpu", action="store_true", help="text encoder on the CPU", default=_UNSET)
    memory.add_argument("--vae-on-cpu", action="store_true", help="VAE on the CPU", default=_UNSET)
    memory.add_argument("--vae-tiling", action="store_true", help="decode in tiles", default=_UNSET)
    memory.add_argument(
        "--diffusion-fa", action="store_true", help="flash attention in the diffusion model", default=_UNSET
    )
    memory.add_argument("--max-vram", metavar="GIB", type=float, help="VRAM budget", default=_UNSET)
    memory.add_argument("-t", "--threads", metavar="N", type=int, help="CPU threads", default=_UNSET)


_COMPONENT_HELP: Final = {
    "diffusion_model": "the diffusion model alone, with parts below",
    "clip_l": "text encoder CLIP-L",
    "clip_g": "text encoder CLIP-G",
    "t5xxl": "text encoder T5-XXL",
    "llm": "text encoder that is a language model",
    "vae": "VAE",
    "tae": "tiny autoencoder (TAESD) for previews",
}


async def _generate(args: argparse.Namespace) -> int:
    from sdmanager.engine import LocalGenerator

    from .bars import EngineBar, StageBars
    from .previews import PreviewKeeper

    given = vars(args)
    quiet = bool(given.get("quiet") or given.get("json"))
    keeper = PreviewKeeper.from_options(
        given.get("preview"), given.get("preview_dir"), given.get("timelapse"), given.get("preview_stride")
    )
    request = _request(given, keeper)
    targets = _targets(args.output, request.count)
    keeper.check_targets(targets)
    model = _model(given)
    engine_bar = EngineBar(quiet=quiet)
    generator = LocalGenerator(
        model,
        plan=_plan(given),
        threads=given.get("threads"),
        on_prepare=engine_bar.show,
        on_output=_print_output if given.get("verbose") else None,
    )
    try:
        await generator.prepare()
    finally:
        engine_bar.close()
    if model is None and not quiet:
        print(DEMO_NOTICE, file=sys.stderr)
    keeper.make_folder()
    with StageBars(quiet=quiet or bool(given.get("verbose"))) as bars:

        def on_event(event: Event) -> None:
            bars.show(event)
            keeper.take(event)

        result = await generator.generate(request, on_event)
    for image, target in zip(result.images, targets, strict=True):
        image.save(target)
    keeper.finish(result)
    _report(result, targets, keeper, as_json=bool(given.get("json")), quiet=quiet)
    return 0


def _request(given: dict[str, object], keeper: PreviewKeeper) -> ImageRequest:
    from sdmanager.generation import ImageRequest

    names = (
        "prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "seed", "sampler", "scheduler",
        "clip_skip", "count", "init_image", "strength",
    )  # fmt: skip
    fields = {name: given[name] for name in names if name in given}
    if "mask" in given:
        fields["mask_image"] = given["mask"]
    if keeper.options is not None:
        fields["previews"] = keeper.options
    return ImageRequest(**fields)


def _model(given: dict[str, object]) -> str | ModelFiles | None:
    from sdmanager.files import expanded
    from sdmanager.models import DEMO_NAME, ModelFiles, Role

    components = {Role(name): given[name] for name in _COMPONENTS if name in given}
    model = given.get("model")
    if not components:
        return model  # type: ignore[return-value]
    if model == DEMO_NAME:
        raise InvalidRequestError(
            "The demo model takes no parts.", hint="Leave '-m demo' out, or name a model file."
        )
    if model is not None:
        components[Role.MODEL] = model
    files = {role: expanded(str(path)) for role, path in components.items()}
    main_file = files.get(Role.MODEL) or files.get(Role.DIFFUSION_MODEL)
    return ModelFiles(main_file.stem if main_file else "", files)


def _plan(given: dict[str, object]) -> MemoryPlan:
    from sdmanager.generation import MemoryPlan

    return MemoryPlan(
        offload_to_cpu=bool(given.get("offload_to_cpu")),
        clip_on_cpu=bool(given.get("clip_on_cpu")),
        vae_on_cpu=bool(given.get("vae_on_cpu")),
        vae_tiling=bool(given.get("vae_tiling")),
        diffusion_flash_attention=bool(given.get("diffusion_fa")),
        max_vram_gib=given.get("max_vram"),  # type: ignore[arg-type]
    )


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


def _report(
    result: GenerationResult, targets: list[Path], keeper: PreviewKeeper, *, as_json: bool, quiet: bool
) -> None:
    def describe(image: GeneratedImage, path: Path) -> dict[str, object]:
        return {
            "path": os.fspath(path.absolute()),
            "seed": image.seed,
            "width": image.width,
            "height": image.height,
        }

    pairs = list(zip(result.images, targets, strict=True))
    if as_json:
        timings = result.timings
        say(
            json.dumps(
                {
                    "images": [describe(image, path) for image, path in pairs],
                    "timeTaken": round(result.time_taken * 1000),
                    "timings": {
                        "loading": round(timings.loading * 1000),
                        "diffusion": round(timings.diffusion * 1000),
                        "decoding": round(timings.decoding * 1000),
                    },
                    "model": result.model,
                    "variant": result.variant,
                    **keeper.as_json(),
                }
            )
        )
    elif not quiet:
        for image, path in pairs:
            say(f"{path}  {image.width}x{image.height}  seed {image.seed}  {result.time_taken:.1f} s")
        for line in keeper.describe():
            say(line)
