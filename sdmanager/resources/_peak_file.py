"""The file of learned peaks: values and their JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sdmanager.generation import MemoryChoices, MemoryPlan

from .footprint import Peak

if TYPE_CHECKING:
    from .footprint import Footprint

_ENTRIES_MAX: Final = 200
_BYTES_MAX: Final = 16 << 40
_TEXT_MAX: Final = 1000
_SIDE_MAX: Final = 1 << 20
_RUNS_MAX: Final = 1 << 31
_SECONDS_MAX: Final = 1 << 40
_FLAGS: Final = tuple(each.name for each in fields(MemoryChoices))

_Model: TypeAlias = tuple[str, str]
_Sized: TypeAlias = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of run.

    Attributes:
        model: Key of the model's files.
        name: Of the model.
        backend: Variant of the engine.
        width: In pixels.
        height: Likewise.
        flags: ``MemoryPlan.key``.
        peak: What such runs used.
        short_at: When such a run last ran out of memory, in seconds since 1970; None: that is not known to count.
        since: Runs of the model, of this size or larger, that gave their pictures after that.
    """

    model: str
    name: str
    backend: str
    width: int
    height: int
    flags: str
    peak: Peak
    short_at: int | None = None
    since: int = 0

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """What no two entries have in common."""
        return self.model, self.backend, self.width, self.height, self.flags


@dataclass(slots=True)
class Kept:
    """All that is learned, the newest last.

    Attributes:
        entries: Kinds of runs.
        weights: Bytes that an engine said of a model.
        recommended: What calibrations found.
    """

    entries: list[Entry] = field(default_factory=list)
    weights: dict[_Model, int] = field(default_factory=dict)
    recommended: dict[_Sized, MemoryPlan] = field(default_factory=dict)

    def take(self, footprint: Footprint, plan: MemoryPlan) -> Entry:
        """Take an entry out, to be put back; a fresh one where there is none."""
        fresh = Entry(
            footprint.model,
            footprint.name,
            footprint.backend,
            footprint.width,
            footprint.height,
            plan.key,
            Peak(),
        )
        found = next((entry for entry in self.entries if entry.key == fresh.key), fresh)
        self.entries = [entry for entry in self.entries if entry.key != fresh.key]
        return found

    def put(self, entry: Entry) -> None:
        """Put an entry in as the newest, unless nothing is known of it."""
        if entry.peak != Peak():
            self.entries.append(entry)

    def recommended_flags(self, entry: Entry) -> str | None:
        """``MemoryPlan.key`` of what is recommended for such a run."""
        plan = self.recommended.get((entry.model, entry.backend, entry.width, entry.height))
        return plan.key if plan is not None else None


def to_json(kept: Kept) -> dict[str, object]:
    """Plain data, of which the oldest is left out where it is too much."""
    return {
        "runs": [_entry_json(entry) for entry in kept.entries[-_ENTRIES_MAX:]],
        "weights": [
            {"model": model, "backend": backend, "bytes": size}
            for (model, backend), size in list(kept.weights.items())[-_ENTRIES_MAX:]
        ],
        "recommended": [
            {
                "model": model,
                "backend": backend,
                "width": width,
                "height": height,
                "flags": {name: getattr(plan, name) for name in _FLAGS},
            }
            for (model, backend, width, height), plan in list(kept.recommended.items())[-_ENTRIES_MAX:]
        ],
    }


def from_json(data: object) -> Kept:
    """What a file held; what makes no sense in it is forgotten, and what is unknown left alone."""
    if not isinstance(data, dict):
        return Kept()
    entries = {entry.key: entry for raw in _objects(data, "runs") if (entry := _entry(raw)) is not None}
    weights = {
        (model, backend): size
        for raw in _objects(data, "weights")
        if (model := _text(raw, "model"))
        and (backend := _text(raw, "backend"))
        and (size := _number(raw, "bytes", _BYTES_MAX))
    }
    recommended = {
        (model, backend, width, height): plan
        for raw in _objects(data, "recommended")
        if (model := _text(raw, "model"))
        and (backend := _text(raw, "backend"))
        and (width := _number(raw, "width", _SIDE_MAX))
        and (height := _number(raw, "height", _SIDE_MAX))
        and (plan := _plan(raw.get("flags"))) is not None
    }
    return Kept(list(entries.values()), weights, recommended)


def _entry_json(entry: Entry) -> dict[str, object]:
    peak = entry.peak
    return {
        "model": entry.model,
        "name": entry.name,
        "backend": entry.backend,
        "width": entry.width,
        "height": entry.height,
        "flags": entry.flags,
        "ram": peak.ram,
        "vram": peak.vram,
        "too_small_ram": peak.too_small_ram,
        "too_small_vram": peak.too_small_vram,
        "runs": peak.runs,
        "short_at": entry.short_at,
        "since": entry.since,
    }


def _entry(raw: dict[str, Any]) -> Entry | None:
    model, backend, flags = (_text(raw, name) for name in ("model", "backend", "flags"))
    width, height = (_number(raw, name, _SIDE_MAX) for name in ("width", "height"))
    if not (model and backend and flags and width and height):
        return None
    ram, vram, small_ram, small_vram = (
        _number(raw, name, _BYTES_MAX) for name in ("ram", "vram", "too_small_ram", "too_small_vram")
    )
    peak = Peak(ram, vram, small_ram, small_vram, _number(raw, "runs", _RUNS_MAX) or 0)
    name = _text(raw, "name") or model.rpartition(":")[0] or model
    at, since = _number(raw, "short_at", _SECONDS_MAX), _number(raw, "since", _RUNS_MAX) or 0
    found = Entry(model, name, backend, width, height, flags, peak, at, since)
    return found if peak != Peak() else None


def _plan(raw: object) -> MemoryPlan | None:
    """The plan of these flags; None where one of those that are known has a value that it cannot have."""
    if not isinstance(raw, dict):
        return None
    flags: dict[str, Any] = {}
    for name in _FLAGS:
        value = raw.get(name)
        if name == "max_vram_gib":
            sensible = value is None or (
                isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1 << 20
            )
        else:
            sensible = value is None or isinstance(value, bool)
        if not sensible:
            return None
        if value is not None:
            flags[name] = value
    return MemoryPlan(**flags)


def _objects(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = data.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= _TEXT_MAX else None


def _number(raw: dict[str, Any], name: str, most: int) -> int | None:
    value = raw.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None
