"""What every call does in every state, and stops at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from pathlib import Path

import psutil
import pytest
from ports import free_port
from processes import runs

from sdmanager import DiffusionServerManager, GenerationRegistry, ImageRequest, LocalGenerator
from sdmanager.errors import (
    GenerationCancelledError,
    GenerationNotFoundError,
    InvalidRequestError,
    ModelCorruptError,
    ModelNotFoundError,
    PortInUseError,
    ServerAlreadyRunningError,
    ServerError,
    ServerNotRunningError,
    StorageError,
)
from sdmanager.generation import Progress
from sdmanager.manager import ServerState
from sdmanager.manager.states import NEXT_STATES
from sdmanager.server import HttpServer

SMALL = {"width": 64, "height": 64, "steps": 3}
LONG = {"width": 512, "height": 512, "steps": 1000}
STATES = tuple(ServerState)
OK = None


def engines() -> list[psutil.Process]:
    """What this process started and what that started: guards and engines."""
    return [each for each in psutil.Process().children(recursive=True) if runs(each)]


async def eventually(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def in_state(manager, never_starting):
    """A manager in the state that is asked for."""

    tasks = set()

    async def bring(state: ServerState) -> DiffusionServerManager:
        match state:
            case ServerState.STOPPED:
                found = manager
            case ServerState.STARTING:
                found = never_starting
                tasks.add(asyncio.create_task(found.start(port="auto")))
                await asyncio.sleep(0)
            case ServerState.RUNNING:
                found = manager
                await found.start(port="auto")
            case ServerState.STOPPING:
                found = manager
                await found.start(port="auto")
                tasks.add(asyncio.create_task(found.stop()))
                await asyncio.sleep(0)
            case ServerState.CRASHED:
                found = manager
                with pytest.raises(ModelNotFoundError):
                    await found.start("/no/such/model.gguf", port="auto")
        assert found.status is state
        return found

    yield bring
    await never_starting.stop()
    await asyncio.gather(*tasks, return_exceptions=True)


async def start_alike(manager):
    if manager.status is ServerState.STARTING:  # which never ends by itself
        joined = asyncio.create_task(manager.start(port="auto"))
        await asyncio.sleep(0.05)
        assert not joined.done()
        await manager.stop()
        await joined
    else:
        await manager.start(port="auto")
        assert manager.status is ServerState.RUNNING


async def stop(manager):
    await manager.stop()
    assert manager.status is ServerState.STOPPED
    assert engines() == []


async def all_events(manager):
    return [event async for event in manager.events("gen_none")]


CALLS = {
    "start, same options": (start_alike, [OK, ServerNotRunningError, ServerAlreadyRunningError, OK, OK]),
    "start, other options": (
        lambda m: m.start(port="auto", queue=7),
        [OK, ServerAlreadyRunningError, ServerAlreadyRunningError, OK, OK],
    ),
    "start, bad options": (lambda m: m.start(port=0), [InvalidRequestError] * 5),
    "stop": (stop, [OK] * 5),
    "generate_image": (lambda m: m.generate_image("x", **SMALL), "draws"),
    "submit": (lambda m: m.submit("x", **SMALL), "draws"),
    "cancel": (lambda m: m.cancel("gen_none"), "finds"),
    "events": (all_events, "finds"),
    "get": (lambda m: called(m.get, "gen_none"), "finds"),
    "status": (lambda m: called(lambda: m.status), [OK] * 5),
    "info": (lambda m: called(m.info), [OK] * 5),
    "is_healthy": (lambda m: m.is_healthy(), [OK] * 5),
    "logs": (lambda m: called(m.logs), [OK] * 5),
    "structured_logs": (lambda m: called(m.structured_logs), [OK] * 5),
    "clear_logs": (lambda m: called(m.clear_logs), [OK] * 5),
    "on": (lambda m: called(m.on, "started", print), [OK] * 5),
}
ONLY_RUNNING = {
    "draws": [ServerNotRunningError, ServerNotRunningError, OK, ServerNotRunningError, ServerNotRunningError],
    "finds": [
        ServerNotRunningError, ServerNotRunningError, GenerationNotFoundError, ServerNotRunningError,
        ServerNotRunningError,
    ],
}  # fmt: skip


async def called(function, *args):
    return function(*args)


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("call", CALLS)
async def test_every_call_in_every_state(in_state, state, call):
    manager = await in_state(state)
    make, outcomes = CALLS[call]
    if isinstance(outcomes, str):
        outcomes = ONLY_RUNNING[outcomes]
    expected = outcomes[STATES.index(state)]
    if expected is OK:
        await make(manager)
    else:
        with pytest.raises(expected):
            await make(manager)


def test_the_table_of_transitions_is_whole_and_every_state_can_be_left_and_reached():
    assert set(NEXT_STATES) == set(ServerState)
    assert set().union(*NEXT_STATES.values()) == set(ServerState)
    assert all(state not in following for state, following in NEXT_STATES.items())


async def test_health_and_info_follow_the_state(manager):
    assert not await manager.is_healthy()
    assert manager.info().url is None
    info = await manager.start(port="auto", queue=3)
    assert await manager.is_healthy()
    assert (info.status, info.model, info.queue_size, info.pid) == ("running", "demo", 3, os.getpid())
    assert info.engine.variant == "cpu"
    assert "euler_a" in info.samplers
    assert info.url == f"http://127.0.0.1:{info.port}"
    await manager.stop()
    assert not await manager.is_healthy()
    assert manager.info().status == "stopped"


async def test_a_token_does_not_make_it_unhealthy(manager):
    await manager.start(port="auto", token="secret-token")
    assert await manager.is_healthy()


async def test_a_crashed_start_says_why_and_holds_nothing(manager):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError):
            await manager.start(port=taken.getsockname()[1])
    assert manager.status is ServerState.CRASHED
    assert manager.info().error.code == "PORT_IN_USE"
    await manager.start(port="auto")
    assert manager.info().error is None


async def test_after_a_failed_start_the_port_is_free(manager):
    port = free_port()
    with pytest.raises(ModelNotFoundError):
        await manager.start("/no/such/model.gguf", port=port)
    info = await manager.start(port=port)
    assert info.port == port


async def test_two_managers_cannot_have_one_port_and_the_first_goes_on(manager, settings):
    info = await manager.start(port="auto")
    async with DiffusionServerManager(settings) as second:
        with pytest.raises(PortInUseError):
            await second.start(port=info.port)
    assert await manager.is_healthy()


async def test_two_managers_at_once(manager, settings):
    await manager.start(port="auto")
    async with DiffusionServerManager(settings) as second:
        await second.start(port="auto")
        results = await asyncio.gather(*(m.generate_image("x", **SMALL) for m in (manager, second)))
        assert all(result.images for result in results)
        assert len(os.listdir(settings.generations_dir)) >= 2


async def test_starts_that_join_get_the_same_server(manager):
    infos = await asyncio.gather(*(manager.start(port="auto") for _ in range(5)))
    assert len({info.port for info in infos}) == 1


async def test_the_last_one_who_waits_for_a_start_can_abort_it(never_starting):
    tasks = [asyncio.create_task(never_starting.start(port="auto")) for _ in range(2)]
    await eventually(lambda: engines())
    tasks[0].cancel()
    await asyncio.sleep(0.05)
    assert never_starting.status is ServerState.STARTING
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert never_starting.status is ServerState.STOPPED
    assert engines() == []


async def test_stop_during_start_aborts_it_and_leaves_no_process(never_starting):
    starting = asyncio.create_task(never_starting.start(port="auto"))
    await eventually(lambda: engines())
    await never_starting.stop()
    with pytest.raises(ServerNotRunningError):
        await starting
    assert engines() == []
    assert never_starting.status is ServerState.STOPPED


@pytest.mark.parametrize("turns", [1, 2, 5, 20])
async def test_stop_early_in_a_start(manager, turns):
    starting = asyncio.create_task(manager.start(port="auto"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await manager.stop()
    with pytest.raises(ServerNotRunningError):
        await starting
    assert manager.status is ServerState.STOPPED
    await manager.start(port="auto")


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("step", ["LocalGenerator.prepare", "GenerationRegistry.open", "HttpServer.start"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_stop_at_every_step_of_a_start(manager, monkeypatch, step, moment, turns):
    """The step is the real one; the stop is asked for just before or after it, and so many turns of the loop pass."""
    kind, name = {
        "LocalGenerator.prepare": (LocalGenerator, "prepare"),
        "GenerationRegistry.open": (GenerationRegistry, "open"),
        "HttpServer.start": (HttpServer, "start"),
    }[step]
    real, stops, loop = getattr(kind, name), [], asyncio.get_running_loop()

    def stop_soon() -> None:
        stops.append(loop.create_task(manager.stop()))

    if name == "open":  # it is called in a thread

        def stepping(self):
            if moment == "before":
                loop.call_soon_threadsafe(stop_soon)
            outcome = real(self)
            if moment == "after":
                loop.call_soon_threadsafe(stop_soon)
            return outcome

    else:

        async def stepping(self, **options):
            if moment == "before":
                stop_soon()
            for _ in range(turns):
                await asyncio.sleep(0)
            outcome = await real(self, **options)
            if moment == "after":
                stop_soon()
            return outcome

    monkeypatch.setattr(kind, name, stepping)
    with pytest.raises(ServerNotRunningError):
        await manager.start(port="auto")
    await asyncio.gather(*stops)
    assert manager.status is ServerState.STOPPED
    monkeypatch.undo()
    await manager.start(port="auto")
    assert await manager.is_healthy()


async def test_an_aborted_start_keeps_no_folder(manager, settings, monkeypatch):
    opened = GenerationRegistry.open
    monkeypatch.setattr(GenerationRegistry, "open", lambda self: (opened(self), time.sleep(0.1))[0])
    port = free_port()
    starting = asyncio.create_task(manager.start(port=port))
    await eventually(lambda: (settings.generations_dir / str(port)).exists())
    await manager.stop()
    monkeypatch.undo()
    await manager.start(port=port)
    assert [path.name for path in settings.generations_dir.iterdir()] == [str(port)]
    await asyncio.gather(starting, return_exceptions=True)


@pytest.mark.parametrize("stage", ["asked", "queued", "spawned", "loading", "diffusion", "decoding"])
async def test_stop_during_each_stage_of_a_generation(manager, settings, stage):
    await manager.start(port="auto", queue=1)
    seen = set()  # by the progress of the engine itself: that it loads is told before it is there
    manager.on("generation", lambda event: seen.add(event.stage) if isinstance(event, Progress) else None)
    fields = {"width": 1024, "height": 1024, "steps": 1} if stage == "decoding" else LONG
    first = asyncio.create_task(manager.generate_image("x", **fields))
    if stage != "asked":  # requests are checked in threads: of two at once either may come first
        await eventually(lambda: manager.info().busy)
    second = asyncio.create_task(manager.generate_image("x", **SMALL))
    await asyncio.sleep(0)
    if stage != "asked":
        await eventually(lambda: manager.info().waiting == 1)
    if stage == "spawned":
        await eventually(engines)
    elif stage not in {"asked", "queued"}:
        await eventually(lambda: stage in seen)
    await asyncio.gather(manager.stop(), manager.stop())
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    kinds = {type(outcome) for outcome in outcomes}
    if stage == "asked":  # while they are being checked, so that the stop may come before they are taken
        assert kinds <= {ServerNotRunningError, GenerationCancelledError}
    else:
        assert kinds == {GenerationCancelledError}
    assert engines() == []
    assert list(settings.jobs_dir.glob("*")) == []


async def test_stop_kills_an_engine_that_ignores_the_polite_request(misbehaving):
    manager = misbehaving("stubborn")
    await manager.start(port="auto")
    generation = await manager.submit("x", **SMALL)
    await eventually(lambda: manager.get(generation.id).progress.stage == "diffusion")
    await manager.stop()
    assert engines() == []


async def test_a_stop_goes_on_when_its_caller_leaves(misbehaving):
    manager = misbehaving("stubborn")
    await manager.start(port="auto")
    generation = await manager.submit("x", **SMALL)
    await eventually(lambda: manager.get(generation.id).progress.stage == "diffusion")
    impatient = asyncio.create_task(manager.stop())
    while manager.status is not ServerState.STOPPING:
        await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    assert manager.status is ServerState.STOPPING
    await manager.stop()
    assert manager.status is ServerState.STOPPED
    assert engines() == []


async def test_what_had_ended_is_still_there_after_a_restart_on_the_same_port(manager):
    info = await manager.start(port=free_port())
    done = await manager.submit("x", **SMALL)
    async for _ in manager.events(done.id):
        pass
    running = await manager.submit("x", **LONG)
    await manager.stop()
    await manager.start(port=info.port)
    assert manager.get(done.id).status.value == "complete"
    assert manager.get(done.id).result.image.png.startswith(b"\x89PNG")
    assert manager.get(running.id).status.value == "cancelled"


async def test_listeners_hear_of_the_life_and_a_broken_one_harms_nothing(manager, caplog):
    heard = []

    def broken(*_):
        raise ZeroDivisionError

    for what in ("started", "stopped", "crashed"):
        manager.on(what, broken)
        manager.on(what, lambda fact, what=what: heard.append((what, type(fact).__name__)))
    off = manager.on("started", lambda _: heard.append("off"))
    off()
    off()
    with pytest.raises(ModelNotFoundError):
        await manager.start("/no/such/model", port="auto")
    await manager.start(port="auto")
    await manager.stop()
    assert heard == [("crashed", "ModelNotFoundError"), ("started", "ServerInfo"), ("stopped", "ServerInfo")]
    assert caplog.text.count("a callback for") == 3


@pytest.mark.parametrize("then", ["start", "stop"])
async def test_a_part_that_fails_while_it_runs_is_a_crash_of_all(manager, monkeypatch, caplog, then):
    """Nothing may go on to serve or to draw in the name of a server that has crashed."""
    fail = asyncio.Event()

    async def fails(self) -> None:
        await fail.wait()
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(GenerationRegistry, "sweep_forever", fails)
    port = (await manager.start(port=free_port())).port
    await manager.submit("x", **LONG)
    await eventually(engines)
    monkeypatch.undo()
    fail.set()
    await eventually(lambda: manager.status is ServerState.CRASHED)
    error = manager.info().error
    assert error.code == "SERVER_ERROR"
    assert "fire" not in error.message
    with pytest.raises(ServerNotRunningError):
        await manager.submit("x")
    if then == "stop":
        await manager.stop()
        assert engines() == []
    info = await manager.start(port=port)
    assert engines() == []
    assert await manager.is_healthy()
    assert (info.port, info.error) == (port, None)
    assert "the disk is on fire" in caplog.text


def test_another_event_loop_is_told_that_it_is_another(settings):
    manager = DiffusionServerManager(settings)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(manager.start(port="auto"))

        async def elsewhere() -> None:
            for call in (manager.is_healthy, manager.stop, manager.start, lambda: manager.submit("x")):
                with pytest.raises(ServerError, match="another event loop"):
                    await call()

        asyncio.run(elsewhere())
        loop.run_until_complete(manager.stop())
    finally:
        loop.close()
    asyncio.run(started_and_stopped(manager))


def test_a_start_that_failed_ties_the_manager_to_no_event_loop(settings):
    manager = DiffusionServerManager(settings)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(2):
            with pytest.raises(PortInUseError):
                asyncio.run(manager.start(port=taken.getsockname()[1]))
    asyncio.run(started_and_stopped(manager))


async def started_and_stopped(manager) -> None:
    await manager.start(port="auto")
    await manager.stop()


def test_only_what_happens_can_be_listened_to(settings):
    manager = DiffusionServerManager(settings)

    async def coroutine(_) -> None: ...

    for what, callback in (("start", print), ("generation", coroutine)):
        with pytest.raises(InvalidRequestError):
            manager.on(what, callback)


async def test_a_file_that_is_no_model_is_seen_at_the_start(manager, tmp_path):
    page = tmp_path / "model.gguf"
    page.write_text("<html>404 Not Found</html>")
    with pytest.raises(ModelCorruptError):
        await manager.start(page, port="auto")
    assert manager.status is ServerState.CRASHED


async def test_logs_hold_what_the_manager_did_and_what_the_engine_said(manager, settings):
    await manager.start(port="auto")
    await manager.generate_image("a very secret prompt", **SMALL)
    lines = manager.logs(1000)
    assert any("started" in line for line in lines)
    assert any("completed in" in line for line in lines)
    assert any("generate_image 64x64" in line for line in lines)
    assert len(manager.logs(3)) == 3
    entries = manager.structured_logs(1000)
    assert {"info", "debug"} & {entry.level.lower() for entry in entries}
    text = "".join(path.read_text() for path in Path(settings.logs_dir).iterdir() if path.suffix == ".log")
    assert "started" in text
    assert "secret" not in text
    assert "generate_image" not in text
    manager.clear_logs()
    assert manager.logs() == []


async def test_a_folder_that_cannot_be_written_is_a_typed_error(settings):
    settings.generations_dir.parent.mkdir(exist_ok=True)
    settings.generations_dir.write_text("in the way")
    async with DiffusionServerManager(settings) as manager:
        with pytest.raises(StorageError):
            await manager.start(port="auto")
        assert manager.status is ServerState.CRASHED


@pytest.mark.parametrize(
    "options",
    [
        {"port": 0}, {"port": 65536}, {"port": "8081"}, {"port": True}, {"queue": -1}, {"queue": 1.5},
        {"batch_size": 0}, {"batch_size": 11}, {"threads": 0}, {"vram_budget": 0}, {"vram_budget": float("nan")},
        {"host": "0.0.0.0"}, {"host": None}, {"host": 5}, {"token": 123}, {"token": b"x"}, {"vram_budget": "8"},
        {"vram_budget": True}, {"vae_tiling": "no"}, {"force_validation": 1}, {"allow_origin": "http://a.example"},
        {"allow_host": "pc"}, {"allow_host": None}, {"allow_host": [5]}, {"log_level": "loud"}, {"log_level": 3},
        {"model": 5}, {"model": b"x"}, {"token": ""}, {"allow_origin": ["*"]}, {"allow_origin": ["null"]},
        {"colour": "red"},
    ],
    ids=str,
)  # fmt: skip
async def test_options_that_cannot_be(manager, options):
    with pytest.raises(InvalidRequestError):
        await manager.start(**options)
    assert manager.status is ServerState.STOPPED


async def test_batch_size_is_the_count_of_requests_that_do_not_say(manager):
    await manager.start(port="auto", batch_size=2)
    assert len((await manager.generate_image("x", **SMALL)).images) == 2
    assert len((await manager.generate_image("x", count=1, **SMALL)).images) == 1
    assert len((await manager.generate_image(ImageRequest(prompt="x", **SMALL))).images) == 2


async def test_nothing_is_left_behind_after_many_lives(manager):
    for _ in range(3):
        await manager.start(port="auto")
        await manager.generate_image("x", **SMALL)
        await manager.stop()
    gc.collect()
    files = len(psutil.Process().open_files()), psutil.Process().num_fds()
    for _ in range(5):
        await manager.start(port="auto")
        await manager.generate_image("x", **SMALL)
        await manager.stop()
    gc.collect()
    assert len(psutil.Process().open_files()) <= files[0]
    assert psutil.Process().num_fds() <= files[1]
    assert {task.get_name() for task in asyncio.all_tasks()} & {"sdmanager-sweep", "sdmanager-start"} == set()


async def test_many_managers_that_start_at_once(settings):
    async with contextlib.AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(DiffusionServerManager(settings)) for _ in range(6)]
        infos = await asyncio.gather(*(manager.start(port="auto") for manager in managers))
        assert len({info.port for info in infos}) == 6
