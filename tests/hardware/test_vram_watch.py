"""What an engine has of graphics memory is what its driver says, or nothing; a driver that fails costs nothing else."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdmanager.hardware import VramWatch, watching
from sdmanager.hardware.watching import watch_machine, watch_vram

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is built for Linux")

GIB, MIB = 1 << 30, 1 << 20
ENGINE, OTHER, WRAPPER = 70001, 70002, 70000


@pytest.fixture
def use(tmp_path, files):
    """Has the library say that so much is in use, from now on."""
    files.write("/dev/nvidiactl")

    def use(*lines):
        text = "\n".join(" ".join(map(str, line)) for line in lines)
        (tmp_path / "use.part").write_text(text)
        (tmp_path / "use.part").replace(tmp_path / "use")

    return use


def found(machine):
    async def find():
        return machine

    return find


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        await asyncio.sleep(0.02)


def nothing_left():
    return psutil.Process().children(recursive=True) == []


async def test_the_peak_of_the_process_is_kept_when_it_gives_back(machine, use):
    use(("C", 0, ENGINE, 2 * GIB), ("C", 0, OTHER, 9 * GIB))
    async with watch_machine(ENGINE, found(machine())) as watch:
        await until(lambda: watch.peak == 2 * GIB)
        use(("C", 0, ENGINE, 3 * GIB), ("C", 0, OTHER, 9 * GIB))
        await until(lambda: watch.peak == 3 * GIB)
        use(("C", 0, ENGINE, 1 * GIB))
        await asyncio.sleep(0.4)
    assert watch.peak == 3 * GIB
    assert nothing_left()


async def test_what_is_below_the_guard_counts_together(machine, use, files):
    files.write(f"/proc/{WRAPPER}/task/{WRAPPER}/children", f"{ENGINE} 70005 ")
    files.write(f"/proc/{ENGINE}/task/{ENGINE}/children", "70006")
    use(("C", 0, ENGINE, GIB), ("C", 0, 70006, GIB), ("C", 0, OTHER, 5 * GIB))
    async with watch_machine(WRAPPER, found(machine())) as watch:
        await until(lambda: watch.peak is not None)
    assert watch.peak == 2 * GIB


async def test_one_that_computes_and_draws_is_counted_once_and_two_cards_twice(machine, use):
    both = [("C", 0, ENGINE, GIB), ("G", 0, ENGINE, GIB), ("G", 1, ENGINE, 2 * GIB)]
    use(*both)
    async with watch_machine(ENGINE, found(machine("cards=2"))) as watch:
        await until(lambda: watch.peak is not None)
        await asyncio.sleep(0.2)
    assert watch.peak == 3 * GIB


async def test_more_processes_than_there_is_room_for(machine, use):
    use(*[("C", 0, 80000 + n, MIB) for n in range(3000)], ("C", 0, ENGINE, GIB))
    async with watch_machine(ENGINE, found(machine())) as watch:
        await until(lambda: watch.peak is not None)
    assert watch.peak == GIB


@pytest.mark.parametrize("words", ["hidden", "no-processes"])
async def test_where_processes_are_not_told_apart_the_growth_of_the_card_counts(machine, use, words):
    rest = [("C", 0, ENGINE, GIB)]
    use(("U", 0, 0, 4 * GIB), *rest)
    async with watch_machine(ENGINE, found(machine(words))) as watch:
        # The first look is the base; that it was had shows in the noise, of which nothing is said.
        await started(watch)
        use(("U", 0, 0, 4 * GIB + 8 * MIB), *rest)
        await until(lambda: watch._grown == 8 * MIB)
        assert watch.peak is None
        use(("U", 0, 0, 6 * GIB), *rest)
        await until(lambda: watch.peak == 2 * GIB)
        use(("U", 0, 0, 3 * GIB), *rest)
        await asyncio.sleep(0.3)
    assert watch.peak == 2 * GIB


async def test_of_a_card_in_parts_each_part_is_looked_at(machine, use):
    use(("U", 0, 0, GIB), ("U", 2, 0, GIB))
    async with watch_machine(ENGINE, found(machine("mig hidden"))) as watch:
        await started(watch)
        use(("U", 0, 0, GIB), ("U", 2, 0, 3 * GIB))
        await until(lambda: watch.peak is not None)
    assert watch.peak == 2 * GIB


async def test_a_figure_for_the_process_wins_over_growth(machine, use):
    use(("U", 0, 0, GIB), ("C", 0, ENGINE, GIB))
    async with watch_machine(ENGINE, found(machine())) as watch:
        await until(lambda: watch.peak is not None)
        use(("U", 0, 0, 20 * GIB), ("C", 0, ENGINE, GIB))
        await until(lambda: watch._grown == 19 * GIB)
    assert watch.peak == GIB


async def test_nothing_in_use_is_unknown(machine, use):
    use(("C", 0, OTHER, GIB))
    async with watch_machine(ENGINE, found(machine())) as watch:
        await started(watch)
    assert watch.peak is None


@pytest.mark.parametrize(
    "words",
    ["hang-init", "hang-processes", "hang-memory", "segv", "segv-processes", "abort", "exit", "quit", "init=9",
     "count-error=999", "cards=0", "garbage hang-init", "absurd", "lost-memory no-processes"],
)  # fmt: skip
async def test_a_library_that_fails_costs_the_figure_alone(machine, use, words):
    use(("C", 0, ENGINE, 99 << 40))
    began = time.monotonic()
    async with watch_machine(ENGINE, found(machine(words))) as watch:
        await asyncio.sleep(0.3)
    assert time.monotonic() - began < 20
    assert watch.peak is None
    assert nothing_left()


async def test_what_was_seen_before_a_crash_is_known(machine, use, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, signal\nprint('own', 5 << 30, flush=True)\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setattr(watching, "_SCRIPT", script)
    use()
    async with watch_machine(ENGINE, found(machine())) as watch:
        await until(lambda: watch.peak == 5 * GIB)


async def test_one_that_talks_without_end_is_ended(machine, use, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("while True: print('own 12' * 100)\n")
    monkeypatch.setattr(watching, "_SCRIPT", script)
    use()
    async with watch_machine(ENGINE, found(machine())) as watch:
        await until(lambda: watch._heard > MIB)
        await until(nothing_left)
    assert watch.peak is None


@pytest.mark.parametrize(
    ("said", "peak"),
    [
        (b"own 5\n", 5),
        (b"own 5\nown 3\n", 5),
        (b"ow", None),
        (b"own -5\nown 0\nown x\nown\n\nown 5 5\nown 1e9\nfree 7\n", None),
        (b"own 99999999999999999999999\nown 18446744073709551615\n", None),
        (b"\xff\xfe\0own 5\n", None),
        (b"grown 16777216\n", 16 * MIB),
        (b"grown 16777215\n", None),
    ],
)
def test_only_what_can_be_true_is_believed(said, peak):
    for size in (1, 3, 1000):
        watch = VramWatch()
        for start in range(0, len(said), size):
            watch.feed(said[start : start + size])
        assert watch.peak == peak


async def test_amd_s_kernel_says_what_a_process_has(machine, files):
    files.write("/dev/dri/renderD128")
    files.card("0000:03:00.0", "0x1002", "0x744c", "amdgpu", mem_info_vram_used=str(GIB))
    client = "drm-driver:\tamdgpu\ndrm-client-id:\t7\ndrm-pdev:\t0000:03:00.0\n"
    memory = "drm-memory-vram:\t2097152 KiB\ndrm-memory-gtt:\t999999 KiB\ndrm-memory-cpu:\t9 KiB\n"
    for number in (4, 5):  # duplicates of one another
        files.link(f"/proc/{ENGINE}/fd/{number}", "/dev/dri/renderD128")
        files.write(f"/proc/{ENGINE}/fdinfo/{number}", client + memory)
    files.link(f"/proc/{ENGINE}/fd/6", "/home/somebody/x")
    files.write(f"/proc/{ENGINE}/fdinfo/6", client.replace("7", "8") + memory)
    async with watch_machine(ENGINE, found(machine("init=9"))) as watch:
        await until(lambda: watch.peak is not None)
        files.write(f"/sys/class/kfd/kfd/proc/{ENGINE}/vram_1234", str(3 * GIB))
        await until(lambda: watch.peak == 3 * GIB)


async def test_intel_s_kernel_says_what_is_there_rather_than_what_may_be(machine, files):
    files.write("/dev/dri/renderD128")
    text = "drm-client-id: 3\ndrm-total-vram0: 9 MiB\ndrm-resident-vram0: 4 MiB\ndrm-resident-gtt: 7 MiB\n"
    files.link(f"/proc/{ENGINE}/fd/4", "/dev/dri/renderD128")
    files.write(f"/proc/{ENGINE}/fdinfo/4", text)
    async with watch_machine(ENGINE, found(machine("init=9"))) as watch:
        await until(lambda: watch.peak is not None)
    assert watch.peak == 4 * MIB


async def test_amd_without_figures_of_processes_counts_growth(machine, files):
    files.write("/dev/dri/renderD128")
    files.card("0000:03:00.0", "0x1002", "0x744c", "amdgpu", mem_info_vram_used=str(GIB))
    path = "/sys/bus/pci/devices/0000:03:00.0/mem_info_vram_used"
    async with watch_machine(ENGINE, found(machine("init=9"))) as watch:
        await started(watch)
        files.write(path, f"{3 * GIB}\n")
        await until(lambda: watch.peak is not None)
    assert watch.peak == 2 * GIB


async def test_nobody_is_asked_where_no_card_can_be(machine, tmp_path):
    async with watch_machine(ENGINE, found(machine("hang-init"))) as watch:
        await asyncio.sleep(0.3)
        assert nothing_left()
    assert watch.peak is None
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    "broken", [{"python": None}, {"python": Path("/nowhere/python")}, {"guard": ("/nowhere",)}]
)
async def test_without_a_watcher_nothing_is_known(machine, use, broken):
    use(("C", 0, ENGINE, GIB))
    async with watch_machine(ENGINE, found(machine(**broken))) as watch:
        await asyncio.sleep(0.3)
    assert watch.peak is None


async def test_an_error_while_looking_for_the_machine_is_none_of_the_caller_s(files):
    async def find():
        raise ZeroDivisionError

    async with watch_machine(ENGINE, find) as watch:
        await asyncio.sleep(0.05)
    assert watch.peak is None


async def test_cancelling_leaves_no_process(machine, use):
    use(("C", 0, ENGINE, GIB))
    seen = asyncio.Event()

    async def run():
        async with watch_machine(ENGINE, found(machine("hang-memory"))):
            seen.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await asyncio.wait_for(seen.wait(), 10)
    await until(lambda: not nothing_left())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert nothing_left()


async def test_this_machine_is_watched_without_an_error(home):
    async with watch_vram(os.getpid(), home) as watch:
        await asyncio.sleep(0.2)
    assert watch.peak is None or watch.peak > 0
    assert nothing_left()


def test_the_watcher_ends_with_the_manager(machine, use, files, fake_library, tmp_path):
    use(("C", 0, ENGINE, GIB))
    code = f"""
import asyncio, os, sys
from pathlib import Path
from sdmanager.hardware._machine import Machine
from sdmanager.hardware._tree import Tree
from sdmanager.hardware.watching import watch_machine

async def find():
    environ = dict(os.environ)
    return Machine(Tree(Path({str(files.root)!r})), environ, Path(sys.executable), None)

async def main():
    async with watch_machine({ENGINE}, find) as watch:
        while watch.peak is None:
            await asyncio.sleep(0.02)
        print("seen", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    environ = {**os.environ, **machine().environ}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE) as manager:
        assert manager.stdout.readline() == b"seen\n"
        family = psutil.Process(manager.pid).children(recursive=True)
        assert len(family) >= 2
        manager.kill()
    deadline = time.monotonic() + 10
    while any(map(runs, family)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def started(watch):
    """Wait until the watcher has had its first look."""
    await until(lambda: watch._heard > 0)
