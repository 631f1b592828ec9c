"""Pulls that are broken off, at any moment and in any way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import all_gone
from pulling import PARTS, SIZE, weights_of

from sdmanager.errors import ModelDownloadError
from sdmanager.models import Family, ModelStore

CHILD = Path(__file__).parents[1] / "fakes" / "pull_child.py"


def workers() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


@pytest.fixture(autouse=True)
def nothing_runs_on():
    before = {process.pid for process in workers()}
    yield
    assert all_gone([process for process in workers() if process.pid not in before])


async def cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def reached(pulling, path: str = "diffusion_model.safetensors") -> None:
    """Wait until the hub is about to stall or hold."""
    assert await asyncio.to_thread(pulling.knobs(PARTS, path).reached.wait, 30)


def begin(pulling, **options):
    return asyncio.create_task(pulling.pull(*pulling.parts(), family=Family.Z_IMAGE, **options))


@pytest.mark.parametrize("moment", ["head", "begin", "midway"])
async def test_a_stalled_transfer_is_broken_off_and_leaves_nothing(pulling, moment, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "100")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "100")
    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.stall_head = moment == "head"
    knobs.stall_after = {"head": None, "begin": 0, "midway": SIZE // 2}[moment]
    task = begin(pulling)
    await reached(pulling)
    family = workers()
    await cancel(task)
    assert all_gone(family)
    assert pulling.left() == []
    assert pulling.records() == []
    assert not list((pulling.settings.state_dir / "pulls").glob("*.json"))
    knobs.stall_after, knobs.stall_head = None, False
    await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE)


async def test_it_is_broken_off_at_any_progress(pulling):
    """Before and after each thing that is told, until one is through."""
    for count in range(1, 200):
        said: list[str] = []
        tasks: list[asyncio.Task[object]] = []

        def on_progress(progress, said=said, tasks=tasks, count=count):
            said.append(progress.phase)
            if len(said) == count:
                tasks[0].cancel()

        tasks.append(begin(pulling, on_progress=on_progress))
        await asyncio.wait(tasks)
        if said[-1] == "done":
            assert pulling.records() == ["whole.json"]
            return
        assert tasks[0].cancelled()
        assert pulling.records() == []
        assert pulling.left() == []
    pytest.fail("it never ended")


async def test_it_is_broken_off_while_it_is_checked(pulling, monkeypatch):
    from sdmanager.models import _pull_run

    task = begin(pulling)
    genuine = _pull_run.inspect_file
    loop = asyncio.get_running_loop()

    def inspect_file(path, **options):
        loop.call_soon_threadsafe(task.cancel)
        return genuine(path, **options)

    monkeypatch.setattr(_pull_run, "inspect_file", inspect_file)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if pulling.records():  # it was listed before the cancellation came
        model = ModelStore(pulling.settings).find("whole")
        assert model is not None
        ModelStore(pulling.settings).check(model)
    else:
        assert pulling.left() == []


async def test_it_is_broken_off_while_the_library_tries_to_link(pulling, monkeypatch):
    """The library makes a folder for that, and cannot delete it when its process is ended."""
    from sdmanager.models import _hub

    slow = (
        "import os, time\n"
        "def symlink(source, target, genuine=os.symlink, **options):\n"
        "    if 'dummy_file' in str(target):\n"
        "        time.sleep(100)\n"
        "    genuine(source, target, **options)\n"
        "os.symlink = symlink\n"
    )
    monkeypatch.setattr(_hub, "_LAUNCH", slow + _hub._LAUNCH)
    task = begin(pulling)
    while "dummy_file_src" not in pulling.left():
        assert not task.done()
        await asyncio.sleep(0.02)
    names = ("tmp-sdmanager-dead-x", "tmp-sdmanager-alive-x", "tmp1234")
    dead, alive, strange = (pulling.cache / name for name in names)
    for folder in (dead, alive, strange):
        folder.mkdir()
        (folder / "dummy_file_src").touch()
    for folder in (dead, strange):
        os.utime(folder, (time.time() - 100,) * 2)
    await cancel(task)
    assert {folder for folder in pulling.cache.rglob("tmp*") if folder.is_dir()} == {alive, strange}


async def test_what_another_model_has_stays(pulling):
    """Fetched by this pull, and taken from the cache by another one meanwhile."""
    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.stall_after = SIZE // 2
    task = begin(pulling)
    await reached(pulling)
    while not {"llm.safetensors", "vae.safetensors", "tae.safetensors"} <= set(pulling.left()):
        await asyncio.sleep(0.02)
    other = await pulling.pull(*pulling.parts()[1:], pulling.file(), name="other")
    await cancel(task)
    ModelStore(pulling.settings).check(other)
    assert "diffusion_model.safetensors" not in pulling.left()


async def test_the_transfer_of_another_program_is_let_be(pulling, hub_environment):
    """Two processes fetch one file at once; one is broken off, and the unfinished file of the other stays."""
    import threading

    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.hold, knobs.held_after = threading.Event(), SIZE // 2
    code = "import sys, huggingface_hub as h; print(h.hf_hub_download(sys.argv[1], sys.argv[2]))"
    argv = [sys.executable, "-c", code, PARTS, "diffusion_model.safetensors"]
    with subprocess.Popen(
        argv, env={**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "60"}, stdout=subprocess.PIPE
    ) as program:
        await reached(pulling)
        task = begin(pulling)
        while "llm.safetensors" not in pulling.left():
            await asyncio.sleep(0.02)
        await cancel(task)
        knobs.hold.set()
        path = (await asyncio.to_thread(program.communicate))[0].decode().strip()
    assert program.returncode == 0
    assert Path(path).read_bytes() == knobs.data


async def test_a_worker_that_is_killed(pulling):
    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.stall_after = SIZE // 2
    task = begin(pulling)
    await reached(pulling)
    for process in workers():
        with contextlib.suppress(psutil.Error):
            if "_hub_worker" in " ".join(process.cmdline()):
                process.kill()
    with pytest.raises(ModelDownloadError) as caught:
        await task
    assert caught.value.hint
    assert not [name for name in pulling.left() if name.endswith(".incomplete")]


def manager(pulling, tmp_path) -> subprocess.Popen[str]:
    """A process that pulls the parts."""
    facts = [pulling.settings.data_dir, pulling.settings.cache_dir, pulling.settings.state_dir, PARTS]
    argv = [sys.executable, CHILD, *facts, *(f"{file.role}={file.path}" for file in pulling.parts())]
    return subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_a_manager_that_is_killed_leaves_no_process_and_the_next_pull_cleans_up(pulling, tmp_path):
    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.stall_after = SIZE // 2
    with manager(pulling, tmp_path) as child:
        await reached(pulling)
        while "llm.safetensors" not in pulling.left():
            await asyncio.sleep(0.02)
        family = psutil.Process(child.pid).children(recursive=True)
        os.kill(child.pid, signal.SIGKILL)
    assert all_gone(family)
    parts = list(pulling.cache.rglob("*.incomplete"))
    assert pulling.records() == []
    strange = (
        pulling.cache / "models--org--parts" / "blobs" / f"{knobs.etag}.incomplete"
    )  # of an older library
    strange.write_bytes(b"x")
    for part in [*parts, strange]:
        os.utime(part, (time.time() - 100,) * 2)
    knobs.stall_after = None
    model = await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE)
    assert not list(pulling.cache.rglob("*.incomplete"))
    assert all(file.owned for file in model.files)
    ModelStore(pulling.settings).remove("whole")
    assert pulling.left() == []


async def test_two_processes_that_pull_the_same(pulling, tmp_path):
    import threading

    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.hold, knobs.held_after = threading.Event(), SIZE // 2

    def look(progress):
        pulling.told.append(progress)
        if progress.phase == "waiting":
            knobs.hold.set()

    with manager(pulling, tmp_path) as child:
        await reached(pulling)
        model = await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE, on_progress=look)
        out, err = await asyncio.to_thread(child.communicate)
    assert child.returncode == 0, err
    assert [progress.phase for progress in pulling.told] == ["waiting", "done"]
    assert json.loads(out) == model.to_json()
    assert len(pulling.hub.transfers()) == 4
    assert pulling.told[-1].done == pulling.told[-1].total == model.size_bytes
    assert weights_of("z-image", seed=0) == model.files[0].path.read_bytes()


async def test_the_second_goes_on_when_the_first_is_killed(pulling, tmp_path):
    knobs = pulling.knobs(PARTS, "diffusion_model.safetensors")
    knobs.stall_after = SIZE // 2
    with manager(pulling, tmp_path) as child:
        await reached(pulling)

        def look(progress):
            if progress.phase == "waiting":
                knobs.stall_after = None
                child.kill()

        model = await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE, on_progress=look)
    assert pulling.records() == ["whole.json"]
    ModelStore(pulling.settings).check(model)
