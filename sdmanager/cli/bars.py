"""What is shown while the user waits: one bar per stage."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tqdm import tqdm

    from sdmanager.binaries import EngineProgress
    from sdmanager.generation import Event, Stage

_TITLES: Final = {
    "offloading": "Making room",
    "loading": "Loading",
    "diffusion": "Drawing",
    "decoding": "Decoding",
}
_UNITS: Final = {"offloading": "program", "loading": "tensor", "diffusion": "step", "decoding": "image"}
_WIDTH: Final = 11

# Phases of getting an engine that can be counted: title and unit.
_COUNTED: Final = {
    "downloading": ("Downloading", "B"),
    "unpacking": ("Unpacking", "B"),
    "compiling": ("Compiling", "file"),
}


def _knows_its_size() -> bool:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def new_bar(title: str, total: int, unit: str) -> tqdm[NoReturn]:
    """A bar on stderr, where that is a terminal.

    Args:
        title: What stands before it.
        total: Of how many; 0 while unknown.
        unit: Of what.
    """
    from tqdm import tqdm

    # disable=None: nothing is drawn where stderr is no terminal.
    return tqdm(
        total=total or None,
        desc=f"{title:<{_WIDTH}}",
        unit=unit,
        unit_scale=unit == "B",
        file=sys.stderr,
        disable=None,
        # A terminal that does not know its size says 0, and tqdm would then draw nothing.
        **({"dynamic_ncols": True} if _knows_its_size() else {"ncols": 79, "nrows": 24}),
        mininterval=0.05,
    )


class StageBars:
    """A bar for each stage of a generation, with its rate and the time left for the whole.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._key: tuple[Stage, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def show(self, event: Event) -> None:
        """Draw what an event says."""
        from sdmanager.generation import ImageGenerationProgress, Progress

        if self._quiet or not isinstance(event, Progress):
            return
        is_sampling = event.stage == "diffusion"
        key = (event.stage, event.image if is_sampling else 0)
        if key != self._key:
            self._close()
            title = _TITLES[event.stage]
            if is_sampling and event.total_images > 1:
                title = f"Image {event.image}/{event.total_images}"
            self._bar = new_bar(title, event.total_steps, _UNITS[event.stage])
            self._key = key
        bar = self._bar
        if bar is None:
            return
        if event.total_steps:
            bar.total = event.total_steps
        progress = ImageGenerationProgress.of(event)
        if progress.remaining_text:
            bar.set_postfix_str(f"{progress.percent}% of all, {progress.remaining_text}", refresh=False)
        bar.update(max(event.step - bar.n, 0))
        bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class EngineBar:
    """A line for each phase of getting an engine, and a bar where it can be counted.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._phase: tuple[str, str] | None = None

    def show(self, progress: EngineProgress) -> None:
        """Draw what is going on."""
        if self._quiet:
            return
        counted = progress.phase in _COUNTED
        # The message of a compiler's step is the step's own: it does not begin another phase.
        phase = (progress.phase, "" if progress.phase == "compiling" else progress.message)
        if phase != self._phase:
            self.close()
            self._phase = phase
            print(_headline(progress), file=sys.stderr)
            if counted:
                title, unit = _COUNTED[progress.phase]
                self._bar = new_bar(title, progress.total, unit)
        if self._bar is not None:
            self._bar.total = progress.total or None
            self._bar.update(max(progress.step - self._bar.n, 0))

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _headline(progress: EngineProgress) -> str:
    match progress.phase:
        case "compiling":
            return "Compiling stable-diffusion.cpp (once; a few minutes, for CUDA many)"
        case "downloading" if progress.total:
            return f"Downloading: {progress.message} ({progress.total / 1e6:.0f} MB)"
        case "rejected":
            return f"Not usable here: {progress.message}"
        case phase:
            return f"{phase.capitalize()}: {progress.message}"
