"""What is seen of a running engine's memory is what it used; looking disturbs nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sdmanager.binaries import EngineBinary
from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.run import Run
from sdmanager.generation import ImageRequest, MemoryPlan, MemoryUse
from sdmanager.models import demo_model
from sdmanager.process import spawn
from sdmanager.resources import _watch_linux, _watch_psutil, watching
from sdmanager.resources.watching import MemoryWatch, watch_memory
from sdmanager.settings import Settings

MIB = 1 << 20
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")

# Takes so many MiB, says so, gives all back but one, and ends after so many seconds.
GREEDY = """
import sys, time
taken = b"x" * (int(sys.argv[1]) << 20)
print("taken", flush=True)
time.sleep(float(sys.argv[2]))
"""
SPIKE = """
import sys, time
time.sleep(0.3)
taken = b"x" * (200 << 20)
del taken
print("taken", flush=True)
time.sleep(0.3)
"""
# A guard of 100 MiB with a fork of itself, and `sleep` in the place of the engine.
GUARD = """
import os, subprocess, sys
taken = b"x" * (100 << 20)
engine = subprocess.Popen(["sleep", "60"])
if os.fork() == 0:
    sys.stdin.read()
    os.killpg(0, 9)
print("forked", flush=True)
engine.wait()
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


async def watched(argv: list[str], settings: Settings, *, cwd: Path | None = None) -> MemoryWatch:
    """Run it to its end, watched all the time."""
    async with (
        asyncio.timeout(120),
        spawn(argv, cwd=cwd, on_stdout=lambda _: None, on_stderr=lambda _: None) as child,
        watch_memory(child.pid, settings, vram=False) as watch,
    ):
        await child.wait()
    return watch


def drawing(engine: EngineBinary, settings: Settings) -> list[str]:
    """The engine with arguments to draw a picture of the demo model."""
    request = ImageRequest(prompt="a", width=256, height=256, steps=4, seed=1)
    estimates = EstimateStore(settings.state_dir / "estimates.json")
    run = Run("g1", request, engine, demo_model(settings), MemoryPlan(), settings, estimates)
    _, invocation = run.invocation(run.complete_request())
    return [str(engine.path), *invocation.arguments]


def kernel_peak(pid: int) -> int:
    """The highest VmHWM of all processes below one, asked as fast as can be until they are gone."""
    peak = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            for member in psutil.Process(pid).children(recursive=True):
                text = Path(f"/proc/{member.pid}/status").read_text()
                peak = max(peak, *(int(x.split()[1]) << 10 for x in text.splitlines() if "VmHWM" in x), 0)
        except (psutil.Error, OSError):
            if not psutil.pid_exists(pid):
                return peak
    raise AssertionError("it does not end")


@on_linux
async def test_the_real_engine_s_peak_is_the_kernel_s(
    engine: EngineBinary, settings: Settings, tmp_path: Path
) -> None:
    argv = drawing(engine, settings)
    async with (
        asyncio.timeout(120),
        spawn(argv, cwd=tmp_path, on_stdout=lambda _: None, on_stderr=lambda _: None) as child,
        watch_memory(child.pid, settings, vram=False) as watch,
    ):
        told = asyncio.create_task(asyncio.to_thread(kernel_peak, child.pid))
        assert (await child.wait()).ok
        expected = await told
    ram = watch.use().ram
    assert ram is not None
    assert expected > 20 * MIB
    assert ram == pytest.approx(expected, rel=0.05)
    assert watch.use().vram is None


async def test_what_a_child_takes_is_seen(home: Settings) -> None:
    watch = await watched(python(GREEDY, "150", "0.3"), home)
    ram = watch.use().ram
    assert ram is not None
    assert 150 * MIB < ram < 190 * MIB


@on_linux
async def test_a_spike_between_two_looks_is_not_missed(home: Settings) -> None:
    ram = (await watched(python(SPIKE), home)).use().ram
    assert ram is not None
    assert ram > 200 * MIB


@pytest.mark.parametrize("shell", ["/bin/sh", sys.executable])
async def test_a_wrapper_is_looked_behind(home: Settings, tmp_path: Path, shell: str) -> None:
    inner = python(GREEDY, "120", "1.0")
    wrapper = tmp_path / "sd-cli"
    if shell == sys.executable:
        code = f"import subprocess, time\ntime.sleep(0.3)\nsubprocess.run({inner!r})\n"
    else:
        code = "sleep 0.3\n" + " ".join(f"'{word}'" for word in inner) + "\nexit 0\n"
    wrapper.write_text(f"#!{shell}\n{code}")
    wrapper.chmod(0o755)
    ram = (await watched([str(wrapper)], home)).use().ram
    assert ram is not None
    assert ram > 120 * MIB


