"""What a calibration makes of what it measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.engine.measurements import TIE, CalibrationReport, EngineClock, Measurement, recommend
from sdmanager.errors import EngineCrashedError, EngineOutOfMemoryError
from sdmanager.generation import (
    Event,
    GenerationResult,
    MemoryPlan,
    MemoryUse,
    Progress,
    Replanned,
    Stage,
    StageChanged,
    StageTimings,
)

PLAIN = MemoryPlan()
TILED = MemoryPlan(vae_tiling=True)
BOTH = MemoryPlan(vae_tiling=True, offload_to_cpu=True)
FAILED = EngineOutOfMemoryError("It ran out.")


def took(plan: MemoryPlan, *seconds: float, error: EngineOutOfMemoryError | None = None) -> Measurement:
    return Measurement(plan, seconds, error=error)


@pytest.mark.parametrize(
    ("measurements", "best"),
    [
        ([took(PLAIN, 10.0), took(TILED, 9.0)], TILED),
        ([took(PLAIN, 10.0), took(TILED, 9.6)], PLAIN),
        ([took(TILED, 9.6), took(PLAIN, 10.0)], PLAIN),
        ([took(TILED, 10.0), took(PLAIN, 10.5)], PLAIN),
        ([took(TILED, 10.0), took(PLAIN, 10.51)], TILED),
        ([took(PLAIN, 9.0), took(TILED, 10.0)], PLAIN),
        ([took(PLAIN, 1.0, error=FAILED), took(TILED, 2.0), took(BOTH, 3.0)], TILED),
        ([took(PLAIN, error=FAILED), took(BOTH, 3.0)], BOTH),
        ([took(TILED, 3.1), took(MemoryPlan(clip_on_cpu=True), 3.0)], MemoryPlan(clip_on_cpu=True)),
        # Not by the first run, nor by the best: by the one in the middle.
        ([took(PLAIN, 1.0, 9.0, 9.0), took(TILED, 5.0, 5.0, 5.0)], TILED),
        # A row of ties is no way down: each is compared with the fastest.
        ([took(PLAIN, 10.9), took(TILED, 10.4), took(BOTH, 10.0)], TILED),
        ([took(PLAIN, error=FAILED)], None),
        ([took(PLAIN)], None),
        ([], None),
    ],
)
def test_the_fastest_that_works_and_of_equals_the_one_with_fewer_flags(
    measurements: list[Measurement], best: MemoryPlan | None
) -> None:
    assert recommend(measurements) == best


plans = st.builds(
    MemoryPlan,
    offload_to_cpu=st.booleans(),
    clip_on_cpu=st.booleans(),
    vae_tiling=st.booleans(),
    diffusion_flash_attention=st.sampled_from([None, True, False]),
)
seconds = st.floats(0, 1e6, allow_nan=False).map(lambda value: round(value, 2))
found = st.lists(
    st.builds(
        Measurement,
        plans,
        st.lists(seconds, max_size=3).map(tuple),
        error=st.sampled_from([None, None, FAILED]),
    ),
    max_size=8,
    unique_by=lambda each: each.plan,
)


@given(found, st.randoms())
def test_what_is_recommended_holds_what_is_promised(measurements: list[Measurement], random: object) -> None:
    best = recommend(measurements)
    working = {each.plan: each.total for each in measurements if each.works}
    if best is None:
        assert not working
        return
    fastest = min(total for total in working.values() if total is not None)
    total = working[best]
    assert total is not None
    assert total <= fastest * TIE
    for plan, other in working.items():
        assert other is not None
        if len(plan.flags) < len(best.flags):
            assert other > fastest * TIE
        if len(plan.flags) == len(best.flags):
            assert other >= total
    shuffled = list(measurements)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert recommend(shuffled) == best


@given(found, plans, seconds)
def test_a_slower_one_changes_nothing(
    measurements: list[Measurement], plan: MemoryPlan, extra: float
) -> None:
    best = recommend(measurements)
    if best is None or plan in {each.plan for each in measurements}:
        return
    slowest = max(each.total or 0.0 for each in measurements if each.works)
    assert recommend([*measurements, took(plan, slowest * TIE * 1.01 + extra + 0.1)]) == best


def result(total: float, memory: MemoryUse | None = None, **timings: float) -> GenerationResult:
    return GenerationResult((), total, StageTimings(**timings), "demo", "cpu", PLAIN, memory=memory)


def test_runs_are_summed_up() -> None:
    measured = Measurement.of(
        TILED,
        [
            result(9.0, MemoryUse(100, None, 50), loading=1.0, diffusion=6.0, decoding=2.0),
            result(5.0, MemoryUse(300, 7), loading=3.0, diffusion=4.0, decoding=1.0),
            result(8.0, None, loading=2.0, diffusion=5.0, decoding=9.0),
        ],
    )
    assert measured.seconds == (9.0, 5.0, 8.0)
    assert measured.total == 8.0
    assert measured.timings == StageTimings(2.0, 5.0, 2.0)
    assert measured.memory == MemoryUse(300, 7, 50)
    assert measured.works


def test_one_that_failed_once_does_not_work() -> None:
    measured = Measurement.of(PLAIN, [result(9.0)], FAILED)
    assert not measured.works
    assert measured.total == 9.0
    assert Measurement.of(PLAIN, [], FAILED).total is None


def test_unknown_memory_stays_unknown() -> None:
    assert Measurement.of(PLAIN, [result(1.0), result(2.0)]).memory == MemoryUse()


def report(*measurements: Measurement) -> CalibrationReport:
    return CalibrationReport("demo", "cpu", 64, 64, 2, 7, 1, measurements, recommend(measurements))


def test_where_nothing_works_the_error_is_that_of_the_plain_combination() -> None:
    other = EngineCrashedError("It crashed.")
    first = Measurement(TILED, error=other)
    assert report(first, Measurement(PLAIN, error=FAILED)).error is FAILED
    assert report(first, Measurement(BOTH, error=FAILED)).error is other
    assert report(first, took(PLAIN, 1.0)).error is None


def test_a_report_finds_what_was_measured() -> None:
    made = report(took(PLAIN, 1.0), took(TILED, 2.0))
    found = made.measurement_of(TILED)
    assert found is not None
    assert math.isclose(found.total or 0, 2.0)
    assert made.measurement_of(BOTH) is None


# --- when the engine started


def progress(stage: Stage, elapsed: float) -> Progress:
    return Progress(
        generation_id="x", sequence=0, elapsed=elapsed, stage=stage, step=1, total_steps=2, percentage=0.0,
        image=1, total_images=1, seconds_per_step=None, eta_seconds=None,
    )  # fmt: skip


def changed(stage: Stage, elapsed: float) -> StageChanged:
    return StageChanged(generation_id="x", sequence=0, elapsed=elapsed, stage=stage)


def replanned(elapsed: float) -> Replanned:
    return Replanned(generation_id="x", sequence=0, elapsed=elapsed, plan=PLAIN, reason="Once more.")


OFFLOADING = [changed(Stage.OFFLOADING, 1), progress(Stage.OFFLOADING, 2)]
DRAWN = [progress(Stage.LOADING, 6), changed(Stage.DIFFUSION, 7), progress(Stage.DIFFUSION, 8)]
LAZY = [changed(Stage.LOADING, 9), progress(Stage.LOADING, 10)]
STARTS: dict[str, tuple[list[Event], float]] = {
    "nothing told": ([], 0),
    "at once": ([changed(Stage.LOADING, 5), *DRAWN], 5),
    "after putting aside": ([*OFFLOADING, changed(Stage.LOADING, 5), *DRAWN], 5),
    "loads once more": ([changed(Stage.LOADING, 5), *DRAWN, *LAZY], 5),
    "starts twice": ([changed(Stage.LOADING, 5), *DRAWN, replanned(20), changed(Stage.LOADING, 21)], 21),
    # Its stage did not change, so that it is not told again.
    "fails while it loads": (
        [changed(Stage.LOADING, 5), replanned(20), progress(Stage.LOADING, 22), *LAZY],
        20,
    ),
    "puts aside later": (
        [changed(Stage.LOADING, 5), replanned(20), *OFFLOADING, changed(Stage.LOADING, 30)],
        30,
    ),
}


@pytest.mark.parametrize("what", STARTS)
def test_the_clock_runs_from_the_start_of_the_engine_that_drew(what: str) -> None:
    events, started = STARTS[what]
    clock = EngineClock()
    for event in events:
        clock.see(event)
    assert clock.started == started
