import asyncio
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sdmanager.process import ExitStatus, StopOutcome, _posix, run, spawn

GRACE = 0.15
BACKSTOP = 0.3
TERMINATED = ExitStatus(None, signal.SIGTERM, StopOutcome.TERMINATED)
KILLED = ExitStatus(None, signal.SIGKILL, StopOutcome.KILLED)


def ignored(_chunk):
    pass


def spawn_quickly(argv, output, **options):
    return spawn(argv, on_stdout=output, on_stderr=ignored, **{"grace": GRACE, "backstop": 60, **options})


async def test_stop_of_an_obedient_child_terminates_it(fake, output):
    async with spawn_quickly(fake("obey"), output, grace=10) as child:
        await output.until(b"ready")
        assert await child.stop() == TERMINATED


async def test_stop_lets_the_child_clean_up(fake, output):
    async with spawn_quickly(fake("clean_up"), output, grace=10) as child:
        await output.until(b"ready")
        assert await child.stop() == ExitStatus(7, None, StopOutcome.TERMINATED)
    assert output.received == b"ready\ncleaned\n"


async def test_stop_of_a_deaf_child_kills_it_after_the_grace(fake, output):
    async with spawn_quickly(fake("ignore"), output) as child:
        await output.until(b"ready")
        start = time.monotonic()
        assert await child.stop() == KILLED
        assert time.monotonic() - start >= GRACE


async def test_stop_without_grace_kills_at_once(fake, output):
    async with spawn_quickly(fake("obey"), output, grace=10) as child:
        await output.until(b"ready")
        assert await child.stop(0) == KILLED


async def test_second_stop_may_shorten_the_grace_but_not_lengthen_it(fake, output):
    async with spawn_quickly(fake("ignore"), output, grace=60) as child:
        await output.until(b"ready")
        start = time.monotonic()
        results = await asyncio.gather(child.stop(), child.stop(0.1), child.stop(30), child.wait())
        assert results == [KILLED] * 4
        assert time.monotonic() - start < 20


async def test_stop_twice_asks_once(fake, output):
    async with spawn_quickly(fake("clean_up"), output, grace=10) as child:
        await output.until(b"ready")
        first, second, waited = await asyncio.gather(child.stop(), child.stop(), child.wait())
        assert first == second == waited == await child.stop() == await child.wait()
    assert output.received.count(b"cleaned") == 1


async def test_stop_after_the_exit_reports_the_exit():
    async with spawn_quickly(["/bin/sh", "-c", "exit 4"], ignored) as child:
        await child.wait()
        assert await child.stop() == ExitStatus(4, None, StopOutcome.EXITED)


async def test_stop_after_an_exit_not_noticed_yet_reports_the_exit():
    async with spawn_quickly(["/bin/sh", "-c", "exit 4"], ignored) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # the loop does not run meanwhile
        assert await child.stop() == ExitStatus(4, None, StopOutcome.EXITED)


async def test_stop_right_after_the_start_is_never_lost(fake):
    for mode, turn in itertools.product(("obey", "clean_up"), range(15)):
        start = time.monotonic()
        async with spawn_quickly(fake(mode), ignored, grace=10) as child:
            if turn:
                await asyncio.sleep(turn * 0.0003)
            assert (await child.stop()).outcome is StopOutcome.TERMINATED
        assert time.monotonic() - start < 8


async def test_leaving_the_block_stops_the_child(fake, output, token, living):
    async with spawn_quickly(fake("obey"), output):
        await output.until(b"ready")
        assert living(token)
    assert not living(token)


async def test_error_in_the_block_stops_the_child(fake, output, token, living):
    async def job():
        async with spawn_quickly(fake("ignore"), output):
            await output.until(b"ready")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await job()
    assert not living(token)


async def test_cancelled_wait_leaves_the_child(fake, output, token, living):
    async with spawn_quickly(fake("obey"), output) as child:
        await output.until(b"ready")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.wait(), 0.05)
        assert living(token)
        assert await child.stop() == TERMINATED


async def test_cancelled_stop_goes_on(fake, output):
    async with spawn_quickly(fake("ignore"), output) as child:
        await output.until(b"ready")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.stop(), 0.01)
        assert await asyncio.wait_for(child.wait(), 20) == KILLED


async def test_cancellations_during_the_teardown_are_delivered_after_it(fake, output, token, living):
    async def job():
        async with spawn_quickly(fake("ignore"), output, grace=1.0) as child:
            await child.wait()

    task = asyncio.create_task(job())
    await output.until(b"ready")
    for _ in range(20):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not living(token)