async def test_a_child_that_ends_at_once_is_no_error(home: Settings) -> None:
    for _ in range(5):
        use = (await watched(["/bin/true"], home)).use()
        assert use.vram is None
        assert use.ram is None or use.ram < 16 * MIB
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize("module", [_watch_linux, _watch_psutil])
async def test_the_guard_s_own_memory_and_that_of_its_forks_does_not_count(module) -> None:
    if module is _watch_linux and not Path("/proc/self/status").exists():
        pytest.skip("looks into /proc")
    said = asyncio.Event()
    async with (
        asyncio.timeout(60),
        spawn(["/bin/true"], on_stdout=lambda _: said.set(), on_stderr=print, guard=python(GUARD)) as child,
    ):
        await said.wait()
        sampler = module.Sampler(child.pid)
        sampler.sample()
        sampler.close()
    assert sampler.peak is not None  # `sleep`
    assert sampler.peak < 16 * MIB


async def test_a_process_that_is_not_there_is_unknown(home: Settings) -> None:
    async with watch_memory(2**22 + 1, home, vram=False) as watch:
        await asyncio.sleep(0.05)
    assert watch.use() == MemoryUse()


@pytest.mark.parametrize("module", [_watch_linux, _watch_psutil])
async def test_both_ways_of_looking_see_the_same(module, home: Settings) -> None:
    if module is _watch_linux and not Path("/proc/self/status").exists():
        pytest.skip("looks into /proc")
    said = asyncio.Event()
    argv = python(GREEDY, "100", "30")
    async with (
        asyncio.timeout(60),
        spawn(argv, on_stdout=lambda _: said.set(), on_stderr=lambda _: None) as child,
    ):
        await said.wait()
        sampler = module.Sampler(child.pid)
        sampler.sample()
        (engine,) = [p for p in psutil.Process(child.pid).children() if p.exe() != _guard(child.pid)]
        assert sampler.peak == pytest.approx(engine.memory_info().rss, rel=0.05)
        await child.stop(0)
        before = sampler.peak
        sampler.sample()
        assert sampler.peak == before
        sampler.close()


def _guard(pid: int) -> str:
    return psutil.Process(pid).exe()


async def test_a_system_without_proc_is_looked_at_in_a_thread(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    sample = _watch_psutil.Sampler.sample

    def noted(sampler: _watch_psutil.Sampler) -> None:
        threads.add(threading.current_thread().name)
        sample(sampler)

    monkeypatch.setattr(watching._watch_linux, "is_usable", lambda: False)
    monkeypatch.setattr(_watch_psutil.Sampler, "sample", noted)
    ram = (await watched(python(GREEDY, "150", "0.5"), home)).use().ram
    assert ram is not None
    assert ram > 150 * MIB
    assert threads
    assert threading.main_thread().name not in threads


async def test_an_error_costs_the_figure_alone(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        peak = None
        is_quick = True

        def sample(self) -> None:
            raise ZeroDivisionError

        def close(self) -> None:
            pass

    monkeypatch.setattr(watching._watch_linux, "is_usable", lambda: True)
    monkeypatch.setattr(watching._watch_linux, "Sampler", lambda _: Broken())
    assert (await watched(["sleep", "0.1"], home)).use() == MemoryUse()
    await MemoryWatch(Broken())._look()  # which would raise


async def test_an_error_in_the_block_is_the_caller_s(home: Settings) -> None:
    with pytest.raises(ZeroDivisionError):
        async with watch_memory(psutil.Process().pid, home, vram=True):
            raise ZeroDivisionError
    assert psutil.Process().children(recursive=True) == []


@on_linux
async def test_no_file_stays_open(home: Settings) -> None:
    async with spawn(["sleep", "60"], on_stdout=lambda _: None, on_stderr=lambda _: None) as child:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            async with watch_memory(child.pid, home, vram=False) as watch:
                while watch.use().ram is None:
                    await asyncio.sleep(0.01)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
        await child.stop(0)


async def test_cancelling_ends_the_watch(home: Settings) -> None:
    entered = asyncio.Event()

    async def run() -> None:
        async with watch_memory(psutil.Process().pid, home, vram=True):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await asyncio.wait_for(entered.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert psutil.Process().children(recursive=True) == []
