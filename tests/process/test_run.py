import asyncio
import sys
import time

import pytest

from sdmanager.process import Completed, ExitStatus, StopOutcome, run


async def test_output_and_status_are_collected():
    completed = await run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    assert completed == Completed(b"out\n", b"err\n", ExitStatus(3, None, StopOutcome.EXITED))


async def test_only_the_last_bytes_are_kept():
    code = "import sys; sys.stdout.write('a' * 500_000 + 'end'); sys.stderr.write('b' * 9)"
    completed = await run([sys.executable, "-c", code], limit=10)
    assert (completed.stdout, completed.stderr) == (b"aaaaaaaend", b"bbbbbbbbb")


async def test_limit_of_zero_keeps_nothing():
    assert (await run(["/bin/echo", "x"], limit=0)).stdout == b""


@pytest.mark.parametrize("mode", ["obey", "flood", "grandchild", "ignore"])
async def test_timeout_ends_the_child(fake, token, living, mode):
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        await run(fake(mode), timeout=0.3)
    assert time.monotonic() - start < 20
    assert not living(token)


async def test_no_timeout_when_it_ends_in_time():
    assert (await run(["/bin/true"], timeout=10)).status.ok


async def test_cancellation_ends_the_child(fake, token, living):
    task = asyncio.create_task(run(fake("obey")))
    while not living(token):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not living(token)