async def test_cancellation_that_arrives_in_the_teardown_of_a_finished_block(fake, output, token, living):
    leaves = asyncio.Event()

    async def job():
        async with spawn_quickly(fake("ignore"), output):
            await output.until(b"ready")
            leaves.set()  # who waits for it goes on when the teardown has begun

    task = asyncio.create_task(job())
    await leaves.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not living(token)


async def test_timeout_during_the_teardown_is_a_timeout(fake, output):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), spawn_quickly(fake("ignore"), output, grace=0.5):
            await output.until(b"ready")


async def test_cancellation_before_the_first_step_starts_nothing(fake, token, living):
    async def job():
        async with spawn_quickly(fake("obey"), ignored) as child:
            await child.wait()

    task = asyncio.create_task(job())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not living(token)


def test_end_of_the_loop_with_an_abandoned_task_ends_the_child(fake, token, new_output, living):
    async def job(output):
        async with spawn_quickly(fake("ignore"), output) as child:
            await child.wait()

    async def main():
        output = new_output()
        main.task = asyncio.create_task(job(output))
        await output.until(b"ready")

    asyncio.run(main())
    assert main.task.cancelled()
    assert not living(token)


async def test_end_of_the_leader_ends_its_group(fake, output, token, living):
    start = time.monotonic()
    async with spawn_quickly(fake("leave"), output, backstop=60) as child:
        assert (await child.wait()).code == 0
        assert not living(token)
    assert time.monotonic() - start < 30
    assert b"left" in output.received


async def test_pipe_held_outside_the_group_is_cut_after_the_backstop(fake, output, caplog):
    start = time.monotonic()
    async with spawn_quickly(fake("escape"), output, backstop=BACKSTOP) as child:
        assert (await child.wait()).code == 0
    assert time.monotonic() - start >= BACKSTOP
    assert "holds the pipe" in caplog.text
    caplog.clear()
    # Nobody but the test can end this one.
    psutil.Process(int(output.received.split(b"escaped ")[1].split()[0])).kill()


async def test_tree_that_ignores_sigterm(fake, output, token, living):
    async with spawn_quickly(fake("tree", "2"), output) as child:
        await output.until(b"leaf", 4)
        assert len(living(token)) == 9  # 1 + 2 + 4, the guard and its watcher
        assert (await child.stop()).outcome is StopOutcome.KILLED
        assert not living(token)


def test_process_whose_first_thread_ended_still_counts():
    """The kernel shows it as a zombie, but its memory, also that on a GPU, is not free yet."""
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True) as process:
        deadline = time.monotonic() + 5
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
        assert _posix._has_living_members(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not _posix._has_living_members(process.pid)


async def trees(count, fake, new_output, living):
    async def tree(number):
        output, mark = new_output(), f"tree-{number}-{os.getpid()}"
        async with spawn_quickly(fake("tree", "2", mark=mark), output, grace=0.1) as child:
            await output.until(b"leaf", 4)
            status = await child.stop()
        assert not living(mark)
        assert status == KILLED

    for first in range(0, count, 2):
        await asyncio.gather(*(tree(first + n) for n in range(2)))


async def test_trees_that_ignore_sigterm(fake, new_output, living):
    await trees(4, fake, new_output, living)


@pytest.mark.slow
async def test_fifty_trees_that_ignore_sigterm(fake, new_output, living):
    await trees(50, fake, new_output, living)


async def cancel_at_random(mode, count, fake, new_output, living, caplog):
    caplog.set_level(logging.CRITICAL, "sdmanager.process")
    dice = random.Random(count)

    async def job(mark, output):
        async with spawn_quickly(fake(mode, mark=mark), output) as child:
            await child.wait()
            await asyncio.sleep(60)

    for turn in range(count):
        mark, output = f"cancel-{mode}-{turn}-{os.getpid()}", new_output()
        task = asyncio.create_task(job(mark, output))
        await asyncio.sleep(dice.choice((0.002, 0.03, 0.15)) * dice.random())
        start = time.monotonic()
        for _ in range(dice.choice((1, 1, 3))):
            task.cancel()
            await asyncio.sleep(dice.choice((0, 0, 0.01)))
        await asyncio.wait([task])
        assert time.monotonic() - start < 20
        assert task.cancelled()
        assert not living(mark)
        assert (await run(["/bin/echo", "next"])).stdout == b"next\n"


@pytest.mark.parametrize("mode", ["obey", "ignore", "flood", "grandchild"])
async def test_cancellations_at_random_points(mode, fake, new_output, living, caplog):
    await cancel_at_random(mode, 8, fake, new_output, living, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["obey", "ignore", "flood", "grandchild"])
async def test_hundred_cancellations_at_random_points(mode, fake, new_output, living, caplog):
    await cancel_at_random(mode, 100, fake, new_output, living, caplog)
