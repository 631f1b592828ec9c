"""What a batch saves: `count=4`, which one process draws after one load, against four single runs.

Quick: two instead of four.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from _common import Figure, Options, Report, in_turn, main, real_engine

from sdmanager import ImageRequest, generate_image

if TYPE_CHECKING:
    from sdmanager.settings import Settings

COUNT = 4
RATIO = 0.5


def measure(options: Options) -> Report:
    """One batch and as many single runs, by turns."""
    count = 2 if options.quick else COUNT
    with real_engine() as settings:
        draw(1, settings)
        pairs = in_turn(
            options.runs,
            bare=lambda: sum(draw(1, settings) for _ in range(count)),
            ours=lambda: draw(count, settings),
        )
    return Report(
        {"batch_to_single_runs": Figure(pairs.ratio, "ratio", at_most=RATIO)},
        {"bare": f"{count} single runs", "ours": f"one batch of {count}", **pairs.to_json()},
    )


def draw(count: int, settings: Settings) -> float:
    """Seconds for one generation of so many pictures."""
    request = ImageRequest(
        prompt="a lighthouse at dusk", width=64, height=64, steps=4, cfg_scale=1.0, seed=7, count=count
    )
    began = time.perf_counter()
    result = generate_image(request, settings=settings)
    assert len(result.images) == count
    return time.perf_counter() - began


if __name__ == "__main__":
    main("batch", __doc__, measure, runs=9)
