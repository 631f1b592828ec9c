"""Tasks of one generator on several event loops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sdmanager.generation import LoopLocks, RunningTasks

WAIT = 60.0  # only where hanging is the failure


async def busy(running: RunningTasks, begun: threading.Event) -> None:
    with running.current():
        begun.set()
        await asyncio.Event().wait()


async def test_the_others_are_cancelled_and_waited_for() -> None:
    running, begun, ended = RunningTasks(), threading.Event(), []

    async def slow_to_end() -> None:
        with running.current():
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                ended.append(True)

    tasks = [asyncio.create_task(slow_to_end()), asyncio.create_task(busy(running, begun))]
    await asyncio.sleep(0)
    with running.current():  # one that closes may be one of them
        await running.cancel_others()
    assert ended == [True]
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*tasks, return_exceptions=True)
    )
    await running.cancel_others()


def test_those_of_a_loop_in_another_thread_are_cancelled_there() -> None:
    running, begun, ends = RunningTasks(), threading.Event(), []

    def work() -> None:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(busy(running, begun))
        ends.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(WAIT)
    asyncio.run(running.cancel_others())
    thread.join(WAIT)
    assert ends == [True]


@pytest.mark.parametrize("is_closed", [True, False])
def test_what_a_loop_left_behind_is_not_waited_for(is_closed: bool) -> None:
    """It can never end: closing raised that the loop is closed, or would hang."""
    running, begun = RunningTasks(), threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(busy(running, begun))
    loop.run_until_complete(asyncio.sleep(0))
    assert begun.is_set()
    if is_closed:
        loop.close()
        task._log_destroy_pending = False  # the complaint of asyncio, which is right
    asyncio.run(asyncio.wait_for(running.cancel_others(), WAIT))
    asyncio.run(asyncio.wait_for(running.cancel_others(), WAIT))
    if not is_closed:  # it ends where its loop goes on
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def test_each_loop_has_a_lock_of_its_own_and_closed_ones_are_forgotten() -> None:
    locks = LoopLocks()

    async def current() -> asyncio.Lock:
        assert locks.current() is locks.current()
        return locks.current()

    first, second = asyncio.run(current()), asyncio.run(current())
    assert first is not second
    assert len(locks._locks) == 1
