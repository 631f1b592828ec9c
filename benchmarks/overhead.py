"""What a generation costs beyond the engine itself.

`generate_image` in a warm process against `sd-cli` with exactly the same arguments, started by `subprocess` in a
fresh folder of its own with its output thrown away: the cheapest way there is to run it. A third comparison is
with an engine that only replays a recorded output: it shows the same cost without the noise of real work.

Each round runs the bare engine twice. What it seems to add to itself (`…_noise`) is 0 on an ideal machine: a
difference or a ratio no larger than that tells nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _common import ROOT, Figure, Options, Pairs, Report, by_turns, main, real_engine
from PIL import Image

from sdmanager import ImageRequest, generate_image
from sdmanager.binaries import find_engine
from sdmanager.engine.arguments import build_invocation
from sdmanager.generation import MemoryPlan
from sdmanager.models import ModelFiles, Role, demo_model
from sdmanager.process import child_environment
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDED_MS = 40.0
RATIO = 1.03


# Answers as sd-cli does; a drawing is a recorded output and a picture that is there already.
REPLAY = """\
#!/bin/sh
case "$1" in
-h) exec cat {help} ;;
--version) exec echo 'stable-diffusion.cpp version unknown, commit unknown' ;;
esac
case "$*" in  # the proof is smaller than what is measured
*"-W 64 -H 64"*) cp {small} o_0.png ;;
*) cp {picture} o_0.png ;;
esac
exec cat {output}
"""


def measure(options: Options) -> Report:
    """Both sizes of the target, and the cost alone."""
    report = Report()
    with replaying_engine() as (settings, model):
        request = ImageRequest(prompt="a lighthouse at dusk", width=256, height=256, steps=3, seed=7)
        pairs, control = compare(request, model, settings, 2 if options.quick else 5 * options.runs)
        report.figures["replaying_engine_added"] = Figure(pairs.added_ms, "ms", at_most=ADDED_MS)
        report.figures["replaying_engine_noise"] = Figure(control.added_ms, "ms")
        report.details["replaying_engine"] = pairs.to_json()
    with real_engine() as settings:
        for size, steps in ((64, 4),) if options.quick else ((64, 4), (256, 12)):
            request = ImageRequest(
                prompt="a lighthouse at dusk", width=size, height=size, steps=steps, cfg_scale=1.0, seed=7
            )
            pairs, control = compare(request, demo_model(settings), settings, options.runs)
            name = f"{size}x{size}_{steps}_steps"
            report.figures[f"{name}_added"] = Figure(pairs.added_ms, "ms", at_most=ADDED_MS)
            report.figures[f"{name}_ratio"] = Figure(pairs.ratio, "ratio", at_most=RATIO)
            report.figures[f"{name}_noise"] = Figure(control.added_ms, "ms")
            report.details[name] = pairs.to_json() | {"noise": control.to_json()}
    return report


@contextmanager
def replaying_engine() -> Iterator[tuple[Settings, ModelFiles]]:
    """Settings with an engine that does no work, and a model for it."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        folder = Path(name)
        picture, small, program = folder / "picture.png", folder / "small.png", folder / "sd-cli"
        for path, size in ((picture, 256), (small, 64)):
            Image.effect_noise((size, size), 60).convert("RGB").save(path)
        data = ROOT / "tests" / "data"
        files = {
            "help": data / "help" / "pypi-0.4.7.txt",
            "output": data / "transcripts" / "pypi-0.4.7" / "txt2img.stdout",
            "picture": picture,
            "small": small,
        }
        program.write_text(REPLAY.format(**{key: shlex.quote(str(path)) for key, path in files.items()}))
        program.chmod(0o755)
        settings = Settings(folder / "data", folder / "cache", folder / "state", engine=program)
        yield settings, ModelFiles("replayed", {Role.MODEL: picture})


def compare(request: ImageRequest, model: ModelFiles, settings: Settings, runs: int) -> tuple[Pairs, Pairs]:
    """Both ways by turns, after one of each that does not count; and the bare one against itself."""
    engine = asyncio.run(find_engine(settings))
    invocation = build_invocation(request, model, MemoryPlan(), engine.capabilities)
    argv = [str(engine.path), *invocation.arguments]
    bare = partial(run_bare, argv, invocation.texts)
    ours = partial(run_ours, request, model, settings)
    ours()
    bare()
    first, judged, second = by_turns(runs, [bare, ours, bare])
    return Pairs(first, judged), Pairs(first, second)


def run_bare(argv: list[str], texts: dict[str, str]) -> float:
    """Seconds that the engine itself takes."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(text)
        began = time.perf_counter()
        subprocess.run(
            argv,
            cwd=folder,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            # As ours has: Linux shares the processors out by session first, so that on a busy machine a child
            # in the session of this process would get less of them.
            start_new_session=True,
        )
        return time.perf_counter() - began


def run_ours(request: ImageRequest, model: ModelFiles, settings: Settings) -> float:
    """Seconds until the checked picture is there."""
    began = time.perf_counter()
    generate_image(request, model=model, settings=settings)
    return time.perf_counter() - began


if __name__ == "__main__":
    main("overhead", __doc__, measure, runs=15)
