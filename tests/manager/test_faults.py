"""What goes wrong behind a running server, and that it goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import requests

from sdmanager import DiffusionServerManager
from sdmanager.errors import ModelNotFoundError
from sdmanager.models import ModelFiles, demo_model

SMALL = {"width": 64, "height": 64, "steps": 3}


async def ended(manager: DiffusionServerManager, **fields):
    generation = await manager.submit("x", **{**SMALL, **fields})
    async for _ in manager.events(generation.id):
        pass
    return manager.get(generation.id)


@pytest.mark.parametrize("stage", ["loading", "diffusion", "decoding"])
@pytest.mark.parametrize(
    ("mode", "code"),
    [("segv", "ENGINE_CRASHED"), ("abort", "OUT_OF_MEMORY"), ("exit", "BACKEND_ERROR")],
)
async def test_an_engine_that_ends_badly_at_any_stage_is_an_error_and_the_next_one_draws(
    misbehaving, monkeypatch, stage, mode, code
):
    manager = misbehaving(f"{mode}@{stage}")
    await manager.start(port="auto")
    failed = await ended(manager)
    assert (failed.status, failed.error.code) == ("error", code)
    monkeypatch.setenv("FAKE_ENGINE", "draws")
    assert (await ended(manager)).status == "complete"
    assert await manager.is_healthy()


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("noimage", "NO_IMAGE"),
        ("truncated", "IMAGE_TRUNCATED"),
        ("grey", "IMAGE_BLANK"),
        ("savefails", "IO_ERROR"),
    ],
)
async def test_a_picture_that_is_none_is_an_error(misbehaving, mode, code):
    manager = misbehaving(mode)
    await manager.start(port="auto")
    assert (await ended(manager)).error.code == code


async def test_a_model_that_is_deleted_while_the_server_runs(settings, tmp_path):
    files = {
        role: shutil.copy(path, tmp_path / path.name) for role, path in demo_model(settings).files.items()
    }
    model = ModelFiles("mine", files)
    async with DiffusionServerManager(settings) as manager:
        await manager.start(model, port="auto")
        assert (await ended(manager)).status == "complete"
        next(iter(model.files.values())).unlink()
        with pytest.raises(ModelNotFoundError) as refused:  # before it is accepted
            await ended(manager)
        assert str(tmp_path) not in refused.value.message
        assert await manager.is_healthy()


async def test_an_engine_that_is_deleted_while_the_server_runs(home, built, fake_engine):
    settings = replace(home, engine=fake_engine, data_dir=built.data_dir)
    async with DiffusionServerManager(settings) as manager:
        await manager.start(port="auto")
        fake_engine.unlink()
        gone = await ended(manager)
        assert (gone.status, gone.error.code) == ("error", "ENGINE_NOT_FOUND")
        assert await manager.is_healthy()


FULL_DISK = """
import os, sys, sdmanager, urllib.error, urllib.request
from sdmanager.settings import Settings

state = Settings.from_environment().state_dir
with sdmanager.BlockingServerManager() as manager:
    url = manager.start(port="auto").url

    def post():
        data = b'{"prompt": "x", "width": 64, "height": 64, "steps": 2}'
        request = urllib.request.Request(f"{url}/v1/images/generations", data, {"Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=30).status
        except urllib.error.HTTPError as error:
            return error.read().decode()

    ballast = open(state / "ballast", "wb", buffering=0)
    try:
        while True:
            ballast.write(b"x" * 4096)
    except OSError:
        pass
    print(post())
    print(manager.info().busy, manager.is_healthy())
    ballast.close()
    (state / "ballast").unlink()
    print(post())
"""


def test_on_a_full_disk_nothing_is_accepted_and_the_server_goes_on(environment, tmp_path):
    state, kept = f"{environment['SDMANAGER_HOME']}/state", tmp_path / "kept"
    script = f"cp -r {state}/. {kept} && mount -t tmpfs -o size=256k none {state} && cp {kept}/* {state}"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", "--mount", *user, "sh", "-c", f'{script} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*argv, "true"], check=False).returncode != 0:
        pytest.skip("this user may mount nothing")
    done = subprocess.run(
        [*argv, sys.executable, "-c", FULL_DISK],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    refused, state, accepted = done.stdout.splitlines()
    assert '"IO_ERROR"' in refused
    assert state == "False True"
    assert accepted == "201"


async def test_a_client_of_many_threads_is_served_by_one_loop(manager):
    info = await manager.start(port="auto", queue=20)

    def ask(number: int) -> int:
        fields = {"prompt": f"cat {number}", **SMALL}
        return requests.post(f"{info.url}/v1/images/generations", json=fields, timeout=60).status_code

    statuses = await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(8)))
    assert statuses == [201] * 8
    for id_ in [generation["id"] for generation in await asyncio.to_thread(listed, info.url)]:
        async for _ in manager.events(id_):
            pass
        assert manager.get(id_).status == "complete"


def listed(url: str) -> list[dict]:
    return requests.get(f"{url}/v1/images/generations", timeout=60).json()["generations"]
