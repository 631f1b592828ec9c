"""Several who ask for the same model in one process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pulling import SIZE

from sdmanager.errors import ModelDownloadError


@pytest.fixture
def held(pulling):
    """The transfer waits in its middle until this is set."""
    knobs = pulling.knobs()
    knobs.hold, knobs.held_after = threading.Event(), SIZE // 2
    yield knobs
    knobs.hold.set()


async def arrived(held) -> None:
    assert await asyncio.to_thread(held.reached.wait, 30)


async def test_two_share_one_transfer_and_each_is_told(pulling, held):
    told: list[list[object]] = [[], []]
    first = asyncio.create_task(pulling.pull(on_progress=told[0].append))
    await arrived(held)
    second = asyncio.create_task(pulling.pull(on_progress=told[1].append))
    await asyncio.sleep(0)
    while not told[1]:  # the newest, at once
        await asyncio.sleep(0.01)
    held.hold.set()
    assert await first == await second
    assert len(pulling.hub.transfers()) == 1
    assert told[0][-1] == told[1][-1]
    assert told[0][-1].phase == "done"
    assert len(told[0]) > len(told[1])


async def test_one_that_leaves_does_not_end_it_for_the_other(pulling, held):
    first, second = (asyncio.create_task(pulling.pull()) for _ in range(2))
    await arrived(held)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    held.hold.set()
    assert (await second).name == "whole"
    assert len(pulling.hub.transfers()) == 1


async def test_the_last_one_to_leave_ends_it(pulling, held):
    tasks = [asyncio.create_task(pulling.pull()) for _ in range(3)]
    await arrived(held)
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in done)
    assert pulling.left() == []
    held.hold.set()
    await pulling.pull()


async def test_an_error_is_for_all(pulling, held):
    held.served = bytes(len(held.data))
    tasks = [asyncio.create_task(pulling.pull()) for _ in range(2)]
    await arrived(held)
    held.hold.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, ModelDownloadError) for each in done)


async def test_an_error_of_a_callback_is_its_owners(pulling, held):
    def fail(progress):
        if progress.phase == "downloading":
            raise KeyError("mine")

    first = asyncio.create_task(pulling.pull(on_progress=fail))
    second = asyncio.create_task(pulling.pull())
    await arrived(held)
    with pytest.raises(KeyError, match="mine"):
        await first
    held.hold.set()
    assert (await second).name == "whole"


async def test_an_error_of_the_only_callback_ends_it(pulling):
    def fail(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await pulling.pull(on_progress=fail)
    assert pulling.left() == []
    assert pulling.records() == []


async def test_another_event_loop_waits_and_finds_it(pulling, held):
    told = []

    def look(progress):
        told.append(progress.phase)
        if progress.phase == "waiting":
            held.hold.set()

    first = asyncio.create_task(pulling.pull())
    await arrived(held)
    second = await asyncio.to_thread(lambda: asyncio.run(pulling.pull(on_progress=look)))
    assert await first == second
    assert told == ["waiting", "done"]
    assert len(pulling.hub.transfers()) == 1


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, StopIteration])
async def test_whatever_a_callback_raises_ends_only_its_owners_part(pulling, held, error):
    def fail(progress):
        if progress.phase == "downloading":
            raise error

    async def first() -> str:
        try:
            await pulling.pull(on_progress=fail)
        except (asyncio.CancelledError, KeyboardInterrupt, RuntimeError) as exc:
            return str(type(exc.__cause__ or exc))
        return "nothing"

    tasks = [asyncio.create_task(first()), asyncio.create_task(pulling.pull())]
    await arrived(held)
    assert error.__name__ in await tasks[0]
    held.hold.set()
    assert (await tasks[1]).name == "whole"
    assert len(pulling.hub.transfers()) == 1
