"""The models of a running server: listed, drawn with by name, and switched, in Python and over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from model_parts import make
from named_models import install, own_models

from sdmanager import BlockingServerManager, DiffusionServerManager
from sdmanager.errors import (
    ModelNotFoundError,
    ServerNotRunningError,
    StorageError,
)
from sdmanager.generation import MemoryPlan
from sdmanager.jobs import Status
from sdmanager.manager import ServerState
from sdmanager.models import DEMO_NAME, ModelStore, Role, demo_model, resolve_model
from sdmanager.resources import PeakStore
from sdmanager.server import schemas
from sdmanager.settings import Settings

SMALL = {"width": 64, "height": 64, "steps": 2}
LONG = {"width": 512, "height": 512, "steps": 1000}
GENERATIONS = "/v1/images/generations"


@pytest.fixture
async def own(settings: Settings, tmp_path: Path) -> Settings:
    """With two models, ``red`` and ``blue``."""
    own = own_models(settings, tmp_path / "own")
    await install(own, tmp_path, "red", "blue")
    return own


@pytest.fixture
async def manager(own: Settings) -> AsyncIterator[DiffusionServerManager]:
    """A running one that began with the demo model."""
    async with DiffusionServerManager(own) as manager:
        await manager.start(port="auto", queue=8)
        yield manager


@pytest.fixture
async def client(manager: DiffusionServerManager) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(manager.info().url) as client:
        yield client


async def ask(client: aiohttp.ClientSession, method: str, path: str, body: object = None) -> tuple[int, dict]:
    async with client.request(method, path, json=body) as reply:
        return reply.status, json.loads(await reply.read())


async def drawn(client: aiohttp.ClientSession, **fields: object) -> dict:
    """The last state of a generation that is asked for over HTTP."""
    status, body = await ask(client, "POST", GENERATIONS, {"prompt": "a lighthouse", **SMALL, **fields})
    assert status == 201, body
    async with asyncio.timeout(120):
        while True:
            status, state = await ask(client, "GET", f"{GENERATIONS}/{body['id']}")
            if state["status"] not in {"pending", "in_progress"}:
                return state
            await asyncio.sleep(0.02)


async def names(manager: DiffusionServerManager) -> list[str]:
    return [entry.name for entry in await manager.models.list()]


# --- what there is


async def test_the_installed_models_and_the_demo_model_are_listed_by_name(
    manager: DiffusionServerManager, own: Settings
) -> None:
    entries = {entry.name: entry for entry in await manager.models.list()}
    assert list(entries) == ["blue", "demo", "red"]
    red, installed = entries["red"], ModelStore(own).find("red")
    assert installed is not None
    assert red.path == resolve_model("red", own).files[Role.DIFFUSION_MODEL]
    assert red.family == "ovis-image" == entries["demo"].family
    assert abs(red.installed_at - time.time()) < 600
    assert dict(red.defaults) == installed.defaults.as_fields()
    assert dict(entries["demo"].defaults)["steps"] == 12
    assert entries["demo"].installed_at == 0
    assert red.vae is entries["demo"].vae is None


async def test_a_record_that_cannot_be_read_is_left_out(
    manager: DiffusionServerManager, own: Settings
) -> None:
    (own.models_dir / "installed" / "red.json").write_text("{")
    assert await names(manager) == ["blue", "demo"]
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        await manager.models.use("red")


async def test_a_model_that_was_given_by_its_path_is_listed_by_its_stem(own: Settings, whole: Path) -> None:
    async with DiffusionServerManager(own) as manager:
        await manager.start(whole, port="auto", ignore_fit=True)
        assert manager.models.current == "my own" == manager.info().model
        entries = {entry.name: entry for entry in await manager.models.list()}
        assert list(entries) == ["blue", "demo", "my own", "red"]
        assert (entries["my own"].path, entries["my own"].sha256) == (whole, None)
        await manager.models.use("red")
        assert (await manager.generate_image("x", **SMALL)).model == "red"
        assert "my own" in await names(manager)
        await manager.models.use("my own")
        assert manager.models.current == "my own"
        with pytest.raises(ModelNotFoundError):
            await manager.models.use(str(whole))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file that is a whole model by its header."""
    return make(tmp_path / "my own.safetensors", "sd1")


