"""Blocking work beside the loop, and a loop beside blocking work."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from sdmanager.errors import ServerError
from sdmanager.threads import LoopThread, beside, in_stoppable_thread, in_thread, outlast


@pytest.fixture
def loop_thread():
    thread = LoopThread("test-loop")
    yield thread
    thread.close()


async def test_a_thread_is_outlasted_however_often_the_task_is_cancelled():
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.2)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_stoppable_thread_is_told():
    stop = threading.Event()
    task = asyncio.create_task(in_stoppable_thread(stop, stop.wait, 30))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outlasting_what_is_done_is_nothing():
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    await outlast(future)


async def test_an_application_that_fills_its_own_threads_does_not_stop_ours():
    release = threading.Event()
    filling = [asyncio.create_task(asyncio.to_thread(release.wait, 30)) for _ in range(64)]
    try:
        assert await asyncio.wait_for(beside(lambda: 7), 20) == 7
    finally:
        release.set()
        await asyncio.gather(*filling)


def test_a_forked_child_has_threads_of_its_own():
    code = """
import asyncio, os
from sdmanager.threads import beside
asyncio.run(beside(int))
pid = os.fork()
if pid == 0:
    os._exit(asyncio.run(beside(lambda: 7)))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() == b"7"


AFTER_THE_MAIN_THREAD = """
import asyncio, threading, time
from sdmanager.threads import beside
def later():
    threading.main_thread().join()
    print(asyncio.run(beside(lambda: 7)), flush=True)
threading.Thread(target=later).start()
"""
WHAT_IS_LEFT_IS_FINISHED = """
import asyncio, threading
from sdmanager.threads import beside
begun, ended = threading.Event(), threading.Event()
def work():
    begun.set()
    ended.wait(0.5)
    print(7, flush=True)
async def main():
    task = asyncio.create_task(beside(work))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
asyncio.run(main())
"""


@pytest.mark.parametrize("code", [AFTER_THE_MAIN_THREAD, WHAT_IS_LEFT_IS_FINISHED])
def test_work_is_done_even_when_the_main_thread_has_ended(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False, text=True
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("7", "", 0)


PULLING_AND_DRAWING = """
import threading, time
from sdmanager import generate_image, pull_model
def both():
    threading.main_thread().join()
    model = pull_model("sd-turbo")
    result = generate_image("a cat", model=model.name, steps=1, width=64, height=64)
    print(result.image.width, flush=True)
threading.Thread(target=both).start()
"""


def test_a_thread_that_outlives_the_main_one_pulls_and_draws(hub_environment: dict[str, str]):
    done = subprocess.run(
        [sys.executable, "-c", PULLING_AND_DRAWING],
        env=hub_environment, capture_output=True, timeout=120, check=False, text=True,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("64", "", 0)


async def test_more_work_than_threads_is_done_in_turn():
    async def ten(number: int) -> list[int]:
        return [await beside(lambda: number) for _ in range(10)]

    assert await asyncio.gather(*map(ten, range(50))) == [[number] * 10 for number in range(50)]
    assert sum(thread.name.startswith("sdmanager_") for thread in threading.enumerate()) <= 16


async def test_an_error_is_let_go_with_what_it_came_from():
    class Mark:
        pass

    def fails(mark: Mark) -> None:
        raise ZeroDivisionError

    mark = Mark()
    gone = weakref.ref(mark)
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError) as raised:
            await beside(fails, mark)
        del mark, raised
        for _ in range(1000):  # the worker may not have let go of it yet
            if gone() is None:
                break
            await asyncio.sleep(0.005)
        assert gone() is None
    finally:
        gc.enable()


def test_results_errors_and_what_is_told_come_to_the_caller(loop_thread):
    told = []

    async def work(tell):
        tell(1)
        await asyncio.sleep(0)
        tell(2)
        return 3

    assert loop_thread.run(work, told.append) == 3
    assert told == [1, 2]

    async def fails(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop_thread.run(fails)


def test_what_cannot_even_be_begun_is_an_error_and_no_hang(loop_thread):
    def begin(_):
        raise TypeError("wrong arguments")

    with pytest.raises(TypeError, match="wrong arguments"):
        loop_thread.run(begin)


def test_a_blocking_call_in_the_loops_own_thread_is_refused_and_a_plain_one_is_made(loop_thread):
    async def outer(_):
        assert loop_thread.call(lambda: 7) == 7
        with pytest.raises(ServerError, match="wait for itself"):
            loop_thread.run(lambda _: asyncio.sleep(0))
        return "went on"

    assert loop_thread.run(outer) == "went on"
    assert loop_thread.call(lambda: 7) == 7


def test_what_interrupts_the_wait_cancels_and_waits(loop_thread):
    ended = []

    async def work(tell):
        tell("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            ended.append(True)

    def interrupt(_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop_thread.run(work, interrupt)
    assert ended == [True]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_before_the_loop_gets_to_it_leaves_nothing_running(loop_thread):
    loop_thread.call(int)
    begun = []

    async def work(_):
        begun.append(True)
        try:
            await asyncio.sleep(60)
        finally:
            begun.append(False)

    loop_thread._loop.call_soon_threadsafe(time.sleep, 0.3)  # the loop is busy when the call comes
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])

    def interrupted() -> None:
        timer.start()  # within `raises`: on a busy machine the signal may come at once
        loop_thread.run(work)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    timer.join()
    assert begun in ([], [True, False])


def test_closing_cancels_and_can_be_done_twice(loop_thread):
    async def begin(_):
        return asyncio.create_task(asyncio.sleep(60))

    task = loop_thread.run(begin)
    loop_thread.close()
    loop_thread.close()
    assert task.cancelled()
    assert loop_thread.call(lambda: 7) == 7  # a new loop
