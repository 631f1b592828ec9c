"""How far a run is: over recorded runs of two builds, and over whatever else may come."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import BUILDS, SCENARIOS, parse_recorded, run_of, stream

from sdmanager.engine import output as out
from sdmanager.engine.progress import Estimate, ProgressTracker
from sdmanager.generation import Stage

DRAWING = [name for name in SCENARIOS if b"generating image:" in stream(name, "stdout")]
ESTIMATES = [None, Estimate(0.5, 0.1, 0.2), Estimate(100, 1e-6, 0), Estimate(0, 0, 0), Estimate(1e-9, 50, 50)]


def follow(events, *, steps=3, count=1, estimate=None, tick=0.1):
    """Every snapshot of a run whose facts come at steady intervals, and the tracker."""
    tracker, now, snapshots = ProgressTracker(steps, count, estimate), 0.0, []
    for event in events:
        now += tick
        snapshot = tracker.feed(event, now)
        if snapshot is not None:
            snapshots.append(snapshot)
    return snapshots, tracker, now


def assert_sane(snapshots):
    percentages = [snapshot.percentage for snapshot in snapshots]
    assert percentages == sorted(percentages)
    assert all(0 <= percentage < 100 for percentage in percentages)
    for snapshot in snapshots:
        assert 1 <= snapshot.image <= snapshot.total_images
        assert snapshot.step >= 0
        assert snapshot.eta_seconds is None or snapshot.eta_seconds >= 0
        assert snapshot.seconds_per_step is None or snapshot.seconds_per_step >= 0


def asked(scenario):
    argv = run_of(scenario)["argv"]
    count = int(argv[argv.index("-b") + 1]) if "-b" in argv else 1
    return int(argv[argv.index("--steps") + 1]), count


def stages(snapshots):
    names = [snapshot.stage for snapshot in snapshots]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] is not name]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recorded_run_never_falls_back(scenario):
    events = parse_recorded(scenario)
    steps, count = asked(scenario) if scenario in DRAWING else (3, 1)
    for estimate, tick in itertools.product(ESTIMATES, [1e-6, 0.1, 1000.0]):
        snapshots, tracker, now = follow(events, steps=steps, count=count, estimate=estimate, tick=tick)
        assert_sane(snapshots)
        last = tracker.finish(now + tick)
        assert (last.percentage, last.eta_seconds) == (100.0, 0.0)
        if scenario in DRAWING:
            assert snapshots[-1].percentage > 80


@pytest.mark.parametrize("build", BUILDS)
def test_stages_of_a_run_that_loads_quickly(build):
    snapshots, _, _ = follow(parse_recorded(f"{build}/txt2img"))
    assert stages(snapshots) == [Stage.LOADING, Stage.DIFFUSION, Stage.DECODING]


@pytest.mark.parametrize("build", BUILDS)
def test_steps_and_images_of_a_batch(build):
    snapshots, tracker, now = follow(parse_recorded(f"{build}/batch3-preview-tae"), count=3)
    sampling = [s for s in snapshots if s.stage is Stage.DIFFUSION]
    assert [(s.image, s.step, s.total_steps) for s in sampling] == [
        (image, step, 3) for image in (1, 2, 3) for step in range(4)
    ]
    decoding = [(s.image, s.step, s.total_steps) for s in snapshots if s.stage is Stage.DECODING]
    assert decoding[0] == (1, 0, 3)
    assert decoding[-1] == (3, 3, 3)
    last = tracker.finish(now)
    assert (last.image, last.total_images, last.step, last.total_steps) == (3, 3, 3, 3)


@pytest.mark.parametrize("build", BUILDS)
def test_image_to_image_has_fewer_steps_than_were_asked_for(build):
    scenario = f"{build}/img2img"
    events = parse_recorded(scenario)
    done = max(event.step for event in events if isinstance(event, out.Step))
    steps, _ = asked(scenario)
    assert done < steps
    snapshots, tracker, _ = follow(events, steps=steps)
    sampled = [s for s in snapshots if s.stage is Stage.DIFFUSION and s.step]
    assert [(s.step, s.total_steps) for s in sampled] == [(n, done) for n in range(1, done + 1)]
    assert sampled[-1].percentage == pytest.approx(90, abs=0.2)
    assert tracker.learned() is not None


# --- written by hand, with a clock of our own


def run(*timed, steps=10, count=1, estimate=None):
    tracker = ProgressTracker(steps, count, estimate)
    snapshots = [
        (now, snapshot) for now, event in timed if (snapshot := tracker.feed(event, now)) is not None
    ]
    return snapshots, tracker


def steady(*, steps=10, count=1, loading=2.0, step=1.0, decode=3.0):
    """A run of an engine that keeps time."""
    yield 0.5, out.LoadProgress(5, 10, 1e6)
    yield loading - 0.5, out.LoadProgress(10, 10, 1e6)
    yield loading - 0.4, out.LoadCompleted(1.0)
    now = loading
    for image in range(1, count + 1):
        yield now, out.ImageStarted(image, count, 7)
        for n in range(1, steps + 1):
            now += step
            yield now, out.Step(n, steps, step)
        yield now, out.SamplingCompleted(steps * step)
    yield now, out.DecodingStarted(count)
    for image in range(1, count + 1):
        now += decode
        yield now, out.LatentDecoded(image, decode)
    yield now, out.DecodingCompleted(decode)


@pytest.mark.parametrize("count", [1, 3])
def test_time_left_counts_down_to_zero_when_the_run_is_known(count):
    snapshots, _ = run(*steady(count=count), count=count, estimate=Estimate(2.0, 1.0, 3.0))
    total = 2.0 + count * (10 * 1.0 + 3.0)
    for now, snapshot in snapshots:
        assert snapshot.eta_seconds == pytest.approx(total - now, abs=0.02)
        assert snapshot.percentage == pytest.approx(min(100 * now / total, 99), abs=0.1)
    assert snapshots[-1][1].eta_seconds == 0


def test_time_left_of_an_unknown_run_is_unknown_until_the_first_step():
    snapshots, _ = run(*steady())
    times = [snapshot.eta_seconds for _, snapshot in snapshots]
    first = next(i for i, (_, s) in enumerate(snapshots) if s.stage is Stage.DIFFUSION and s.step == 1)
    assert times[:first] == [None] * first
    known = times[first:]
    assert known == sorted(known, reverse=True)
    assert known[0] == pytest.approx(10.0)  # nine steps, and one for decoding
    assert known[-1] == 0


def test_time_left_follows_an_engine_that_is_slower_than_it_was():
    snapshots, _ = run(*steady(step=4.0), estimate=Estimate(2.0, 1.0, 3.0))
    halfway = next(s for _, s in snapshots if s.stage is Stage.DIFFUSION and s.step == 5)
    assert halfway.eta_seconds == pytest.approx(5 * 4 + 3)


def test_what_a_run_teaches():
    _, tracker = run(*steady(count=2), count=2)
    tracker.finish(28.0)
    assert tracker.learned() == Estimate(2.0, pytest.approx(1.0), pytest.approx(3.0))


@pytest.mark.parametrize("missing", [out.ImageStarted, out.Step, out.LatentDecoded])
def test_a_run_not_seen_whole_teaches_nothing(missing):
    _, tracker = run(*(item for item in steady() if not isinstance(item[1], missing)))
    assert tracker.learned() is None


def test_timings_of_the_stages():
    _, tracker = run(*steady(count=2), count=2)
    tracker.finish(30.0)
    timings = tracker.timings
    assert (timings.loading, timings.diffusion) == (pytest.approx(2.0), pytest.approx(20.0))
    assert timings.decoding == pytest.approx(8.0)


LAZY = [
    (1.0, out.LoadProgress(1, 2, 1e6)),
    (2.0, out.LoadProgress(2, 2, 1e6)),
    (2.1, out.LoadCompleted(1.0)),
    (3.0, out.ImageStarted(1, 1, 7)),
    (10.0, out.LoadProgress(1, 2, 1e6)),
    (23.0, out.LoadProgress(2, 2, 1e6)),
    (23.0, out.LoadCompleted(20.0)),
    *((23.0 + n, out.Step(n, 10, 1.0)) for n in range(1, 11)),
    (33.0, out.SamplingCompleted(10.0)),
    (33.0, out.DecodingStarted(1)),
    (34.0, out.LoadProgress(1, 2, 1e6)),
    (35.0, out.LoadProgress(2, 2, 1e6)),
    (35.0, out.LoadCompleted(2.0)),
    (37.0, out.LatentDecoded(1, 2.0)),
]


def test_loading_in_the_middle_comes_and_goes():
    snapshots, tracker = run(*LAZY)
    assert stages([snapshot for _, snapshot in snapshots]) == [
        Stage.LOADING,
        Stage.DIFFUSION,
        Stage.LOADING,
        Stage.DIFFUSION,
        Stage.DECODING,
        Stage.LOADING,
        Stage.DECODING,
    ]
    assert_sane([snapshot for _, snapshot in snapshots])
    loading = [(s.step, s.total_steps) for _, s in snapshots if s.stage is Stage.LOADING]
    assert loading == [(1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2)]
    tracker.finish(37.0)
    assert tracker.timings.loading == pytest.approx(3 + 13 + 1)


@pytest.mark.parametrize("whole_at_once", [False, True])
def test_loading_in_the_middle_is_no_sampling(whole_at_once):
    """Twenty seconds of loading were counted into the first step, so that 200 seconds were said to be left."""
    events = [item for item in LAZY if not (whole_at_once and item[0] == 10.0)]
    snapshots, tracker = run(*events)
    first = next(s for _, s in snapshots if s.stage is Stage.DIFFUSION and s.step == 1)
    assert first.seconds_per_step == pytest.approx(1.0)
    assert first.eta_seconds == pytest.approx(10.0)
    learned = tracker.learned()
    assert learned.loading == pytest.approx(23.0)
    assert learned.step == pytest.approx(1.0)


def test_weights_that_come_back_for_the_second_image_are_no_step_of_it():
    def image(n, start):
        yield start, out.ImageStarted(n, 2, n)
        yield start + 5, out.LoadProgress(2, 2, 1e6)
        yield start + 5, out.LoadCompleted(5.0)
        for step in (1, 2):
            yield start + 5 + step, out.Step(step, 2, 1.0)

    snapshots, tracker = run(*image(1, 1.0), *image(2, 8.0), steps=2, count=2)
    assert snapshots[-1][1].seconds_per_step == pytest.approx(1.0)
    run_end = [(16.0, out.DecodingStarted(2)), (17.0, out.LatentDecoded(1, 1.0))]
    for now, event in run_end:
        tracker.feed(event, now)
    tracker.finish(18.0)
    assert tracker.learned() == Estimate(6.0, pytest.approx(1.0), pytest.approx(2.0))


def test_a_full_bar_in_the_middle_does_not_change_the_stage():
    tracker = ProgressTracker(3, 1, None)
    tracker.feed(out.ImageStarted(1, 1, 7), 1.0)
    assert tracker.feed(out.LoadProgress(49, 49, 1e6), 2.0) is None
    assert tracker.stage is Stage.DIFFUSION


# --- anything

NUMBERS = st.integers(0, 6)
EVENTS = st.one_of(
    st.builds(out.LoadProgress, NUMBERS, NUMBERS, st.just(1.0)),
    st.builds(out.LoadCompleted, st.just(1.0)),
    st.builds(out.ConditionCompleted, st.just(1.0)),
    st.builds(lambda n: out.ImageStarted(n, 3, 1), st.integers(1, 3)),
    st.builds(lambda n, extra: out.Step(n, n + extra, 1.0), st.integers(1, 6), NUMBERS),
    st.builds(out.SamplingCompleted, st.just(1.0)),
    st.builds(out.DecodingStarted, NUMBERS),
    st.builds(lambda n: out.LatentDecoded(n, 1.0), st.integers(1, 3)),
    st.builds(out.ImagesSaved, NUMBERS, NUMBERS),
    st.builds(lambda text: out.LogLine(out.LogLevel.ERROR, text), st.just("x")),
)


@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 100)), max_size=40),
    st.sampled_from(ESTIMATES),
    st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_never_falls_back(timed, estimate, steps):
    tracker, now, snapshots = ProgressTracker(steps, 3, estimate), 0.0, []
    for event, later in timed:
        now += later
        snapshot = tracker.feed(event, now)
        if snapshot is not None:
            snapshots.append(snapshot)
    percentages = [snapshot.percentage for snapshot in snapshots]
    assert percentages == sorted(percentages)
    assert all(0 <= percentage < 100 for percentage in percentages)
    learned = tracker.learned()
    assert learned is None or min(learned.loading, learned.step, learned.decoding) >= 0
    assert tracker.finish(now).percentage == 100
    timings = tracker.timings
    assert timings.loading + timings.diffusion + timings.decoding == pytest.approx(now)
