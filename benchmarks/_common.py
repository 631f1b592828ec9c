"""What the benchmarks share: options, statistics, the real engine, and the one JSON object that each prints."""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import statistics
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.binaries import list_installed
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Attributes:
        runs: How often each thing is measured.
        quick: As little as shows that the script works; its figures mean nothing.
    """

    runs: int
    quick: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One result, with its target where there is one."""

    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    def to_json(self) -> dict[str, object]:
        """The figure as JSON; ``met`` only where there is a target."""
        shown: dict[str, object] = {"value": round(self.value, 4), "unit": self.unit}
        if self.at_most is not None:
            shown |= {"target": f"<= {self.at_most:g}", "met": self.value <= self.at_most}
        if self.at_least is not None:
            shown |= {"target": f">= {self.at_least:g}", "met": self.value >= self.at_least}
        return shown


@dataclass(slots=True)
class Report:
    """What a benchmark found: figures by name, and whatever explains them."""

    figures: dict[str, Figure] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)


def main(name: str, description: str | None, measure: Callable[[Options], Report], *, runs: int) -> None:
    """Read the command line, measure, and print the JSON object.

    Args:
        name: Of the benchmark.
        description: For ``--help``.
        measure: Does the work.
        runs: The default of ``--runs``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=None, metavar="N", help=f"default {runs}; 1 if quick")
    parser.add_argument("--quick", action="store_true", help="only show that the script works")
    arguments = parser.parse_args()
    options = Options(max(arguments.runs or (1 if arguments.quick else runs), 1), arguments.quick)
    before = os.getloadavg()[0]
    report = measure(options)
    shown = {
        "benchmark": name,
        "runs": options.runs,
        "quick": options.quick,
        "machine": {
            "cpus": os.cpu_count(),
            "load": [round(before, 2), round(os.getloadavg()[0], 2)],
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "figures": {key: figure.to_json() for key, figure in report.figures.items()},
        "details": report.details,
    }
    print(json.dumps(shown, indent=1))


def spread(samples: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, smallest and largest of some samples, and how many they are."""
    return {
        "median": round(statistics.median(samples), digits),
        "min": round(min(samples), digits),
        "max": round(max(samples), digits),
        "n": len(samples),
    }


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed."""
    ordered = sorted(samples)
    return ordered[max(-(-int(share * 100) * len(ordered) // 100) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two things measured in turn, so that whatever else the machine does weighs on both.

    Attributes:
        bare: Seconds of the thing compared with.
        ours: Seconds of what is judged.
    """

    bare: list[float]
    ours: list[float]

    @property
    def added_ms(self) -> float:
        """What ours takes more, at the medians."""
        return 1e3 * (statistics.median(self.ours) - statistics.median(self.bare))

    @property
    def ratio(self) -> float:
        """How many times longer ours takes, at the medians."""
        return statistics.median(self.ours) / statistics.median(self.bare)

    def to_json(self) -> dict[str, object]:
        """Both in milliseconds; pair by pair; and at the minima, which noise can only raise."""
        differences = [1e3 * (ours - bare) for bare, ours in zip(self.bare, self.ours, strict=True)]
        return {
            "bare_ms": spread([1e3 * seconds for seconds in self.bare]),
            "ours_ms": spread([1e3 * seconds for seconds in self.ours]),
            "pairwise_added_ms": spread(differences),
            "added_at_minima_ms": round(1e3 * (min(self.ours) - min(self.bare)), 2),
        }


def in_turn(runs: int, bare: Callable[[], float], ours: Callable[[], float]) -> Pairs:
    """Measure both by turns, and each first in every other pair.

    Args:
        runs: Pairs.
        bare: Does it once and returns seconds.
        ours: Likewise.
    """
    return Pairs(*by_turns(runs, [bare, ours]))


def by_turns(runs: int, sides: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds of each side, measured round by round; each round begins with another side."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(runs):
        for place in range(len(sides)):
            side = (turn + place) % len(sides)
            seconds[side].append(sides[side]())
    return seconds


@contextmanager
def real_engine() -> Iterator[Settings]:
    """Settings with a real engine, and with cache and state folders of their own that are gone afterwards.

    ``SDMANAGER_ENGINE`` where it is set, else the engine of the tests, else the user's installed one.
    """
    own = Settings.from_environment()
    tests = runpy.run_path(str(ROOT / "tests" / "support" / "engine_home.py"))["engine_home"]()
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        scratch = Path(name)
        # What else this machine could use, or fetch, is not what is measured.
        manifest = tests / "binaries.json"
        for data in (tests / "data", own.data_dir):
            settings = Settings(
                data,
                scratch / "cache",
                scratch / "state",
                engine=own.engine,
                manifest=manifest if manifest.exists() else None,
            )
            if own.engine is not None or list_installed(settings):
                yield settings
                return
    raise SystemExit("No engine: run 'sdmanager engine build', or set SDMANAGER_ENGINE to an sd-cli.")
