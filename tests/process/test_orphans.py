"""Whatever is killed, nothing of a child survives; and nothing dies that should not."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sdmanager.process import ExitStatus, StopOutcome, run, spawn

ROOT = Path(__file__).parent.parent.parent
MANAGER = ROOT / "tests" / "fakes" / "process_manager.py"
LIMIT = 10.0  # seconds from a kill to the last process


def ignored(_chunk):
    pass


@contextlib.contextmanager
def manager(behaviour, argv):
    command = [sys.executable, str(MANAGER), behaviour, *argv]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def read_until(file, text):
    for line in file:
        if line.startswith(text):
            return line.split()
    raise AssertionError(f"no {text}")


async def watcher_of(leader):
    """The guard's other child, once it is there: it runs the guard's own script.

    The guard forks its child first, so that "ready" may come before there is a watcher.
    """
    guard = psutil.Process(leader)
    async with asyncio.timeout(10):
        while True:
            for child in guard.children():
                with contextlib.suppress(psutil.Error):
                    if child.cmdline() == guard.cmdline():
                        return child
            await asyncio.sleep(0.005)


def assert_reaped(family):
    """Orphans belong to init, which may take seconds to reap them; those of other tests are nobody's business here."""
    deadline = time.monotonic() + 10
    while left := [process for process in family if process.is_running()]:  # zombies count
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def kill_managers(count, fake, token, living, seconds_until_gone):
    dice, worst, families = random.Random(count), 0.0, []
    for turn in range(count):
        mode = ("obey", "ignore", "flood", "grandchild")[turn // 2 % 4]
        with manager("plain", fake(mode)) as process:
            read_until(process.stdout, b"spawning")
            if turn % 2:
                time.sleep(dice.uniform(0, 0.15))
            else:
                read_until(process.stdout, b"ready")
                assert process.poll() is None
                assert len(living(token)) >= 3
            families += living(token)
            process.kill()
            process.wait()
            worst = max(worst, seconds_until_gone(token))
    assert_reaped(families)
    assert worst < LIMIT
    print(f"{count} managers killed, the slowest tree went on for {worst * 1000:.1f} ms")


def test_killed_manager_leaves_nothing(fake, token, living, seconds_until_gone):
    kill_managers(8, fake, token, living, seconds_until_gone)


@pytest.mark.slow
def test_two_hundred_killed_managers_leave_nothing(fake, token, living, seconds_until_gone):
    kill_managers(200, fake, token, living, seconds_until_gone)


def test_manager_that_exits_in_the_block_leaves_nothing(fake, token, living, seconds_until_gone):
    with manager("plain", fake("ignore")) as process:
        read_until(process.stdout, b"ready")
        process.send_signal(signal.SIGTERM)  # Python's default: it dies without a word
        process.wait()
        assert seconds_until_gone(token) < LIMIT


def test_forked_host_process_does_not_keep_the_child(fake, token, living, seconds_until_gone):
    """multiprocessing's fork copies every file; the lifeline was among them."""
    with manager("fork", fake("ignore")) as process:
        forked = psutil.Process(int(read_until(process.stdout, b"forked")[1]))
        try:
            process.kill()
            process.wait()
            # The forked process has the same arguments as its parent.
            start = time.monotonic()
            while set(living(token)) - {forked}:
                assert time.monotonic() < start + LIMIT
                time.sleep(0.002)
            assert forked.is_running()
        finally:
            forked.kill()
    assert seconds_until_gone(token) < LIMIT


async def test_fork_in_the_host_does_not_disturb_the_child(fake, output):
    async with spawn(fake("clean_up"), on_stdout=output, on_stderr=ignored, grace=10) as child:
        await output.until(b"ready")
        forked = os.fork()
        if not forked:
            os._exit(0)
        assert os.waitpid(forked, 0)[1] == 0
        assert await child.stop() == ExitStatus(7, None, StopOutcome.TERMINATED)


async def test_exception_that_leaves_the_block_in_a_forked_process_does_not_end_the_child(
    fake, output, living, token
):
    forked = None
    try:
        async with spawn(
            fake("obey"), on_stdout=output, on_stderr=ignored, backstop=0.05, grace=0.05
        ) as child:
            await output.until(b"ready")
            await watcher_of(child.pid)
            forked = os.fork()
            if not forked:
                child._process.terminate()
                child._process.kill()
                os._exit(0)
            os.waitpid(forked, 0)
            assert len(living(token)) == 3
    finally:
        if forked == 0:
            os._exit(1)


def spawn_from_threads(count, fake, new_output, token, living):
    """The child of a thread that ended lives on: PR_SET_PDEATHSIG would have killed it."""
    loop = asyncio.new_event_loop()
    children, stack = [], contextlib.AsyncExitStack()

    def enter():
        output = new_output()

        async def begin():
            argv = fake("obey")
            children.append(await stack.enter_async_context(spawn(argv, on_stdout=output, on_stderr=ignored)))
            await output.until(b"ready")
            await watcher_of(children[-1].pid)

        loop.run_until_complete(begin())

    try:
        for _ in range(count):
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
        loop.run_until_complete(asyncio.sleep(0.2))
        assert len(living(token)) == 3 * count
        assert not any(child._final.done() for child in children)
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()
    outcomes = {child._final.result() for child in children}
    assert outcomes == {ExitStatus(None, signal.SIGTERM, StopOutcome.TERMINATED)}
    assert not living(token)


def test_child_outlives_the_thread_that_spawned_it(fake, new_output, token, living):
    spawn_from_threads(5, fake, new_output, token, living)


@pytest.mark.slow
def test_fifty_children_outlive_the_threads_that_spawned_them(fake, new_output, token, living):
    spawn_from_threads(50, fake, new_output, token, living)


async def kill_guards(count, fake, new_output, living):
    for turn in range(count):
        mode, output, mark = (
            ("obey", "ignore", "grandchild")[turn % 3],
            new_output(),
            f"guard-{turn}-{os.getpid()}",
        )
        argv = fake(mode, mark=mark)
        async with spawn(argv, on_stdout=output, on_stderr=ignored, backstop=60) as child:
            await output.until(b"ready")
            start = time.monotonic()
            os.kill(child.pid, signal.SIGKILL)
            assert await child.wait() == ExitStatus(None, signal.SIGKILL, StopOutcome.EXITED)
            assert time.monotonic() - start < LIMIT
            assert not living(mark)
        assert (await run(["/bin/true"])).status.ok


async def test_killed_guard_leaves_nothing(fake, new_output, living):
    await kill_guards(3, fake, new_output, living)


@pytest.mark.slow
async def test_twenty_killed_guards_leave_nothing(fake, new_output, living):
    await kill_guards(20, fake, new_output, living)


def kill_guards_with_managers(count, fake, token, seconds_until_gone):
    for turn in range(count):
        with manager("plain", fake(("ignore", "grandchild")[turn % 2])) as process:
            leader = int(read_until(process.stdout, b"leader")[1])
            read_until(process.stdout, b"ready")
            victims = [process.pid, leader]
            for victim in victims if turn % 4 < 2 else reversed(victims):
                os.kill(victim, signal.SIGKILL)
            process.wait()
            assert seconds_until_gone(token) < LIMIT


def test_guard_killed_together_with_the_manager(fake, token, seconds_until_gone):
    kill_guards_with_managers(2, fake, token, seconds_until_gone)


@pytest.mark.slow
def test_twenty_guards_killed_together_with_the_manager(fake, token, seconds_until_gone):
    kill_guards_with_managers(20, fake, token, seconds_until_gone)


async def test_guard_killed_in_its_first_moments(token, fake, living):
    for turn in range(20):
        async with spawn(fake("ignore"), on_stdout=ignored, on_stderr=ignored) as child:
            time.sleep(turn * 0.0002)
            os.kill(child.pid, signal.SIGKILL)
            assert (await child.wait()).signal == signal.SIGKILL
        assert not living(token)


async def kill_watchers(count, fake, new_output, living, caplog):
    """An unguarded child is ended: it would survive its manager. One that ends by itself is not affected."""

    async def one(turn):
        output, mark = new_output(), f"watcher-{turn}-{os.getpid()}"
        async with spawn(fake("ignore", mark=mark), on_stdout=output, on_stderr=ignored) as child:
            await output.until(b"ready")
            watcher = await watcher_of(child.pid)
            start = time.monotonic()
            watcher.kill()
            assert (await child.wait()).signal == signal.SIGKILL
            assert time.monotonic() - start > 1.5
        assert not living(mark)

    await asyncio.gather(*(one(turn) for turn in range(count)))
    assert caplog.text.count("lost its watcher") == count


async def test_child_whose_watcher_was_killed_is_ended(fake, new_output, living, caplog):
    await kill_watchers(2, fake, new_output, living, caplog)


@pytest.mark.slow
async def test_twenty_children_whose_watchers_were_killed_are_ended(fake, new_output, living, caplog):
    await kill_watchers(20, fake, new_output, living, caplog)


async def test_polite_signal_to_the_group_leaves_guard_and_watcher(fake, output):
    async with spawn(fake("ignore"), on_stdout=output, on_stderr=ignored, grace=0.1) as child:
        await output.until(b"ready")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            watcher = await watcher_of(child.pid)
            if number == signal.SIGTERM:
                os.killpg(child.pid, number)
            else:
                os.kill(child.pid, number)
                os.kill(watcher.pid, number)
        await asyncio.sleep(0.1)
        assert watcher.is_running()
        assert watcher.status() != psutil.STATUS_ZOMBIE
        assert not child._final.done()


def test_orphans_do_not_become_zombies_of_a_process_that_inherits_them(tmp_path):
    """As the first process of a container: nobody else reaps what a killed group leaves."""
    script = """
import asyncio, ctypes, os, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
from sdmanager.process import spawn

async def main():
    for grace in (0, 0.1) * 5:
        received = bytearray()
        async with spawn(sys.argv[1:], on_stdout=received.extend, on_stderr=print, grace=grace) as child:
            while received.count(b"leaf") < 4:
                await asyncio.sleep(0.005)
        try:
            raise SystemExit(f"a zombie is left: {os.waitpid(-1, os.WNOHANG)}")
        except ChildProcessError:
            pass

asyncio.run(main())
"""
    fake = [sys.executable, "-I", "-S", str(ROOT / "tests" / "fakes" / "process_child.py"), "tree", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *fake]
    completed = subprocess.run(command, env=env, capture_output=True, timeout=30, check=False)
    assert (completed.returncode, completed.stderr) == (0, b"")


def test_child_that_ends_by_itself_leaves_no_orphan_at_all():
    """Where nobody reaps orphans, as in many containers, each would stay as a zombie for good."""
    manager = """
import asyncio
from sdmanager.process import run

for _ in range(10):
    asyncio.run(run(["/bin/true"]))
"""
    first_process = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
manager = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
reaped = []
while True:
    try:
        reaped.append(os.waitpid(-1, 0)[0])
    except ChildProcessError:
        break
manager.returncode = 0
sys.exit(reaped != [manager.pid])
"""
    command = [sys.executable, "-c", first_process, manager]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(command, env=env, capture_output=True, timeout=30, check=False)
    assert (completed.returncode, completed.stderr) == (0, b"")
