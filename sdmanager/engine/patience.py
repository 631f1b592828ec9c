"""How long to wait for an engine that may hang: policy alone, without a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

    from sdmanager.process import Activity

# A judgement: disks, network shares among them, that deliver less make nobody wait for a proof.
_SLOW_DISK: Final = 10_000_000
_USUAL_DISK: Final = 100_000_000
_CPU_SHARE: Final = 0.01
_QUIET: Final = 20.0
_LONG_READ: Final = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """When a run counts as hung, and when only as slow.

    A run hangs when it neither prints nor reads nor computes for ``quiet`` seconds, or when it computes for
    ``work`` seconds without printing or reading anything. As long as it gets on, however slowly, it may.

    Attributes:
        quiet: Seconds without any sign of life.
        work: Seconds without progress while it computes, or waits for a disk or a driver.
        slow_after: Seconds after which a run that ended well is called slow.
        every: Seconds between two samples, which cost a look at all processes.
    """

    quiet: float = _QUIET
    work: float = 120.0
    slow_after: float = 20.0
    every: float = 0.5

    @classmethod
    def for_model(cls, model_bytes: int, *, on_gpu: bool) -> Self:
        """What a proof with a model of this size may take.

        Args:
            model_bytes: Size of all files of the model.
            on_gpu: A driver may compile its programs at the first use, which takes minutes.
        """
        base = 300.0 if on_gpu else 120.0
        return cls(
            # Where a read is only accounted for when it is over, one of a large part looks like silence.
            quiet=_QUIET + min(model_bytes / _USUAL_DISK, _LONG_READ),
            work=base + model_bytes / _SLOW_DISK,
            slow_after=(60.0 if on_gpu else 20.0) + model_bytes / _USUAL_DISK,
        )


class Watch:
    """Judges samples of one run.

    Args:
        patience: Limits.
        now: Seconds on the clock that all samples use.
    """

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._printed = 0
        self._last: Activity | None = None
        self._sampled = self._sign = self._progress = now

    def feed(self, now: float, printed: int, activity: Activity | None) -> str | None:
        """Take one sample.

        Args:
            now: When it was taken.
            printed: Bytes that were printed so far.
            activity: What the process did so far; None where that cannot be told, which counts as life.

        Returns:
            Why the run counts as hung, as a clause, or None while it may go on.
        """
        last = self._last or activity
        if printed > self._printed or _has_read(last, activity):
            self._progress = self._sign = now
        elif (
            activity is None
            or last is None
            or activity.read_bytes is None  # it may be waiting for a disk, for all we know
            or activity.waits_for_disk
            or activity.cpu_seconds - last.cpu_seconds > _CPU_SHARE * (now - self._sampled)
        ):
            self._sign = now
        self._printed, self._sampled = printed, now
        self._last = activity or self._last
        if now - self._sign > self._patience.quiet:
            return f"gave no sign of life for {self._patience.quiet:.0f} s"
        if now - self._progress > self._patience.work:
            return f"made no progress for {self._patience.work:.0f} s"
        return None


def _has_read(before: Activity | None, now: Activity | None) -> bool:
    if before is None or now is None or before.read_bytes is None or now.read_bytes is None:
        return False
    return now.read_bytes > before.read_bytes
