"""A running server that makes room, with the real engine and a program that really holds memory."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from fake_llms import serving
from processes import command

from sdmanager import BlockingServerManager, DiffusionServerManager, HookOffloadable, MemoryPlan, Ollama
from sdmanager.errors import InvalidRequestError, ServerBusyError, ServerNotRunningError
from sdmanager.generation import Stage, StageChanged

MIB = 1 << 20
GIB = 1 << 30
MODEL = "llama3.2:3b"
SMALL = {"width": 64, "height": 64, "steps": 2}
# 0.8 GB with the demo model on a CPU, most of it for decoding.
LARGE = {"width": 576, "height": 576, "steps": 1}
# Otherwise decoding in tiles would be enough.
FAST = {"port": "auto", "vae_tiling": False, "diffusion_flash_attention": False}
LONG = {"width": 512, "height": 512, "steps": 1000}


def engines() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [each for each in found if "sd-cli" in " ".join(command(each))]


async def eventually(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def little_memory(monkeypatch):
    """A machine of 2 GiB, whatever this one has."""
    monkeypatch.setattr("sdmanager.resources.looking.ram_now", lambda: (2 * GIB, GIB))


@pytest.fixture
def ollama(tmp_path):
    """One that has a model loaded, which takes memory on no card."""
    models = {MODEL: {"size": 64 * MIB, "vram": 0}}
    with serving("ollama_server.py", tmp_path / "calls", models, {MODEL: 600}) as server:
        yield server


@pytest.fixture
async def manager(settings, ollama, little_memory):
    program = Ollama(ollama.url, name="ollama", environ={})
    async with DiffusionServerManager(settings, offloadables=[program], linger=0.1) as manager:
        await manager.start(**FAST)
        yield manager


def loaded(ollama) -> list[str]:
    return [each["name"] for each in ollama.ask("GET", "/api/ps")["models"]]


async def test_a_program_is_put_aside_for_a_picture_and_brought_back(manager, ollama):
    assert not await manager.room.would_need_offload("x", **SMALL)
    assert await manager.room.would_need_offload("x", **LARGE)
    assert ollama.models("unload") == []
    events: list = []
    aside: list = []

    def look(event) -> None:
        events.append(event)
        if isinstance(event, StageChanged) and event.stage is Stage.LOADING:
            aside.extend(manager.info().aside)

    result = await manager.generate_image("x", on_event=look, **LARGE)
    stages = [event.stage for event in events if isinstance(event, StageChanged)]
    assert stages[:2] == [Stage.OFFLOADING, Stage.LOADING]
    assert result.plan.evictions == ("ollama",)
    assert any(MODEL in reason for reason in result.plan.reasons)
    assert result.timings.offloading > 0
    assert [(each.name, each.what, each.error) for each in aside] == [("ollama", MODEL, None)]
    await asyncio.wait_for(manager.room.wait_for_reload(), 60)
    assert manager.room.saved_state() == ()
    assert manager.info().aside == ()
    assert await asyncio.to_thread(loaded, ollama) == [MODEL]
    assert (len(ollama.models("unload")), ollama.models("load")) == (1, [MODEL])


async def test_nothing_moves_for_a_picture_that_fits(manager, ollama):
    result = await manager.generate_image("x", **SMALL)
    assert result.plan.evictions == ()
    assert ollama.calls("unload") == []


async def test_a_stop_brings_it_back_before_it_returns(settings, ollama, little_memory):
    program = Ollama(ollama.url, name="ollama", environ={})
    manager = DiffusionServerManager(settings, offloadables=[program], linger=600)
    await manager.start(**FAST)
    await manager.generate_image("x", **LARGE)
    assert len(manager.room.saved_state()) == 1
    await asyncio.wait_for(manager.stop(), 60)
    assert await asyncio.to_thread(loaded, ollama) == [MODEL]
    assert manager.room.saved_state() == ()


async def test_a_cancelled_picture_brings_it_back(manager, ollama):
    drawing = asyncio.create_task(manager.generate_image("x", **(LARGE | {"steps": 1000})))
    await eventually(engines)
    assert await asyncio.to_thread(loaded, ollama) == []
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    await asyncio.wait_for(manager.room.wait_for_reload(), 60)
    assert await asyncio.to_thread(loaded, ollama) == [MODEL]


async def test_what_is_aside_is_known_without_a_server_and_can_be_forgotten(settings, little_memory):
    """The program is not there any more when it should come back."""
    calls: list[str] = []

    def restore() -> None:
        calls.append("restore")
        raise RuntimeError("gone")

    program = HookOffloadable("llm", put_aside=lambda: calls.append("aside"), restore=restore, ram_bytes=GIB)
    manager = DiffusionServerManager(settings, offloadables=[program], linger=0)
    await manager.start(**FAST)
    await manager.generate_image("x", **LARGE)
    await asyncio.wait_for(manager.stop(), 60)
    assert calls[:2] == ["aside", "restore"]
    (state,) = manager.room.saved_state()
    assert state.name == "llm"
    assert state.error
    await manager.room.clear_saved_state()
    assert manager.room.saved_state() == ()


async def test_without_a_server_nobody_can_say_what_a_picture_needs(settings):
    with pytest.raises(ServerNotRunningError):
        await DiffusionServerManager(settings).room.would_need_offload("x")


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"threshold": "much"},
        {"linger": -1},
        {"offloadables": ["ollama"]},
        {"offloadables": [Ollama("http://127.0.0.1:1"), Ollama("http://localhost:1")]},
    ],
)
def test_bad_options_are_refused(settings, options):
    with pytest.raises(InvalidRequestError) as caught:
        DiffusionServerManager(settings, **options)
    assert caught.value.hint


def test_the_blocking_manager_has_it_too(settings, ollama, little_memory):
    with BlockingServerManager(settings, offloadables=[Ollama(ollama.url, environ={})], linger=0) as manager:
        manager.start(**FAST)
        assert manager.room.would_need_offload("x", **LARGE)
        manager.generate_image("x", **LARGE)
        manager.room.wait_for_reload()
        assert manager.room.saved_state() == ()
        assert loaded(ollama) == [MODEL]
        report = manager.calibrate("x", plans=[MemoryPlan()], store=False, **SMALL)
        assert report.recommended == MemoryPlan()


# --- calibration


async def test_nothing_else_is_drawn_while_it_calibrates(settings):
    async with DiffusionServerManager(settings) as manager:
        await manager.start(**FAST)
        busy: list[bool] = []
        refused: list[str] = []

        def look(progress) -> None:
            busy.append(manager.info().busy)

        async def draw() -> None:
            await eventually(engines)
            with pytest.raises(ServerBusyError) as caught:
                await manager.generate_image("x", **SMALL)
            refused.append(caught.value.code)

        plans = [MemoryPlan(), MemoryPlan(vae_tiling=True)]
        report, _ = await asyncio.gather(
            manager.calibrate("x", plans=plans, on_progress=look, **(SMALL | {"steps": 40})), draw()
        )
        assert refused == ["SERVER_BUSY"]
        assert set(busy) == {True}
        assert [each.plan for each in report.measurements] == plans
        assert report.recommended in plans
        assert report.stored
        assert not manager.info().busy
        result = await manager.generate_image("x", **(SMALL | {"steps": 1}))
        assert result.image.width == 64


async def test_who_waits_is_drawn_when_it_has_ended(settings):
    async with DiffusionServerManager(settings) as manager:
        await manager.start(port="auto", queue=2)
        calibrating = asyncio.create_task(
            manager.calibrate("x", plans=[MemoryPlan()], **(SMALL | {"steps": 40}))
        )
        await eventually(engines)
        generation = await manager.submit("x", **SMALL)
        assert (generation.status.value, generation.position) == ("pending", 1)
        await calibrating
        async with asyncio.timeout(60):
            while manager.get(generation.id).status.value != "complete":
                await asyncio.sleep(0.02)


async def test_a_stop_ends_it(settings):
    manager = DiffusionServerManager(settings)
    await manager.start(**FAST)
    calibrating = asyncio.create_task(manager.calibrate("x", **LONG))
    await eventually(engines)
    await asyncio.wait_for(manager.stop(), 30)
    assert engines() == []
    assert calibrating.cancelled()


async def test_it_is_refused_while_something_is_drawn(settings):
    async with DiffusionServerManager(settings) as manager:
        await manager.start(port="auto", queue=2)
        await manager.submit("x", **LONG)
        with pytest.raises(ServerBusyError):
            await manager.calibrate("x", **SMALL)
