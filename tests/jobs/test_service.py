"""One generation after the other, with a generator whose every move the test decides."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest
from scripted_generator import ScriptedGenerator, preview, progress, replanned, result_of, stage

from sdmanager.errors import (
    AlreadyTerminalError,
    EngineCrashedError,
    GenerationCancelledError,
    GenerationNotFoundError,
    IdempotencyKeyError,
    ServerBusyError,
    ServerNotRunningError,
    StorageError,
)
from sdmanager.generation import Completed, Failed, ImageRequest, Queued, Replanned, Stage
from sdmanager.jobs import GenerationRegistry, GenerationService, Status


def request(prompt: str = "a cat", **fields) -> ImageRequest:
    return ImageRequest(prompt=prompt, **fields)


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def registry(tmp_path):
    registry = GenerationRegistry(tmp_path / "generations")
    registry.open()
    yield registry
    registry.destroy()


@pytest.fixture
async def make(generator, registry):
    made = []

    def make(**options) -> GenerationService:
        made.append(GenerationService(generator, registry, **options))
        return made[-1]

    yield make
    for service in made:
        await service.aclose()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_from_accepted_to_complete(make, generator):
    service = make()
    generation = service.submit(request())
    assert generation.status is Status.IN_PROGRESS
    assert service.busy
    generator.tell(progress(1))
    await settle()
    assert service.get(generation.id).progress.step == 1
    generator.finish(result_of(2))
    ended = await service.wait(generation.id)
    assert ended.status is Status.COMPLETE
    assert [image.png for image in ended.result.images] == [image.png for image in result_of(2).images]
    assert not service.busy


async def test_before_the_engine_has_said_anything_the_stage_is_known(make):
    service = make()
    generation = service.submit(request(count=3))
    await settle()
    told = service.get(generation.id).progress
    assert (told.stage, told.step, told.percentage, told.total_images) == (Stage.LOADING, 0, 0.0, 3)


async def test_a_busy_service_refuses_at_once_and_says_when_to_come_back(make, generator):
    service = make()
    service.submit(request())
    generator.tell(progress(1, eta=41.2))
    await settle()
    with pytest.raises(ServerBusyError) as caught:
        service.submit(request())
    assert caught.value.details["retry_after"] == 42
    assert len(service.registry.get_all_ids()) == 1


async def test_the_place_is_taken_before_anything_is_awaited(make, generator):
    service = make()
    service.submit(request())
    for _ in range(10):
        with pytest.raises(ServerBusyError):
            service.submit(request())
    await settle()
    assert len(generator.requests) == 1


async def test_a_queue_is_served_in_order_one_at_a_time(make, generator):
    service = make(queue_size=3)
    ids = [service.submit(request(f"cat {n}")).id for n in range(4)]
    assert [service.get(id_).position for id_ in ids] == [None, 1, 2, 3]
    assert [service.get(id_).status.value for id_ in ids] == ["in_progress", "pending", "pending", "pending"]
    with pytest.raises(ServerBusyError, match="queue is full"):
        service.submit(request())
    for _ in ids:
        generator.finish()
    for id_ in ids:
        assert (await service.wait(id_)).status is Status.COMPLETE
    assert [r.prompt for r in generator.requests] == [f"cat {n}" for n in range(4)]
    assert generator.most == 1


async def test_positions_move_up_and_are_told(make, generator):
    service = make(queue_size=3)
    first, second, third = (service.submit(request()).id for _ in range(3))
    assert service.get(third).position == 2
    feed = service.feed(third)
    await service.cancel(second)
    assert service.get(third).position == 1
    told = [item.event.position for item in feed.since(0) if isinstance(item.event, Queued)]
    assert told == [2, 1]
    generator.finish()
    await service.wait(first)
    assert service.get(third).position is None


async def test_a_failure_is_written_down_and_the_next_one_is_drawn(make, generator):
    service = make(queue_size=1)
    first, second = service.submit(request()).id, service.submit(request()).id
    generator.finish(EngineCrashedError("The engine was ended by signal 11.", hint="Try again."))
    generator.finish()
    failed = await service.wait(first)
    assert failed.status is Status.ERROR
    assert (failed.error.code, failed.error.hint) == ("ENGINE_CRASHED", "Try again.")
    assert (await service.wait(second)).status is Status.COMPLETE


async def test_an_unexpected_error_ends_the_generation_and_not_the_service(make, generator, caplog):
    service = make()
    generation = service.submit(request("secret prompt"))
    generator.finish(ZeroDivisionError("oops"))
    with caplog.at_level(logging.ERROR):
        failed = await service.wait(generation.id)
    assert failed.error.code == "UNKNOWN_ERROR"
    assert "oops" not in failed.error.message
    assert "secret" not in caplog.text
    again = service.submit(request())
    generator.finish()
    assert (await service.wait(again.id)).status is Status.COMPLETE


async def test_cancelling_what_is_drawn_returns_when_it_is_dead(make, generator):
    service = make()
    generation = service.submit(request())
    await settle()
    cancelled = await service.cancel(generation.id)
    assert cancelled.status is Status.CANCELLED
    assert (generator.running, generator.cancelled) == (0, 1)
    assert (await service.cancel(generation.id)).status is Status.CANCELLED
    assert not service.busy


async def test_cancelling_before_the_drawing_has_begun(make, generator):
    service = make()
    generation = service.submit(request())
    service._begin_abort(service._jobs[generation.id])  # as a callback does that is told of the acceptance
    assert (await service.wait(generation.id)).status is Status.CANCELLED
    assert generator.requests == []
    service.submit(request())
    await settle()
    assert generator.running == 1


async def test_cancelling_what_waits_never_starts_it(make, generator):
    service = make(queue_size=1)
    first, second = service.submit(request()).id, service.submit(request()).id
    assert (await service.cancel(second)).status is Status.CANCELLED
    generator.finish()
    await service.wait(first)
    assert len(generator.requests) == 1


async def test_what_has_ended_cannot_be_cancelled(make, generator):
    service = make()
    generation = service.submit(request())
    generator.finish()
    await service.wait(generation.id)
    with pytest.raises(AlreadyTerminalError):
        await service.cancel(generation.id)
    with pytest.raises(GenerationNotFoundError):
        await service.cancel("gen_none")
    assert service.get(generation.id).status is Status.COMPLETE


async def test_an_error_on_the_way_out_of_a_cancelled_one_is_no_failure(make, generator):
    class Stubborn(ScriptedGenerator):
        async def generate(self, request, on_event=None):
            try:
                return await super().generate(request, on_event)
            except asyncio.CancelledError:
                raise EngineCrashedError("It died of it.") from None

    service = GenerationService(Stubborn(), make().registry)
    generation = service.submit(request())
    await settle()
    assert (await service.cancel(generation.id)).status is Status.CANCELLED


async def test_many_cancels_at_once_agree(make, generator):
    service = make()
    generation = service.submit(request())
    await settle()
    outcomes = await asyncio.gather(*(service.cancel(generation.id) for _ in range(20)))
    assert {outcome.status for outcome in outcomes} == {Status.CANCELLED}
    assert generator.cancelled == 1


async def test_a_waiter_that_leaves_leaves_the_generation_alone(make, generator):
    service = make()
    generation = service.submit(request())
    waiter = asyncio.create_task(service.wait(generation.id))
    await settle()
    waiter.cancel()
    await settle()
    assert service.get(generation.id).status is Status.IN_PROGRESS


async def test_drawing_gives_pictures_that_do_not_expire(make, generator, registry):
    service = make()
    generator.finish(result_of(2, seed=5))
    result = await service.draw(request())
    registry.clear()
    assert [image.png for image in result.images] == [image.png for image in result_of(2, seed=5).images]


async def test_a_drawing_task_that_is_cancelled_cancels_the_generation(make, generator):
    service = make()
    task = asyncio.create_task(service.draw(request()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert generator.running == 0
    [generation] = service.registry.list()
    assert generation.status is Status.CANCELLED


async def test_somebody_else_cancels_what_is_waited_for(make):
    service = make()
    task = asyncio.create_task(service.draw(request()))
    await settle()
    [id_] = service.registry.get_all_ids()
    await service.cancel(id_)
    with pytest.raises(GenerationCancelledError):
        await task


@pytest.mark.parametrize("moment", ["stage", "progress", "preview", "completed"])
async def test_what_a_callback_raises_cancels_and_is_raised(make, generator, moment):
    service = make()
    generator.tell(progress(1), preview(1))
    if moment == "completed":
        generator.finish()
    wanted = {"stage": "StageChanged", "progress": "Progress", "preview": "Preview", "completed": "Completed"}

    def on_event(event) -> None:
        if type(event).__name__ == wanted[moment]:
            raise ZeroDivisionError(moment)

    with pytest.raises(ZeroDivisionError, match=moment):
        await service.draw(request(), on_event)
    assert generator.running == 0
    assert not service.busy


async def test_what_a_callback_raises_while_waiting_takes_it_out_of_the_queue(make, generator):
    service = make(queue_size=2)
    service.submit(request())

    def on_event(event) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await service.draw(request(), on_event)
    assert service.waiting == 0


async def test_who_is_told_of_the_end_may_ask_for_the_next_one(make, generator):
    service, second = make(), []

    def on_event(event) -> None:
        if isinstance(event, Completed):
            second.append(service.submit(request("next")).id)

    generator.finish()
    generator.finish()
    await service.draw(request(), on_event)
    assert (await service.wait(second[0])).status is Status.COMPLETE


async def test_the_result_can_be_fetched_when_the_end_is_told(make, generator):
    service, seen = make(), []
    generation = service.submit(request())
    generator.finish()
    async for event in service.events(generation.id):
        if isinstance(event, Completed):
            seen += [service.get(generation.id).result.image.png]
    assert seen == [result_of().image.png]


async def test_events_are_stamped_with_the_public_id_and_count_up(make, generator):
    service = make(queue_size=1)
    first, second = service.submit(request()).id, service.submit(request()).id
    generator.tell(progress(1), preview(1), progress(2))
    generator.finish()
    events = [event async for event in service.events(first)]
    assert {event.generation_id for event in events} == {first}
    sequence = [event.sequence for event in events]
    assert sequence == sorted(set(sequence))
    assert [type(event).__name__ for event in events if event.__class__.__name__ != "Preview"] == [
        "StageChanged", "Progress", "Progress", "Completed",
    ]  # fmt: skip
    assert service.get(second).status is Status.IN_PROGRESS


async def test_events_of_one_that_has_ended_are_its_last(make, generator):
    service = make()
    done = service.submit(request()).id
    generator.finish()
    await service.wait(done)
    failed = service.submit(request()).id
    generator.finish(EngineCrashedError("It crashed."))
    await service.wait(failed)
    gone = service.submit(request()).id
    await service.cancel(gone)
    last = [[event async for event in service.events(id_)] for id_ in (done, failed, gone)]
    assert [[type(event).__name__ for event in events] for events in last] == [
        ["Completed"], ["Failed"], ["Cancelled"],
    ]  # fmt: skip
    assert isinstance(last[1][0].error, EngineCrashedError)
    with pytest.raises(GenerationNotFoundError):
        [event async for event in service.events("gen_none")]


async def test_the_hub_hears_of_all(make, generator):
    service = make(queue_size=1)
    ids = [service.submit(request()).id for _ in range(2)]
    generator.finish()
    generator.finish()
    for id_ in ids:
        await service.wait(id_)
    ended = [i.event.generation_id for i in service.hub.since(0) if isinstance(i.event, Completed)]
    assert ended == ids


async def test_a_key_gives_the_same_generation_and_is_bound_to_its_request(make, generator):
    service = make()
    first = service.submit(request(init_image=b"x"), key="k")
    assert service.submit(request(init_image=b"x"), key="k").id == first.id
    with pytest.raises(IdempotencyKeyError):
        service.submit(request(init_image=b"y"), key="k")
    with pytest.raises(IdempotencyKeyError):
        service.submit(request(init_image=b"x", steps=3), key="k")
    generator.finish()
    await service.wait(first.id)
    assert service.submit(request(init_image=b"x"), key="k").status is Status.COMPLETE
    assert len(generator.requests) == 1


async def test_two_hundred_equal_keys_are_one_run(make, generator):
    service = make()
    generator.finish()

    async def ask() -> str:
        return service.submit(request(), key="k").id

    assert len(set(await asyncio.gather(*(ask() for _ in range(200))))) == 1
    await settle()
    assert len(generator.requests) == 1


async def test_the_count_of_a_request_that_does_not_say(make, generator):
    service = make(complete=lambda request: request.with_defaults(count=3), queue_size=1)
    service.submit(request())
    service.submit(request(count=1))
    generator.finish()
    await settle()
    for _ in range(100):
        if len(generator.requests) == 2:
            break
        await asyncio.sleep(0.01)
    assert [asked.count for asked in generator.requests] == [3, 1]


async def test_want_of_a_place_is_known_before_anything_is_read(make, generator):
    service = make()
    service.refuse_if_full()
    known = service.submit(request(), key="k")
    with pytest.raises(ServerBusyError):
        service.refuse_if_full()
    service.refuse_if_full("k")
    await service.cancel(known.id)
    service.refuse_if_full()
    await service.aclose()
    with pytest.raises(ServerNotRunningError):
        service.refuse_if_full()


async def test_a_second_cancellation_does_not_leave_before_the_end(make, generator):
    dies = asyncio.Event()

    class Slow(ScriptedGenerator):
        async def generate(self, request, on_event=None):
            try:
                return await super().generate(request, on_event)
            finally:
                await dies.wait()  # an engine that takes its time to die
                self.running = 0

    slow = Slow()
    service = GenerationService(slow, make().registry)
    task = asyncio.create_task(service.draw(request()))
    await settle()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    dies.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not service.busy


async def test_closing_a_full_queue_is_told_once_each(make, generator):
    service = make(queue_size=100)
    ids = [service.submit(request()).id for _ in range(101)]
    before = service.hub.last_number
    await service.aclose()
    assert service.hub.last_number - before == 101
    assert {service.get(id_).status for id_ in ids} == {Status.CANCELLED}


async def test_callbacks_that_raise_in_the_queue_leave_the_places_right(make, generator):
    service = make(queue_size=5)
    service.submit(request())

    def broken(event) -> None:
        raise ZeroDivisionError

    drawing = [asyncio.create_task(service.draw(request(), broken)) for _ in range(2)]
    await asyncio.sleep(0)
    last = service.submit(request())
    outcomes = await asyncio.gather(*drawing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2
    assert service.get(last.id).position == 1
    assert (await service.cancel(last.id)).status is Status.CANCELLED


async def test_a_failure_that_is_kept_does_not_keep_the_request(make, generator):
    service = make()
    asked = request(init_image=b"x" * 1000)
    gone = weakref.ref(asked)
    generation = service.submit(asked)
    del asked
    await settle()
    generator.finish(EngineCrashedError("It crashed.", details={"signal": 11}))
    await service.wait(generation.id)
    generator.requests.clear()
    await settle()
    gc.collect()
    failed = [item.event for item in service.hub.since(0) if isinstance(item.event, Failed)]
    assert (failed[0].error.details, failed[0].error.__traceback__) == ({"signal": 11}, None)
    assert gone() is None


async def test_elapsed_never_falls(make, generator):
    service = make(queue_size=1)
    service.submit(request())
    second = service.submit(request()).id
    feed = service.feed(second)
    await asyncio.sleep(0.02)
    generator.finish()
    await asyncio.sleep(0.05)
    generator.tell(progress(1), preview(1))
    generator.finish()
    await service.wait(second)
    elapsed = [item.event.elapsed for item in feed.since(0)]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] > 0.02


async def test_what_cannot_be_written_down_is_not_accepted(make, generator, registry, monkeypatch):
    service = make()

    def full(**_) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(registry, "create", full)
    with pytest.raises(StorageError):
        service.submit(request())
    assert not service.busy
    await settle()
    assert generator.requests == []


async def test_pictures_that_cannot_be_written_are_an_error_of_the_generation(
    make, generator, registry, tmp_path
):
    service = make()
    generation = service.submit(request())
    await settle()
    folder = tmp_path / "generations" / generation.id
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    generator.finish()
    failed = await service.wait(generation.id)
    assert (failed.status, failed.error.code) == (Status.ERROR, "IO_ERROR")


async def test_one_that_is_deleted_from_the_registry_is_drawn_to_its_end(make, generator, registry):
    service = make()
    generation = service.submit(request())
    await settle()
    registry.delete(generation.id)
    generator.tell(progress(1))
    generator.finish()
    await settle()
    for _ in range(100):
        if not service.busy:
            break
        await asyncio.sleep(0.01)
    assert not service.busy
    with pytest.raises(GenerationNotFoundError):
        service.get(generation.id)


async def test_closing_cancels_all_and_takes_no_more(make, generator):
    service = make(queue_size=2)
    ids = [service.submit(request()).id for _ in range(3)]
    await settle()
    await service.aclose()
    assert [service.get(id_).status for id_ in ids] == [Status.CANCELLED] * 3
    assert generator.running == 0
    assert len(generator.requests) == 1
    assert service.hub.closed
    with pytest.raises(ServerNotRunningError):
        service.submit(request())
    await service.aclose()


async def test_another_try_is_told_with_the_generations_own_stamp(make, generator):
    told = []
    service = make(on_event=told.append)
    generation = service.submit(request())
    generator.tell(replanned("It ran out of memory."))
    await settle()
    (event,) = [event for event in told if isinstance(event, Replanned)]
    assert (event.generation_id, event.reason) == (generation.id, "It ran out of memory.")
    assert [each.sequence for each in told] == list(range(len(told)))
    generator.finish()
    await service.wait(generation.id)


async def test_a_stage_is_seen_before_the_first_progress_in_it(make, generator):
    service = make()
    generation = service.submit(request())
    for entered in (Stage.OFFLOADING, Stage.LOADING, Stage.DIFFUSION):
        generator.tell(stage(entered))
        await settle()
        assert service.get(generation.id).progress.stage is entered
    generator.tell(progress(2), stage(Stage.DECODING))
    await settle()
    shown = service.get(generation.id).progress
    assert (shown.stage, shown.step, shown.total_steps) == (Stage.DECODING, 0, 0)
    assert shown.percentage == progress(2).percentage
    generator.finish()
    await service.wait(generation.id)


# --- the place, reserved for other work


async def test_who_comes_while_the_place_is_reserved_waits_or_is_refused(make, generator):
    service = make(queue_size=1)
    async with service.reserved():
        assert service.busy
        waiting = service.submit(request())
        assert (waiting.status, waiting.position) == (Status.PENDING, 1)
        with pytest.raises(ServerBusyError):
            service.submit(request())
        await settle()
        assert generator.requests == []
    await settle()
    assert len(generator.requests) == 1
    generator.finish()
    assert (await service.wait(waiting.id)).status is Status.COMPLETE
    assert not service.busy


async def test_the_place_is_free_again_whatever_happened_in_it(make, generator):
    service = make()
    with pytest.raises(ZeroDivisionError):
        async with service.reserved():
            raise ZeroDivisionError
    assert not service.busy


async def test_a_place_that_is_taken_cannot_be_reserved(make, generator):
    service = make(queue_size=2)
    service.submit(request())
    with pytest.raises(ServerBusyError):
        async with service.reserved():
            pytest.fail("it was drawn at the same time")
    async with make().reserved():
        with pytest.raises(ServerBusyError):
            await service.reserved().__aenter__()


async def test_closing_ends_the_work_that_has_reserved_it(make):
    service, left = make(), []

    async def work() -> None:
        try:
            async with service.reserved():
                await asyncio.sleep(600)
        finally:
            left.append(service.busy)

    working = asyncio.create_task(work())
    await settle()
    await asyncio.wait_for(service.aclose(), 10)
    assert left == [False]
    assert working.cancelled()
