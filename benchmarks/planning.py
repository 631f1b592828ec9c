"""What choosing a plan costs: the usual case, the longest search, and one among many learned figures."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from _common import ROOT, Figure, Options, Report, main, spread

from sdmanager.binaries import parse_help
from sdmanager.generation import MemoryChoices, MemoryPlan
from sdmanager.models import load_catalog
from sdmanager.resources.footprint import Footprint, Learned, Peak
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.planning import plan_memory, stricter_plan
from sdmanager.resources.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MS = 1

GB = 10**9
HELP = ROOT / "tests" / "data" / "help" / "master-97d2990.txt"


def measure(options: Options) -> Report:
    """Each case over and over, at the median."""
    report = Report()
    for name, plan in cases().items():
        samples = []
        for _ in range(options.runs):
            began = time.perf_counter()
            plan()
            samples.append(1e3 * (time.perf_counter() - began))
        report.figures[name] = Figure(statistics.median(samples), "ms", at_most=MOST_MS)
        report.details[name] = spread(samples, digits=3)
    return report


def cases() -> dict[str, Callable[[], object]]:
    """What is planned for, by the name of the figure."""
    supports = parse_help(HELP.read_text(encoding="utf-8")).supports
    choices, plain = MemoryChoices(), MemoryPlan()
    model, option = load_catalog().get("flux1-schnell")
    flux = Footprint("m", "m", "cuda", True, 1024, 1024, option.sizes, model.family)
    large = Supply(60 * GB, 64 * GB, 47 * GB, 48 * GB, has_gpu=True)
    # Half of a card of 8 GB is in use, by a language model.
    small = Supply(60 * GB, 64 * GB, 4 * GB, 8 * GB, has_gpu=True)
    full = Supply(1 * GB, 16 * GB, 0, 8 * GB, has_gpu=True)
    one = {"ollama": Holding("llama3.2:3b", GB // 2, 4 * GB)}
    many = {f"llm-{index}": Holding("llama3.2:3b", GB // 2, GB // 2) for index in range(8)}
    sizes = [(width, height) for width in range(256, 1280, 64) for height in range(256, 1280, 128)]
    known = Learned({(*size, "vae-tiling"): Peak(GB, 9 * GB, runs=3) for size in sizes}, weights=12 * GB)
    return {
        "fits": lambda: plan_memory(flux, large, choices, supports, one),
        "put_aside": lambda: plan_memory(flux, small, choices, supports, one),
        "fits_nowhere": lambda: plan_memory(flux, full, choices, supports, many),
        "learned": lambda: plan_memory(replace(flux, learned=known), small, choices, supports, one),
        "stricter": lambda: stricter_plan(flux, small, choices, supports, {}, [plain]),
    }


if __name__ == "__main__":
    main("planning", __doc__, measure, runs=500)
