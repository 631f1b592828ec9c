"""The server's blocking face: the same manager, without an event loop of the caller's."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sdmanager import BlockingServerManager, DiffusionServerManager
from sdmanager.errors import (
    GenerationCancelledError,
    GenerationNotFoundError,
    ModelNotFoundError,
    ServerBusyError,
    ServerError,
    ServerNotRunningError,
)
from sdmanager.generation import Completed, Preview, Progress

SMALL = {"width": 64, "height": 64, "steps": 3}
LONG = {"width": 512, "height": 512, "steps": 1000}


@pytest.fixture
def manager(settings):
    with BlockingServerManager(settings) as manager:
        yield manager


def public(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def test_it_has_the_same_methods_with_the_same_parameters():
    blocking, asynchronous = public(BlockingServerManager), public(DiffusionServerManager)
    assert list(blocking) == list(asynchronous)
    for name, method in asynchronous.items():
        if inspect.isfunction(method):
            parameters = inspect.signature(method).parameters
            assert list(inspect.signature(blocking[name]).parameters) == list(parameters), name


def test_start_draw_stop(manager):
    info = manager.start(port="auto")
    assert manager.status == "running"
    assert manager.is_healthy()
    assert manager.info().port == info.port
    seen, threads = [], set()

    def on_event(event) -> None:
        seen.append(event)
        threads.add(threading.get_ident())

    previews = []
    result = manager.generate_image("x", on_event=on_event, on_preview=previews.append, **SMALL)
    assert result.image.png.startswith(b"\x89PNG")
    assert threads == {threading.get_ident()}
    assert {Progress, Preview, Completed} <= {type(event) for event in seen}
    assert previews
    assert any("generate_image" in line for line in manager.logs())
    assert manager.structured_logs(1)
    manager.clear_logs()
    assert manager.logs() == []
    manager.stop()
    manager.stop()
    assert manager.status == "stopped"


def test_submit_watch_get_cancel(manager):
    heard = []
    manager.on("generation", heard.append)
    manager.start(port="auto")
    generation = manager.submit("x", **SMALL)
    events = list(manager.events(generation.id))
    assert isinstance(events[-1], Completed)
    assert manager.get(generation.id).status == "complete"
    long = manager.submit("x", **LONG)
    with pytest.raises(ServerBusyError):
        manager.submit("x", **SMALL)
    assert manager.cancel(long.id).status == "cancelled"
    with pytest.raises(GenerationNotFoundError):
        manager.get("gen_none")
    assert heard


def test_leaving_the_loop_over_events_leaves_the_generation_alone(manager):
    manager.start(port="auto")
    generation = manager.submit("x", **LONG)
    for _ in manager.events(generation.id):
        break
    assert manager.get(generation.id).status == "in_progress"
    manager.cancel(generation.id)


def test_errors_come_out_as_they_are(manager):
    with pytest.raises(ServerNotRunningError):
        manager.generate_image("x")
    with pytest.raises(ModelNotFoundError):
        manager.start("/no/such/model.gguf", port="auto")
    assert manager.status == "crashed"


def test_two_threads_one_manager(manager):
    manager.start(port="auto", queue=5)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(manager.generate_image("x", **SMALL)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3


def test_another_thread_stops_while_one_draws(manager):
    manager.start(port="auto")
    outcome = []

    def draw() -> None:
        try:
            manager.generate_image("x", **LONG)
        except GenerationCancelledError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=draw)
    thread.start()
    while not manager.info().busy:
        time.sleep(0.01)
    manager.stop()
    thread.join(30)
    assert len(outcome) == 1
    assert not psutil.Process().children(recursive=True)


async def test_in_a_thread_of_an_application_that_has_its_own_loop(settings):
    """The application's loop goes on while a thread of it waits for the picture."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.005)

    def work() -> int:
        with BlockingServerManager(settings) as manager:
            manager.start(port="auto")
            return len(manager.generate_image("x", **SMALL).image.png)

    ticking = asyncio.create_task(tick())
    assert await asyncio.to_thread(work) > 100
    ticking.cancel()
    assert turns > 10


def test_callbacks_may_look_but_not_wait(manager):
    seen = []

    def on_event(event) -> None:
        if not seen:
            seen.append(
                (manager.info().busy, manager.get(event.generation_id).status.value, manager.status.value)
            )
            with pytest.raises(ServerError, match="wait for itself"):
                manager.cancel(event.generation_id)
            seen.append("went on")

    manager.on("generation", on_event)
    manager.start(port="auto")
    assert manager.generate_image("x", **SMALL).images
    assert seen == [(True, "in_progress", "running"), "went on"]


def test_a_loop_over_events_that_is_forgotten_is_tidied_up_in_any_thread(manager):
    manager.start(port="auto")
    generation = manager.submit("x", **LONG)
    events = manager.events(generation.id)
    next(events)
    kept = [events]
    del events
    manager.on("generation", lambda _: kept.clear())  # the last reference goes in the loop's own thread
    while kept:
        time.sleep(0.01)
    assert manager.cancel(generation.id).status == "cancelled"


def run(code: str, environment: dict[str, str], **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, **options)


SERVE = """
import sdmanager
manager = sdmanager.BlockingServerManager()
info = manager.start(port="auto")
generation = manager.submit("x", width=512, height=512, steps=1000)
for event in manager.events(generation.id):
    if type(event).__name__ == "Progress":
        break
print(generation.id, flush=True)
"""


def test_a_program_that_ends_without_stopping_stops(environment):
    child = run(SERVE, environment)
    with child:
        generation_id = child.stdout.readline().split()[0].decode()
        assert child.wait(30) == 0
    [record] = Path(environment["SDMANAGER_HOME"]).glob(f"**/{generation_id}/record.json")
    assert json.loads(record.read_text())["status"] == "cancelled"


def test_ctrl_c_while_drawing_cancels_it(environment):
    code = """
import sdmanager, psutil
with sdmanager.BlockingServerManager() as manager:
    manager.start(port="auto")
    try:
        manager.generate_image("x", width=512, height=512, steps=1000, on_progress=lambda e: print("going", flush=True))
    except KeyboardInterrupt:
        print("left", len(psutil.Process().children(recursive=True)), manager.info().busy, flush=True)
"""
    child = run(code, environment)
    with child:
        assert child.stdout.readline() == b"going\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.read().splitlines()[-1] == b"left 0 False"
        assert child.wait(30) == 0
