"""Looks at the machine are remembered, shared and cancelled without leaving anything."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sdmanager.hardware import Gpu, HardwareSnapshot, current_platform, take_snapshot
from sdmanager.hardware._probe import probe
from sdmanager.hardware.taking import Looks

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the files of Linux")

EMPTY = HardwareSnapshot("linux-x64", "Linux", None, None, None, None, None, None, (), ())


class Watched:
    """Counts how often it is looked at; each look waits until it may end."""

    def __init__(self):
        self.now = 100.0
        self.begun = 0
        self.ended = []
        self.may_end = asyncio.Event()
        self.looks = Looks(lambda: self.now)

    async def look(self):
        self.begun += 1
        number = self.begun
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # what a child takes to end
            self.ended.append(number)
            raise
        return replace(EMPTY, cores=number)

    def get(self, max_age=30.0, time_limit=5.0):
        return asyncio.ensure_future(self.looks.get(self.look, max_age=max_age, time_limit=time_limit))


@pytest.fixture
async def watched():
    return Watched()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_callers_at_once_share_one_look(watched):
    waiting = [watched.get() for _ in range(20)]
    await settle()
    watched.may_end.set()
    assert {snapshot.cores for snapshot in await asyncio.gather(*waiting)} == {1}


async def test_a_look_is_remembered_for_as_long_as_asked(watched):
    watched.may_end.set()
    assert (await watched.get()).cores == 1
    watched.now += 29
    assert (await watched.get()).cores == 1
    assert (await watched.get(max_age=28)).cores == 2
    watched.now += 31
    assert (await watched.get()).cores == 3
    assert (await watched.get(max_age=0)).cores == 4


async def test_age_counts_from_the_beginning_of_a_look(watched):
    slow = watched.get()
    await settle()
    watched.now += 20
    watched.may_end.set()
    await slow
    watched.now += 11
    assert (await watched.get()).cores == 2


async def test_who_wants_it_fresh_does_not_join_an_older_look(watched):
    older = watched.get()
    await settle()
    watched.now += 1
    fresh = watched.get(max_age=0)
    await settle()
    watched.may_end.set()
    assert [(await older).cores, (await fresh).cores] == [1, 2]
    assert (await watched.get()).cores == 2


async def test_a_look_that_ends_late_does_not_replace_a_newer_one(watched):
    late = asyncio.Event()

    async def look():
        await late.wait()
        return replace(EMPTY, cores=100)

    older = asyncio.ensure_future(watched.looks.get(look, max_age=30, time_limit=5))
    await settle()
    watched.now += 1
    watched.may_end.set()
    assert (await watched.get(max_age=0)).cores == 1
    late.set()
    assert (await older).cores == 100
    assert (await watched.get()).cores == 1


async def test_who_has_less_time_does_not_join_a_longer_look(watched):
    longer = watched.get(time_limit=60)
    await settle()
    shorter = watched.get(time_limit=1)
    await settle()
    watched.may_end.set()
    assert [(await longer).cores, (await shorter).cores] == [1, 2]


async def test_a_cancelled_caller_leaves_the_look_to_the_others(watched):
    first, second = watched.get(), watched.get()
    await settle()
    first.cancel()
    await asyncio.wait([first])
    watched.may_end.set()
    assert (await second).cores == 1
    assert (first.cancelled(), watched.ended) == (True, [])


async def test_the_last_cancelled_caller_ends_the_look_first(watched):
    callers = [watched.get(), watched.get()]
    await settle()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert [caller.cancelled() for caller in callers] == [True, True]
    assert watched.ended == [1]


async def test_who_asks_while_a_look_is_being_cancelled_gets_a_new_one(watched):
    first = watched.get()
    await settle()
    first.cancel()
    await asyncio.sleep(0)
    second = watched.get()
    await settle()
    watched.may_end.set()
    assert (await second).cores == 2


async def test_an_error_goes_to_all_and_is_not_remembered(watched):
    async def fail():
        await settle()
        raise MemoryError

    both = [asyncio.ensure_future(watched.looks.get(fail, max_age=30, time_limit=5)) for _ in range(2)]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert [type(result) for result in results] == [MemoryError, MemoryError]
    watched.may_end.set()
    assert (await watched.get()).cores == 1


async def test_loops_in_other_threads_see_what_is_remembered(watched):
    watched.may_end.set()
    await watched.get()
    found = []

    def elsewhere():
        found.append(asyncio.run(watched.looks.get(watched.look, max_age=30, time_limit=5)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert found[0].cores == 1


async def test_this_machine_is_described(home, believe):
    snapshot = await take_snapshot(home)
    believe(snapshot)
    assert snapshot.platform == current_platform()
    assert snapshot.ram_total > snapshot.ram_available > 0
    assert snapshot.ram_total <= psutil.virtual_memory().total
    assert snapshot.threads == psutil.cpu_count()
    assert await take_snapshot(home) is snapshot
    assert await take_snapshot(home, max_age=0) is not snapshot


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for devices of Linux")
async def test_this_machine_has_no_card_where_no_device_is(home):

    signs = [
        *Path("/sys/class/drm").glob("renderD*"),
        *Path("/dev").glob("nvidia*"),
        *Path("/dev").glob("dxg"),
    ]
    displays = [
        path for path in Path("/sys/bus/pci/devices").glob("*/class") if path.read_text()[:4] == "0x03"
    ]
    if signs or displays:
        pytest.skip("this machine has a graphics card")
    assert (await take_snapshot(home)).gpus == ()


@on_linux
async def test_cancelling_a_real_look_leaves_no_process(files, machine_with_nvidia):
    task = asyncio.ensure_future(probe(machine_with_nvidia("hang-init"), 60))
    while not psutil.Process().children(recursive=True):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.Process().children(recursive=True)


@on_linux
async def test_a_system_that_does_not_answer_costs_its_facts_only(machine_with_nvidia):
    stuck = threading.Event()

    def read(tree):
        stuck.wait(30)

    try:
        snapshot = await probe(machine_with_nvidia(""), 0.2, read=read)
    finally:
        stuck.set()
    assert (snapshot.ram_total, snapshot.gpus) == (None, ())
    assert snapshot.problems == ("the system's own files did not answer within 0.2 s",)


@on_linux
async def test_a_reader_that_fails_costs_its_facts_only(machine_with_nvidia, caplog):
    def read(tree):
        raise ZeroDivisionError

    snapshot = await probe(machine_with_nvidia(""), 5, read=read)
    assert (snapshot.ram_total, snapshot.problems) == (None, ("the system's files could not be understood",))
    assert "ZeroDivisionError" in caplog.text


@on_linux
@pytest.mark.parametrize("limit", [0, -1, 0.001])
async def test_no_time_at_all_is_no_error(files, machine_with_nvidia, believe, limit):
    believe(await probe(machine_with_nvidia("hang-init"), limit))


def test_json_holds_what_programs_may_read():
    gpu = Gpu("nvidia", "A card", 2, 1, "580.65.06", (8, 9), unified_memory=False, pci="0000:01:00.0")
    assert replace(EMPTY, gpus=(gpu,), problems=("a problem",)).to_json() == {
        "platform": "linux-x64",
        "system": "Linux",
        "cpu": None,
        "cores": None,
        "threads": None,
        "ram_total": None,
        "ram_available": None,
        "glibc": None,
        "gpus": [
            {
                "vendor": "nvidia",
                "name": "A card",
                "total_vram": 2,
                "free_vram": 1,
                "driver": "580.65.06",
                "compute_capability": [8, 9],
                "unified_memory": False,
                "mig": False,
                "pci": "0000:01:00.0",
            }
        ],
        "problems": ["a problem"],
    }


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, sdmanager.hardware; print({'pynvml', 'psutil', 'platformdirs'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
