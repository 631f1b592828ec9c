"""How far a run is and how long it will take: pure arithmetic over what the parser tells.

A run is a plan of seconds: loading, then ``count x steps`` sampling steps, then ``count`` decodings. Learned
seconds (``Estimate``) give the parts their true weight; without them typical shares stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.generation import Stage, StageTimings

from . import output as out

if TYPE_CHECKING:
    from .output import EngineOutput

# Shares of a run about which nothing is known yet.
_LOADING_SHARE: Final = 0.10
_DECODING_SHARE: Final = 0.10

# What is shown before the end: 100 is for a picture that has been checked.
_CEILING: Final = 99.0

# How much of the loading part a full bar is worth: text encoding follows it.
_LOADED_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Learned seconds of one kind of run.

    Attributes:
        loading: From the start to the first sampling step's beginning.
        step: One sampling step.
        decoding: One picture.
    """

    loading: float
    step: float
    decoding: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a ``Progress`` event says, before it is stamped."""

    stage: Stage
    step: int
    total_steps: int
    percentage: float
    image: int
    total_images: int
    seconds_per_step: float | None
    eta_seconds: float | None


class ProgressTracker:
    """Follows one run.

    Args:
        steps: Sampling steps asked for, per image.
        count: Images asked for.
        estimate: What was learned from earlier runs like this one, if anything.
    """

    def __init__(self, steps: int, count: int, estimate: Estimate | None) -> None:
        self._steps = steps
        self._count = count
        self._estimate = estimate
        self.stage = Stage.LOADING
        self._before_load: Stage | None = None
        self._stage_since = 0.0
        self._spent = dict.fromkeys(Stage, 0.0)
        self._load_fraction = 0.0
        self._image = 0
        self._step = 0
        self._steps_done = 0
        self._decoded = 0
        self._percentage = 0.0
        self._loading_until: float | None = None
        self._sampling_since = 0.0
        self._sampled_before = 0.0
        self._sampled_seconds = 0.0

    def feed(self, event: EngineOutput, now: float) -> Snapshot | None:
        """Take one fact in; the progress it makes, or None where nothing changes for the user.

        Args:
            event: From the parser.
            now: Seconds since the run began.
        """
        match event:
            case out.LoadProgress(done, total):
                return self._on_load(done, total, now)
            case out.LoadCompleted():
                return self._on_loaded(now)
            case out.ImageStarted(index):
                if self._loading_until is None:
                    self._loading_until = now
                self._enter(Stage.DIFFUSION, now)
                self._image, self._step = index, 0
                self._sampling_since, self._sampled_before = now, self._sampled_seconds
                return self._snapshot(now)
            case out.Step(step, total):
                self._before_load = None
                self._enter(Stage.DIFFUSION, now)
                if step == 1:  # image-to-image samples fewer steps than were asked for
                    self._steps = total
                self._step = step
                self._steps_done = (max(self._image, 1) - 1) * self._steps + step
                self._sampled_seconds = self._sampled_before + now - self._sampling_since
                return self._snapshot(now)
            case out.DecodingStarted():
                self._before_load = None
                self._enter(Stage.DECODING, now)
                return self._snapshot(now)
            case out.LatentDecoded(index):
                self._decoded = index
                self._enter(Stage.DECODING, now)
                return self._snapshot(now)
            case _:
                return None

    def finish(self, now: float) -> Snapshot:
        """The last snapshot of a run whose pictures have been checked: 100 per cent."""
        self._spent[self.stage] += now - self._stage_since
        self._stage_since = now
        self._percentage = 100.0
        return Snapshot(self.stage, *self._counts(), 100.0, self._count, self._count, None, 0.0)

    @property
    def timings(self) -> StageTimings:
        """Seconds spent in each stage so far."""
        return StageTimings(
            self._spent[Stage.LOADING], self._spent[Stage.DIFFUSION], self._spent[Stage.DECODING]
        )

    def learned(self) -> Estimate | None:
        """What this run, once finished, teaches about the next one like it; None if it was not seen whole."""
        if self._loading_until is None or not self._steps_done or not self._decoded:
            return None
        return Estimate(
            loading=self._loading_until,
            step=self._sampled_seconds / self._steps_done,
            decoding=self._spent[Stage.DECODING] / self._decoded,
        )

    def _enter(self, stage: Stage, now: float) -> None:
        if stage is not self.stage:
            self._spent[self.stage] += now - self._stage_since
            self._stage_since = now
            self.stage = stage

    def _on_load(self, done: int, total: int, now: float) -> Snapshot | None:
        # Newer engines load each part when it is first needed, so that loading may come back in a later stage.
        # A bar that is full when it first shows is over and not worth a change of stage.
        if self.stage is not Stage.LOADING and done < total:
            self._before_load = self.stage
            self._enter(Stage.LOADING, now)
        if self.stage is not Stage.LOADING:
            return None
        if self._loading_until is None and total:
            self._load_fraction = max(self._load_fraction, done / total)
        return self._snapshot(now, loaded=(done, total))

    def _on_loaded(self, now: float) -> Snapshot | None:
        if self._image and not self._step:
            # Weights that came before an image's first step are no part of its steps.
            self._sampling_since = now
            if self._image == 1:
                self._loading_until = now
        if self._before_load is None:
            return None
        self._enter(self._before_load, now)
        self._before_load = None
        return self._snapshot(now)

    def _counts(self) -> tuple[int, int]:
        if self.stage is Stage.DECODING:
            return self._decoded, self._count
        return self._step, self._steps if self.stage is Stage.DIFFUSION else 0

    def _snapshot(self, now: float, loaded: tuple[int, int] | None = None) -> Snapshot:
        step_seconds = self._seconds_per_step()
        percentage = 100.0 * self._fraction(now, step_seconds)
        self._percentage = max(self._percentage, min(percentage, _CEILING))
        step, total = loaded or self._counts()
        return Snapshot(
            self.stage,
            step,
            total,
            round(self._percentage, 1),
            max(self._image, 1) if self.stage is not Stage.DECODING else min(self._decoded + 1, self._count),
            self._count,
            step_seconds if self.stage is Stage.DIFFUSION and self._step else None,
            self._eta(now, step_seconds),
        )

    def _seconds_per_step(self) -> float | None:
        if self._steps_done:
            return self._sampled_seconds / self._steps_done
        return self._estimate.step if self._estimate else None

    def _fraction(self, now: float, step_seconds: float | None) -> float:
        all_steps = self._steps * self._count
        if self._estimate is None:
            sampling = 1.0 - _LOADING_SHARE - _DECODING_SHARE
            loading = 1.0 if self._loading_until is not None else self._load_fraction * _LOADED_SHARE
            return (
                loading * _LOADING_SHARE
                + self._steps_done / all_steps * sampling
                + self._decoded / self._count * _DECODING_SHARE
            )
        step = step_seconds or self._estimate.step
        decode = self._estimate.decoding
        if self._loading_until is None:
            done = min(now, self._estimate.loading)
            total = self._estimate.loading + all_steps * step + self._count * decode
        else:
            done = self._loading_until + self._steps_done * step + self._decoded * decode
            total = self._loading_until + all_steps * step + self._count * decode
        return done / total if total > 0 else 0.0

    def _eta(self, now: float, step_seconds: float | None) -> float | None:
        if step_seconds is None:
            return None
        loading = 0.0
        if self._loading_until is None:
            loading = max((self._estimate.loading if self._estimate else 0.0) - now, 0.0)
        steps_left = self._steps * self._count - self._steps_done
        # Nothing known of decoding: one step is a fair first guess of it.
        decoding = self._estimate.decoding if self._estimate else step_seconds
        return round(loading + steps_left * step_seconds + (self._count - self._decoded) * decoding, 2)
