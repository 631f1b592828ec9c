"""``sdmanager calibrate``: which memory flags are the fastest for a model and a size on this machine."""

from __future__ import annotations

import argparse
import json
import math
import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from .calibration_lines import as_json, recommendation, shown, table
from .offloading import logs_as_notes
from .options import UNSET, add_model, components_of, model_of, settings_of
from .output import note, report_error, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn, Self

    from tqdm import tqdm

    from sdmanager.binaries import EngineProgress
    from sdmanager.engine import LocalGenerator
    from sdmanager.engine.measurements import CalibrationProgress, CalibrationReport, Measurement
    from sdmanager.generation import ImageRequest, MemoryPlan
    from sdmanager.models import ModelFiles
    from sdmanager.settings import Settings

_PROMPT: Final = "a lighthouse on a cliff at dusk, oil painting"
_SEED: Final = 42
_SIZE: Final = re.compile(r"([0-9]{1,6})x([0-9]{1,6})", re.IGNORECASE)

DEMO_NOTICE: Final = (
    "No model was given, so this measures the model 'demo', which says nothing of others: name one with -m."
)

# Names of flags as in MemoryPlan.key.
_SWITCHES: Final = {
    "offload-to-cpu": {"offload_to_cpu": True},
    "clip-on-cpu": {"clip_on_cpu": True},
    "vae-on-cpu": {"vae_on_cpu": True},
    "vae-tiling": {"vae_tiling": True},
    "diffusion-fa": {"diffusion_flash_attention": True},
    "no-diffusion-fa": {"diffusion_flash_attention": False},
    "stream-layers": {"stream_layers": True},
}
_BUDGET: Final = "max-vram"
_PLAIN: Final = "plain"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="find the fastest memory flags for a model and a size",
        description="Draws the same picture with one combination of memory flags after the other, shows what each "
        "takes, and recommends the fastest that works; where two are within 5 %, the one with fewer flags. Later "
        "pictures of that model and size start with it, unless --no-store is given.",
        epilog="Examples:  sdmanager calibrate -m sd-turbo --size 512x512 --steps 4   |   sdmanager calibrate -m "
        "sdxl-base --size 1024x1024 --runs 3 --combinations plain vae-tiling offload-to-cpu+vae-tiling",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=_calibrate)
    add_model(parser)
    picture = parser.add_argument_group("picture (what is not given is the model's own)")
    picture.add_argument("--size", metavar="WxH", help="such as 768x768", default=UNSET)
    picture.add_argument("--steps", metavar="N", type=int, help="sampling steps", default=UNSET)
    picture.add_argument("--prompt", metavar="TEXT", help="what to draw", default=_PROMPT)
    picture.add_argument("--seed", metavar="N", type=int, help="the same for all", default=_SEED)
    trying = parser.add_argument_group("what is tried")
    trying.add_argument("--runs", metavar="R", type=int, help="pictures for each combination", default=1)
    trying.add_argument(
        "--combinations", metavar="FLAGS", nargs="+", default=UNSET,
        help="plain, or flags joined by '+', such as offload-to-cpu+vae-tiling; those that suit the engine if absent",
    )  # fmt: skip
    trying.add_argument(
        "--store", action=argparse.BooleanOptionalAction, default=True,
        help="have later pictures of that model and size start with the recommended flags",
    )  # fmt: skip
    trying.add_argument("-t", "--threads", metavar="N", type=int, help="CPU threads", default=UNSET)
    trying.add_argument(
        "--ignore-fit", action="store_true", default=UNSET,
        help="try also what does not fit the memory",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object on stdout", default=UNSET)
    output.add_argument("--quiet", action="store_true", help="no bar, no notices", default=UNSET)


async def _calibrate(args: argparse.Namespace) -> int:
    import asyncio

    from sdmanager.engine import calibrate
    from sdmanager.resources import PeakStore
    from sdmanager.threads import in_thread

    given = vars(args)
    is_json = bool(given.get("json"))
    quiet = bool(given.get("quiet")) or is_json
    request = _request(given)
    plans = [plan_named(name) for name in given["combinations"]] if "combinations" in given else None
    settings = settings_of(given)
    model = await in_thread(model_of, given)
    if model is None and not quiet:
        note(DEMO_NOTICE)
    with logs_as_notes(quiet=quiet), _Bars(quiet=quiet) as bars:
        try:
            report = await calibrate(
                _maker(given, model, settings, bars.prepare),
                request,
                plans=plans,
                runs=args.runs,
                store=PeakStore(settings.memory_file) if args.store else None,
                on_progress=bars.show,
            )
        except asyncio.CancelledError:
            bars.close()
            if bars.measured and not quiet:  # minutes of work, and no command could ask for them again
                note("\n".join(table(bars.measured)))
            raise
    return _show(report, given, is_json=is_json)


def _maker(
    given: dict[str, object],
    model: str | ModelFiles | None,
    settings: Settings,
    on_prepare: Callable[[EngineProgress], None],
) -> Callable[[MemoryPlan], LocalGenerator]:
    from sdmanager.engine import LocalGenerator

    def make(plan: MemoryPlan) -> LocalGenerator:
        return LocalGenerator(
            model,
            settings=settings,
            plan=plan,
            threads=given.get("threads"),  # type: ignore[arg-type]
            ignore_fit="ignore_fit" in given,
            on_prepare=on_prepare,
        )

    return make


def _request(given: dict[str, object]) -> ImageRequest:
    from sdmanager.generation import ImageRequest

    fields: dict[str, object] = {name: given[name] for name in ("prompt", "seed", "steps") if name in given}
    if "size" in given:
        fields["width"], fields["height"] = _size(str(given["size"]))
    return ImageRequest(**fields)


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            f"The size {text[:40]!r} is not a width and a height.", hint="Write --size 768x768."
        )
    return int(match[1]), int(match[2])


