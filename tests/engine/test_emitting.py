"""The events of one generation: numbered through, never going back, and told until the callback breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sdmanager.engine.emitting import Emitter
from sdmanager.engine.progress import Snapshot
from sdmanager.errors import GenerationError
from sdmanager.generation import (
    Cancelled,
    Event,
    Failed,
    MemoryPlan,
    Progress,
    Replanned,
    Stage,
    StageChanged,
)


class CallbackError(Exception):
    pass


def breaking(events: list[Event], kind: type[Event]) -> Callable[[Event], None]:
    """A callback that breaks at the first event of a kind, and would at each."""

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, kind):
            raise CallbackError

    return on_event


def at(stage: Stage, percentage: float, step: int = 0) -> Snapshot:
    return Snapshot(stage, step, 4, percentage, 1, 1, None, None)


async def test_events_are_numbered_through_when_the_engine_starts_once_more() -> None:
    events: list[Event] = []
    emitter = Emitter(events.append, "abc")
    for _ in range(2):
        emitter.enter(Stage.LOADING)
        emitter.progress(at(Stage.LOADING, 5))
        emitter.progress(at(Stage.DIFFUSION, 40, 2))
        emitter.emit(Replanned, plan=MemoryPlan(vae_tiling=True), reason="It ran out.")
    assert [event.sequence for event in events] == list(range(10))
    assert {event.generation_id for event in events} == {"abc"}
    elapsed = [event.elapsed for event in events]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] <= emitter.elapsed


async def test_the_percentage_does_not_fall_when_the_engine_starts_once_more() -> None:
    events: list[Event] = []
    emitter = Emitter(events.append, "abc")
    for percentage in (5, 60):
        emitter.progress(at(Stage.DIFFUSION, percentage))
    emitter.making_room(1)
    for percentage in (5, 59, 61, 100):
        emitter.progress(at(Stage.DIFFUSION, percentage))
    told = [event.percentage for event in events if isinstance(event, Progress)]
    assert told == [5, 60, 60, 60, 60, 61, 100]


async def test_a_stage_is_told_when_it_is_another_one_and_before_its_progress() -> None:
    events: list[Event] = []
    emitter = Emitter(events.append, "abc")
    emitter.making_room(3)
    emitter.making_room(3)
    emitter.enter(Stage.LOADING)
    emitter.progress(at(Stage.LOADING, 1))
    emitter.progress(at(Stage.DIFFUSION, 2))
    emitter.enter(Stage.LOADING)
    told = [(type(event), event.stage) for event in events if isinstance(event, StageChanged | Progress)]
    assert told == [
        (StageChanged, Stage.OFFLOADING),
        (Progress, Stage.OFFLOADING),
        (Progress, Stage.OFFLOADING),
        (StageChanged, Stage.LOADING),
        (Progress, Stage.LOADING),
        (StageChanged, Stage.DIFFUSION),
        (Progress, Stage.DIFFUSION),
        (StageChanged, Stage.LOADING),
    ]
    assert isinstance(events[1], Progress)
    assert events[1].total_images == 3


async def test_an_error_of_the_callback_is_raised_once_and_nothing_is_told_after_it() -> None:
    events: list[Event] = []
    emitter = Emitter(breaking(events, Progress), "abc")
    with pytest.raises(CallbackError), emitter.ending():
        emitter.progress(at(Stage.LOADING, 5))
    emitter.progress(at(Stage.DIFFUSION, 40))
    emitter.emit(Cancelled)
    assert [type(event) for event in events] == [StageChanged, Progress]


async def test_an_error_of_the_callback_in_another_task_takes_the_place_of_the_cancellation() -> None:
    events: list[Event] = []
    raised: list[BaseException] = []

    async def generation() -> None:
        emitter = Emitter(breaking(events, StageChanged), "abc")

        async def aside() -> None:
            emitter.emit_aside(StageChanged, stage=Stage.LOADING)
            emitter.emit_aside(StageChanged, stage=Stage.DIFFUSION)

        try:
            with emitter.ending():
                await asyncio.gather(asyncio.create_task(aside()), asyncio.sleep(30))
        except CallbackError as exc:
            raised.append(exc)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async with asyncio.timeout(10):
        await generation()
    assert len(raised) == 1
    assert len(events) == 1


async def test_how_a_block_ended_is_told_last() -> None:
    for error, kind in ((GenerationError("It broke."), Failed), (asyncio.CancelledError(), Cancelled)):
        events: list[Event] = []
        emitter = Emitter(events.append, "abc")
        emitter.enter(Stage.LOADING)
        with pytest.raises(type(error)) as caught, emitter.ending():
            raise error
        assert caught.value is error
        assert [type(event) for event in events] == [StageChanged, kind]
    events = []
    with Emitter(events.append, "abc").ending():
        pass
    assert events == []


async def test_a_callback_that_breaks_at_the_end_hides_no_cancellation() -> None:
    with pytest.raises(asyncio.CancelledError), Emitter(breaking([], Cancelled), "abc").ending():
        raise asyncio.CancelledError
    with pytest.raises(CallbackError), Emitter(breaking([], Failed), "abc").ending():
        raise GenerationError("It broke.")


async def test_nobody_has_to_listen() -> None:
    emitter = Emitter(None, "abc")
    emitter.making_room(1)
    emitter.progress(at(Stage.LOADING, 5))
    with pytest.raises(GenerationError), emitter.ending():
        raise GenerationError("It broke.")
