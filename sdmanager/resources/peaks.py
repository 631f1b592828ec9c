"""What earlier runs used of RAM and VRAM, kept between runs, so that the next one is planned by what is known."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_json

from ._peak_file import Entry, Kept, from_json, to_json
from .footprint import Learned, Peak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sdmanager.generation import MemoryPlan, MemoryUse

    from .footprint import Footprint
    from .supply import Supply

_Kind: TypeAlias = 'Literal["ram", "vram"]'
_Signature: TypeAlias = tuple[int, int, int]

# Of the way down to what the newest run used: half of a single odd run is gone after two or three.
_FALL: Final = 0.25

_LOCK_SECONDS: Final = 5.0

# What was short once may have been taken by others: it is tried again after so many other runs, or so long.
_SHORT_RUNS: Final = 5
_SHORT_SECONDS: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class PeakEntry:
    """What is known of one kind of run, to be shown.

    Attributes:
        model: Name of the model.
        backend: Variant of the engine.
        width: Of the picture, in pixels.
        height: Likewise.
        flags: ``MemoryPlan.key``.
        peak: What such runs used.
        recommended: Whether a calibration found these flags to be the best for this size.
    """

    model: str
    backend: str
    width: int
    height: int
    flags: str
    peak: Peak
    recommended: bool = False


class PeakStore:
    """Peaks by model, backend, size and memory flags, in a JSON file. Safe from threads and processes.

    A peak rises at once to what a run used, and comes down by a quarter of the difference with each run that used less:
    one odd run does not stay for ever. That memory ran out is forgotten after five runs of the model, of this size or
    larger, that gave their pictures with whatever flags, and after a week. The 200 kinds of run that were learned last
    are kept. A damaged file is forgotten, and one that cannot be written costs the lesson: nothing here raises.

    Reading takes well below a millisecond, and nothing but a look at the file's times where it has not changed.
    Learning waits for other processes that learn: call it beside an event loop.

    Args:
        path: Of the file; made on the first lesson. The lock beside it has its name with ``.lock`` added.
        now: The time, in seconds since 1970.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._cached: tuple[_Signature, Kept] | None = None
        self._lock = threading.Lock()

    def learned(self, model: str, backend: str) -> Learned:
        """What is known of a model, by ``ModelFiles.key``, with one variant of the engine."""
        kept, now = self._look(), self._now()
        return Learned(
            peaks={
                (entry.width, entry.height, entry.flags): peak
                for entry in kept.entries
                if (entry.model, entry.backend) == (model, backend)
                and (peak := faded(entry, now).peak) != Peak()
            },
            weights=kept.weights.get((model, backend)),
            recommended={
                (width, height): plan
                for (key, variant, width, height), plan in kept.recommended.items()
                if (key, variant) == (model, backend)
            },
        )

    def learn(self, footprint: Footprint, plan: MemoryPlan, use: MemoryUse) -> None:
        """Take in a run that gave its pictures.

        What it was seen to use stands in the place of what was too small before: it is the true peak.
        """

        def change(kept: Kept) -> None:
            kept.entries = [after_another(entry, footprint) for entry in kept.entries]
            old = kept.take(footprint, plan)
            kept.put(replace(old, name=footprint.name, peak=after_success(old.peak, use)))
            if use.weights:
                kept.weights.pop((footprint.model, footprint.backend), None)
                kept.weights[footprint.model, footprint.backend] = use.weights

        self._change(change)

    def learn_too_small(
        self, footprint: Footprint, plan: MemoryPlan, supply: Supply, *, kind: _Kind | None = None
    ) -> None:
        """Take in a run that ran out of memory.

        Args:
            footprint: What was run.
            plan: The flags.
            supply: What was free when it began.
            kind: Of which memory it ran out; None: of VRAM where the engine draws on a card with memory of its own,
                else of RAM. Where that cannot be told, nothing is learned.
        """

        def change(kept: Kept) -> None:
            old = kept.take(footprint, plan)
            seen_on_card = any(
                entry.peak.vram is not None
                for entry in kept.entries
                if (entry.model, entry.backend) == (footprint.model, footprint.backend)
            )
            short = kind or short_of(footprint, supply, seen_on_card=seen_on_card)
            peak = after_shortage(old.peak, supply, short)
            if short is not None:
                old = replace(old, short_at=max(int(self._now()), 1), since=0)
            kept.put(replace(old, name=footprint.name, peak=peak))

        self._change(change)

    def recommend(self, footprint: Footprint, plan: MemoryPlan) -> None:
        """Keep what a calibration found to be the best for this model, backend and size."""

        def change(kept: Kept) -> None:
            key = (footprint.model, footprint.backend, footprint.width, footprint.height)
            kept.recommended.pop(key, None)
            kept.recommended[key] = replace(plan, evictions=(), reasons=())

        self._change(change)

    def entries(self) -> list[PeakEntry]:
        """All that is known, the newest first."""
        kept, now = self._look(), self._now()
        return [
            PeakEntry(
                entry.name,
                entry.backend,
                entry.width,
                entry.height,
                entry.flags,
                entry.peak,
                recommended=entry.flags == kept.recommended_flags(entry),
            )
            for entry in (faded(entry, now) for entry in reversed(kept.entries))
            if entry.peak != Peak()
        ]

    def _look(self) -> Kept:
        """What the file holds; not to be changed."""
        signature = self._signature()
        if signature is None:
            return Kept()
        with self._lock:
            if self._cached is not None and self._cached[0] == signature:
                return self._cached[1]
        kept = from_json(read_json(self._path))
        with self._lock:
            self._cached = (signature, kept)
        return kept

    def _signature(self) -> _Signature | None:
        try:
            status = self._path.stat()
        except (OSError, ValueError):
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _change(self, change: Callable[[Kept], None]) -> None:
        with contextlib.suppress(StorageError, OSError), self._locked() as locked:
            if locked:
                kept, now = from_json(read_json(self._path)), self._now()
                kept.entries = [each for entry in kept.entries if (each := faded(entry, now)).peak != Peak()]
                change(kept)
                write_json(self._path, to_json(kept), durable=False)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether nobody else learns meanwhile."""
        from filelock import FileLock, Timeout

        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._path.with_name(self._path.name + ".lock"))
        try:
            lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.005)
        except (Timeout, NotImplementedError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def after_success(peak: Peak, use: MemoryUse) -> Peak:
    """What is known after one more run that gave its pictures."""
    return Peak(
        ram=_follow(peak.ram, use.ram),
        vram=_follow(peak.vram, use.vram),
        too_small_ram=peak.too_small_ram if use.ram is None else None,
        too_small_vram=peak.too_small_vram if use.vram is None else None,
        runs=peak.runs + 1,
    )


def after_shortage(peak: Peak, supply: Supply, kind: _Kind | None) -> Peak:
    """What is known after a run that ran out of this memory; None: nobody knows of which."""
    if kind == "vram":
        return replace(peak, too_small_vram=_larger(peak.too_small_vram, supply.vram_free))
    if kind == "ram":
        return replace(peak, too_small_ram=_larger(peak.too_small_ram, supply.ram_free))
    return peak


def after_another(entry: Entry, footprint: Footprint) -> Entry:
    """What is known of a kind of run after one more, of whatever kind, that gave its pictures."""
    here = (footprint.model, footprint.backend)
    if (entry.model, entry.backend) != here or not _was_short(entry.peak):
        return entry
    if entry.width * entry.height > footprint.width * footprint.height:
        return entry
    return replace(entry, since=entry.since + 1)


def faded(entry: Entry, now: float) -> Entry:
    """The same without a shortage that is too old to count, or came at a time that cannot be."""
    if not _was_short(entry.peak):
        return entry
    recent = entry.short_at is not None and abs(now - entry.short_at) < _SHORT_SECONDS
    if recent and entry.since < _SHORT_RUNS:
        return entry
    peak = replace(entry.peak, too_small_ram=None, too_small_vram=None)
    return replace(entry, peak=peak, short_at=None, since=0)


def short_of(footprint: Footprint, supply: Supply, *, seen_on_card: bool) -> _Kind | None:
    """Of which memory a run ran out.

    Args:
        footprint: What was run.
        supply: What there was.
        seen_on_card: Whether such an engine was seen to have graphics memory.
    """
    if supply.unified or footprint.on_gpu is False or supply.has_gpu is False:
        return "ram"
    # Of the user's own engine nobody knows where it draws, until it was seen to.
    return "vram" if footprint.on_gpu or seen_on_card else None


def _follow(old: int | None, seen: int | None) -> int | None:
    if old is None or seen is None:
        return seen if old is None else old
    return seen if seen >= old else old - round((old - seen) * _FALL)


def _was_short(peak: Peak) -> bool:
    return peak.too_small_ram is not None or peak.too_small_vram is not None


def _larger(old: int | None, seen: int | None) -> int | None:
    return max(old or 0, seen or 0) or None