def plan_named(name: str) -> MemoryPlan:
    """The flags that a word of ``--combinations`` stands for.

    Args:
        name: ``plain``, or names of flags joined by ``+`` or ``,``; ``max-vram=6`` has a number of GiB.

    Raises:
        InvalidRequestError: There is no such flag, or the number is none.
    """
    from sdmanager.generation import MemoryPlan

    if name == _PLAIN:
        return MemoryPlan()
    fields: dict[str, object] = {}
    for word in re.split(r"[+,]", name):
        flag, equals, value = word.strip().removeprefix("--").partition("=")
        if flag == _BUDGET:
            fields["max_vram_gib"] = _budget(value)
        elif flag in _SWITCHES and not equals:
            fields |= _SWITCHES[flag]
        else:
            known = ", ".join([_PLAIN, *_SWITCHES, f"{_BUDGET}=GIB"])
            raise InvalidRequestError(f"There is no memory flag {word[:40]!r}.", hint=f"There are: {known}.")
    return MemoryPlan(**fields)  # type: ignore[arg-type]


def _budget(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise InvalidRequestError(
            f"The VRAM budget {text[:40]!r} is no number of GiB.", hint=f"Write {_BUDGET}=6."
        )
    return value


def _show(report: CalibrationReport, given: dict[str, object], *, is_json: bool) -> int:
    error = report.error
    if is_json:
        say(json.dumps(as_json(report)))
    else:
        say("\n".join(table(report.measurements, report.recommended)))
        for line in recommendation(report, _model_options(given)):
            say(line)
    if error is None:
        return 0
    report_error(error, as_json=False)
    return error.exit_code


def _model_options(given: dict[str, object]) -> list[str]:
    model = ["-m", str(given["model"])] if "model" in given else []
    parts = [
        word
        for role, path in components_of(given).items()
        for word in (f"--{role.replace('_', '-')}", str(path))
    ]
    return model + parts + (["--allow-pickle"] if "allow_pickle" in given else [])


class _Bars:
    """First what getting an engine shows, then one bar for the whole calibration.

    Args:
        quiet: Show nothing.

    Attributes:
        measured: What is known so far.
    """

    def __init__(self, *, quiet: bool) -> None:
        from .bars import EngineBar

        self.measured: tuple[Measurement, ...] = ()
        self._quiet = quiet
        self._engine = EngineBar(quiet=quiet)
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, progress: EngineProgress) -> None:
        """Draw how far the getting of an engine is."""
        self._engine.show(progress)

    def show(self, progress: CalibrationProgress) -> None:
        """Draw how far the calibration is."""
        from .bars import new_bar

        self.measured = progress.measured
        if self._quiet:
            return
        if self._bar is None:
            self._engine.close()
            self._bar = new_bar("Calibrating", 100, "%")
            self._bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| {postfix}"
        self._bar.set_postfix_str(_doing(progress), refresh=False)
        self._bar.update(max(progress.percentage - self._bar.n, 0))
        self._bar.refresh()

    def close(self) -> None:
        """End the bar's line."""
        self._engine.close()
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _doing(progress: CalibrationProgress) -> str:
    run = "warming up" if not progress.run else f"{progress.index}/{progress.count} {shown(progress.plan)}"
    return f"{run} ({progress.run} of {progress.runs})" if progress.run and progress.runs > 1 else run