async def test_the_current_model_is_listed_when_its_record_is_gone(
    manager: DiffusionServerManager, own: Settings
) -> None:
    await manager.models.use("red")
    ModelStore(own).remove("red")
    assert manager.models.current == "red"
    assert await names(manager) == ["blue", "demo", "red"]
    await manager.models.use("demo")
    assert await names(manager) == ["blue", "demo"]


async def test_listing_makes_no_demo_model(own: Settings, manager: DiffusionServerManager) -> None:
    made = demo_model(own).files[Role.TAE].parent
    made.unlink()  # the link of this test
    assert "demo" in await names(manager)
    assert not made.exists()


async def test_two_hundred_models_are_listed_by_opening_each_record_once(
    manager: DiffusionServerManager, own: Settings
) -> None:
    record = json.loads((own.models_dir / "installed" / "red.json").read_text())
    for number in range(200):
        other = {**record, "name": f"other-{number:03}"}
        (own.models_dir / "installed" / f"{other['name']}.json").write_text(json.dumps(other))
    opened: list[str] = []
    listening = True

    def hear(event: str, args: tuple) -> None:
        if event == "open" and listening and str(args[0]).startswith(str(own.models_dir)):
            opened.append(str(args[0]))

    sys.addaudithook(hear)  # which cannot be taken away again
    found = await names(manager)
    listening = False
    assert len(found) == 203
    records = [path for path in opened if path.endswith(".json")]
    assert len(records) == len(set(records)) == 202
    assert len(opened) < 210


# --- in Python


async def test_pictures_are_drawn_with_the_model_that_is_named(
    manager: DiffusionServerManager,
) -> None:
    for name in ("red", "blue", None, "demo"):
        result = await manager.generate_image("x", model_id=name, **SMALL)
        assert result.model == (name or DEMO_NAME)
    with pytest.raises(ModelNotFoundError):
        await manager.submit("x", model_id="none", **SMALL)
    assert not manager._service.busy


async def test_only_a_running_server_has_models(own: Settings) -> None:
    models = DiffusionServerManager(own).models
    with pytest.raises(ServerNotRunningError):
        _ = models.current
    for call in (models.list(), models.use("red")):
        with pytest.raises(ServerNotRunningError):
            await call


async def test_what_was_accepted_keeps_its_model_whatever_is_switched_to_meanwhile(
    manager: DiffusionServerManager,
) -> None:
    first = await manager.submit("x", **LONG)
    with_demo = await manager.submit("x", **SMALL)
    with_blue = await manager.submit("x", model_id="blue", **SMALL)
    await manager.models.use("red")
    with_red = await manager.submit("x", **SMALL)
    await manager.models.use("blue")
    assert manager.get(with_demo.id).status is Status.PENDING
    await manager.cancel(first.id)
    used = []
    for generation in (with_demo, with_blue, with_red):
        ended = await manager._service.wait(generation.id)
        assert ended.result is not None, ended.error
        used.append(ended.result.model)
    assert used == ["demo", "blue", "red"]
    assert manager.info().model == "blue"


