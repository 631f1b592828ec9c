"""What a calibration found, as a table, as a sentence and as JSON."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from .output import megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdmanager.engine.measurements import CalibrationReport, Measurement
    from sdmanager.errors import SDManagerError
    from sdmanager.generation import MemoryPlan

_HEADER: Final = ("flags", "loading", "diffusion", "decoding", "total", "RAM", "VRAM", "")
_UNKNOWN: Final = "-"


def table(measurements: Iterable[Measurement], recommended: MemoryPlan | None = None) -> list[str]:
    """A line for each combination under a header, in columns, and below it one for each that failed.

    Args:
        measurements: What was measured.
        recommended: Which of them is marked.
    """
    measurements = list(measurements)
    rows = [_HEADER, *(_row(each, each.plan == recommended) for each in measurements)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in {0, len(_HEADER) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return lines + [
        f"{shown(each.plan)}: {each.error.message}" for each in measurements if each.error is not None
    ]


def _row(measurement: Measurement, is_best: bool) -> tuple[str, ...]:
    error, timings, memory = measurement.error, measurement.timings, measurement.memory
    drew = measurement.total is not None
    stages = (timings.loading, timings.diffusion, timings.decoding)
    verdict = "recommended" if is_best else "works"
    if error is not None:
        verdict = error.code.replace("_", " ").lower()
    return (
        shown(measurement.plan),
        *(_seconds(value) if drew else _UNKNOWN for value in stages),
        _seconds(measurement.total),
        *(_UNKNOWN if size is None else megabytes(size) for size in (memory.ram, memory.vram)),
        verdict,
    )


def shown(plan: MemoryPlan) -> str:
    """Flags as people read them; ``plain`` for none."""
    return " ".join(plan.flags) or plan.key


def recommendation(report: CalibrationReport, model: Sequence[str]) -> list[str]:
    """A sentence with what is recommended, and the command that draws so.

    Args:
        report: In which something is recommended.
        model: The options that name the model.
    """
    plan = report.recommended
    measurement = report.measurement_of(plan) if plan is not None else None
    if plan is None or measurement is None:
        return []
    flags = " ".join(plan.flags) or "no flags at all"
    kept = "; later pictures of this model and size start with this" if report.stored else ""
    size = f"{report.width}x{report.height}"
    command = shlex.join(
        ["sdmanager", "generate", "PROMPT", *model]
        + ["-W", str(report.width), "-H", str(report.height), "--steps", str(report.steps)]
        + [word for flag in plan.flags for word in flag.split()]
    )
    return [
        f"Recommended for {size} with the {report.variant} engine: {flags}, {_seconds(measurement.total)} "
        f"a picture{kept}.",
        f"  {command}",
    ]


def as_json(report: CalibrationReport) -> dict[str, object]:
    """All of it as plain data; times in milliseconds, sizes in bytes."""
    best = report.recommended
    facts: dict[str, object] = {
        "model": report.model,
        "variant": report.variant,
        "width": report.width,
        "height": report.height,
        "steps": report.steps,
        "seed": report.seed,
        "runs": report.runs,
        "measurements": [_measurement_as_json(each) for each in report.measurements],
        "recommended": None if best is None else {"flags": list(best.flags), "key": best.key},
        "stored": report.stored,
    }
    if report.error is not None:
        facts["error"] = _error_as_json(report.error)
    return facts


def _measurement_as_json(measurement: Measurement) -> dict[str, object]:
    timings, drew = measurement.timings, measurement.total is not None
    stages = {"loading": timings.loading, "diffusion": timings.diffusion, "decoding": timings.decoding}
    return {
        "flags": list(measurement.plan.flags),
        "key": measurement.plan.key,
        "works": measurement.works,
        "total": None if measurement.total is None else _milliseconds(measurement.total),
        "runs": [_milliseconds(seconds) for seconds in measurement.seconds],
        "timings": {name: _milliseconds(value) for name, value in stages.items()} if drew else None,
        "memory": {"ramBytes": measurement.memory.ram, "vramBytes": measurement.memory.vram},
        "error": None if measurement.error is None else _error_as_json(measurement.error),
    }


def _error_as_json(error: SDManagerError) -> dict[str, object]:
    return {"message": error.message, "code": error.code, "hint": error.hint}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