async def test_a_switch_between_the_check_and_the_acceptance_counts(
    manager: DiffusionServerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drawn with the model that was current when it was accepted."""
    parts = manager._parts

    async def check(request):
        await parts.check(request)
        await manager.models.use("red")

    monkeypatch.setattr(manager._life, "parts", replace(parts, check=check))
    generation = await manager.submit("x", **SMALL)
    await manager.models.use("blue")
    ended = await manager._service.wait(generation.id)
    assert ended.result is not None
    assert ended.result.model == "red"


async def test_the_same_key_is_the_same_request_after_a_switch(
    manager: DiffusionServerManager, client: aiohttp.ClientSession
) -> None:
    async def send() -> tuple[int, str, bool]:
        async with client.post(
            GENERATIONS, json={"prompt": "x", **SMALL}, headers={"Idempotency-Key": "one"}
        ) as reply:
            return reply.status, (await reply.json())["id"], "Idempotency-Replayed" in reply.headers

    status, made, _ = await send()
    await manager.models.use("red")
    assert await send() == (status, made, True)


async def test_a_restart_begins_with_the_model_that_it_is_given(
    manager: DiffusionServerManager,
) -> None:
    await manager.models.use("red")
    await manager.stop()
    await manager.start(port="auto")
    assert manager.models.current == "demo"
    await manager.stop()
    await manager.start("blue", port="auto")
    assert (await manager.generate_image("x", **SMALL)).model == "blue"
    await manager.models.use("demo")
    assert (await manager.generate_image("x", **SMALL)).model == "demo"


async def test_files_that_go_after_a_switch_are_told_before_a_request_is_accepted(
    manager: DiffusionServerManager, own: Settings
) -> None:
    await manager.models.use("red")
    resolve_model("red", own).files[Role.TAE].unlink()
    with pytest.raises(ModelNotFoundError, match="not there any more"):
        await manager.submit("x", **SMALL)
    await manager.models.use("blue")
    assert (await manager.generate_image("x", **SMALL)).model == "blue"


async def test_calibration_and_room_are_those_of_the_current_model(
    manager: DiffusionServerManager, own: Settings
) -> None:
    await manager.models.use("red")
    report = await manager.calibrate("x", plans=[MemoryPlan()], **SMALL)
    assert report.model == "red"
    assert report.recommended == MemoryPlan()
    learned = PeakStore(own.memory_file).learned(resolve_model("red", own).key, report.variant)
    assert learned.recommended == {(64, 64): MemoryPlan()}
    assert (await manager.calibrate("x", plans=[MemoryPlan()], model_id="blue", **SMALL)).model == "blue"
    assert not await manager.room.would_need_offload("x", **SMALL)
    with pytest.raises(ModelNotFoundError):
        await manager.room.would_need_offload("x", model_id="none")


async def test_a_switch_is_written_into_the_log_once(manager: DiffusionServerManager) -> None:
    for _ in range(2):
        await manager.models.use("red")
    assert len([line for line in manager.logs() if "draws with the model 'red'" in line]) == 1


def test_without_an_event_loop(own: Settings) -> None:
    with BlockingServerManager(own) as manager:
        manager.start(port="auto")
        assert [entry.name for entry in manager.models.list()] == ["blue", "demo", "red"]
        assert manager.models.current == "demo"
        manager.models.use("red")
        assert manager.models.current == "red"
        assert manager.generate_image("x", **SMALL).model == "red"
        assert manager.generate_image("x", model_id="blue", **SMALL).model == "blue"
        with pytest.raises(ModelNotFoundError):
            manager.models.use("none")


# --- over HTTP


async def test_the_list_is_in_openais_shape_and_says_what_a_page_needs(
    client: aiohttp.ClientSession, manager: DiffusionServerManager
) -> None:
    await manager.models.use("red")
    status, body = await ask(client, "GET", "/v1/models")
    schemas.ModelList.model_validate(body)
    assert (status, body["object"]) == (200, "list")
    assert [(each["id"], each["name"], each["current"]) for each in body["data"]] == [
        ("blue", "blue", False),
        ("demo", "demo", False),
        ("red", "red", True),
    ]
    demo = body["data"][1]
    assert demo == {
        "id": "demo", "object": "model", "created": 0, "owned_by": "local", "name": "demo", "current": False,
        "family": "ovis-image", "defaults": {"steps": 12, "cfgScale": 1.0, "width": 256, "height": 256},
    }  # fmt: skip
    assert body["data"][2]["created"] > 0


async def test_a_model_is_named_in_a_request_and_used_over_http(client: aiohttp.ClientSession) -> None:
    assert (await drawn(client, modelId="blue"))["result"]["model"] == "blue"
    assert (await ask(client, "GET", "/v1/info"))[1]["model"] == "demo"
    assert (await ask(client, "GET", "/v1/models/current"))[1]["id"] == "demo"
    assert await ask(client, "POST", "/v1/models/current", {"id": "RED"}) == (
        200,
        {"id": "red", "current": True},
    )
    assert (await ask(client, "GET", "/v1/info"))[1]["model"] == "red"
    assert (await drawn(client))["result"]["model"] == "red"
    assert (await drawn(client, modelId=None))["result"]["model"] == "red"
    assert (await drawn(client, modelId="demo"))["result"]["model"] == "demo"


async def test_a_form_names_a_model_as_text_and_an_empty_one_is_none(client: aiohttp.ClientSession) -> None:
    for name, status in (("none", 404), ("5", 404), ("", 201)):
        form = aiohttp.FormData()
        for field, value in {"prompt": "x", "modelId": name, **SMALL}.items():
            form.add_field(field, str(value), content_type="text/plain")  # which makes it a multipart form
        async with client.post(GENERATIONS, data=form) as reply:
            assert reply.status == status, await reply.text()


NO_MODELS = {
    "unknown": "none",
    "path": "/etc/passwd",
    "above": "../../../etc/passwd",
    "url": "file:///etc/passwd",
    "nul": "red\0",
    "blank": " ",
}


@pytest.mark.parametrize("name", NO_MODELS.values(), ids=NO_MODELS)
async def test_other_names_are_refused_before_anything_is_accepted(
    client: aiohttp.ClientSession, manager: DiffusionServerManager, name: str
) -> None:
    status, body = await ask(client, "POST", "/v1/models/current", {"id": name})
    assert (status, body["error"]["code"]) == (404, "MODEL_NOT_FOUND")
    assert "passwd" not in json.dumps(body)
    status, body = await ask(client, "POST", GENERATIONS, {"prompt": "x", "modelId": name, **SMALL})
    assert (status, body["error"]["code"]) in {(404, "MODEL_NOT_FOUND"), (400, "INVALID_REQUEST")}
    assert "passwd" not in json.dumps(body)
    assert manager.models.current == "demo"
    assert manager._service.registry.list() == ()


@pytest.mark.parametrize(
    "body",
    [{}, {"id": None}, {"id": 5}, {"id": ["red"]}, {"id": "red", "x": 1}, {"name": "red"}, {"id": ""}],
    ids=str,
)
async def test_what_names_no_model_is_refused(client: aiohttp.ClientSession, body: dict) -> None:
    status, answer = await ask(client, "POST", "/v1/models/current", body)
    assert (status, answer["error"]["code"]) == (400, "INVALID_REQUEST")
    assert answer["error"]["suggestion"]


@pytest.mark.parametrize("length", [101, 200, 201, 60_000])
async def test_a_name_that_is_too_long_is_not_said_again(
    client: aiohttp.ClientSession, manager: DiffusionServerManager, length: int
) -> None:
    status, answer = await ask(client, "POST", "/v1/models/current", {"id": "n" * length})
    expected = (404, "MODEL_NOT_FOUND") if length <= 200 else (400, "INVALID_REQUEST")
    assert (status, answer["error"]["code"]) == expected
    assert "n" * 101 not in json.dumps(answer)
    assert answer["error"]["suggestion"]
    assert manager.models.current == "demo"


async def test_many_switches_and_requests_at_once_each_have_one_model(
    client: aiohttp.ClientSession, manager: DiffusionServerManager
) -> None:
    async def switch(name: str) -> None:
        assert await ask(client, "POST", "/v1/models/current", {"id": name}) == (
            200,
            {"id": name, "current": True},
        )

    async def draw(name: str) -> None:
        assert (await drawn(client, modelId=name))["result"]["model"] == name

    cycle = ("red", "blue", "demo")
    await asyncio.gather(*(switch(name) for name in cycle * 5), *(draw(name) for name in cycle))
    assert manager.models.current in cycle


# --- what is seen early


async def test_a_gallery_that_cannot_be_written_is_seen_before_an_engine_is_looked_for(
    never_starting: DiffusionServerManager, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        await never_starting.start(port="auto", gallery=tmp_path / "file")
    assert never_starting.status is ServerState.CRASHED


async def test_info_says_whether_there_is_a_gallery(own: Settings, tmp_path: Path) -> None:
    async with DiffusionServerManager(own) as manager:
        assert not manager.info().gallery
        await manager.start(port="auto", gallery=tmp_path / "gallery")
        assert manager.info().gallery
        await manager.stop()
        await manager.start(port="auto")
        assert not manager.info().gallery
