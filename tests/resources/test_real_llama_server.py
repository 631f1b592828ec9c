"""A real llama-server, built from source, with a language model of half a megabyte: ``pytest -m llama``."""

import asyncio
import json
import time

import aiohttp
import psutil
import pytest
from llama_build import built_llama_server, missing_tools
from tiny_gguf import write_tiny_gguf

from sdmanager.errors import PortInUseError, RestoreError, ServerError
from sdmanager.resources.llama_server import LlamaServer

pytestmark = pytest.mark.llama

LIMIT = 60
KEY = "sk-for-a-real-one"


@pytest.fixture(scope="session")
def program():
    """Half an hour the first time, on a slow machine."""
    if missing := missing_tools():
        pytest.skip(f"needs {', '.join(missing)}")
    return built_llama_server()


@pytest.fixture
def model(tmp_path):
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
async def server(program, model, home):
    server = LlamaServer([program, "-m", model, "-c", "128"], api_key=KEY, settings=home)
    yield server
    async with asyncio.timeout(LIMIT):
        await server.stop()


async def complete(server, key=KEY):
    body = {"prompt": "once upon a time", "n_predict": 8, "temperature": 0, "seed": 1}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        asyncio.timeout(LIMIT),
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{server.url}/completion", json=body) as answer,
    ):
        return answer.status, await answer.json()


def children():
    return psutil.Process().children(recursive=True)


async def test_it_is_put_aside_and_comes_back_as_it_was(server):
    await server.start()
    assert await server.is_healthy()
    status, before = await complete(server)
    assert status == 200
    url, holding = server.url, await server.holding()
    assert holding.what == "tiny.gguf"
    assert holding.ram > 1 << 20
    state = json.loads(json.dumps(dict(holding.state)))
    assert [name.rpartition("/")[-1] for name in state["models"]] == ["tiny.gguf"]

    await server.put_aside(holding)
    assert children() == []

    await server.restore(state)
    assert server.url == url
    status, after = await complete(server)
    assert status == 200
    assert (after["content"], after["model"]) == (before["content"], before["model"])
    await server.restore(state)
    assert len([child for child in children() if "llama-server" in child.name()]) == 1


async def test_it_obeys_the_polite_stop(server):
    await server.start()
    before = time.monotonic()
    await server.stop()
    assert time.monotonic() - before < 4  # of a grace of five
    assert children() == []


async def test_the_key_arrives_and_is_in_no_argument_and_no_log(server):
    await server.start()
    assert (await complete(server, "wrong"))[0] == 401
    assert (await complete(server))[0] == 200
    shown = [child.cmdline() for child in children()], server.logs(1000), repr(server)
    assert KEY not in repr(shown)


async def test_what_it_says_of_a_broken_model_is_in_the_error(program, model, home):
    model.write_bytes(model.read_bytes()[:1000])
    server = LlamaServer([program, "-m", model], settings=home)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(ServerError, match=r"exit code 1; its last words: .*tiny\.gguf") as caught:
            await server.start()
    assert str(model.parent) not in caught.value.message
    assert children() == []


async def test_an_argument_that_it_does_not_know_is_in_the_error(program, home):
    server = LlamaServer([program, "--no-such-option"], settings=home)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(ServerError, match="no-such-option"):
            await server.start()


async def test_a_second_one_on_its_port_is_refused_and_the_first_goes_on(server, program, model, home):
    await server.start()
    port = int(server.url.rsplit(":")[-1])
    second = LlamaServer([program, "-m", model], port=port, settings=home)
    with pytest.raises(PortInUseError):
        await second.start()
    # The first is one that the user runs, as far as the second knows: it stays.
    await second.restore({})
    assert not second.running
    assert await server.is_healthy()


async def test_stop_while_it_loads_ends_it(server):
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.03)
    await server.stop()
    with pytest.raises(ServerError):
        await starting
    assert children() == []


async def test_a_model_that_was_deleted_is_an_error_until_it_is_there_again(server, model):
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    moved = model.rename(model.with_suffix(".away"))
    with pytest.raises(RestoreError, match=r"tiny\.gguf"):
        await server.restore(holding.state)
    moved.rename(model)
    await server.restore(holding.state)
    assert await server.is_healthy()


@pytest.mark.parametrize("options", [[], ["--api-prefix", "/said"]])
async def test_it_is_asked_below_the_prefix_of_its_environment(program, model, home, monkeypatch, options):
    monkeypatch.setenv("LLAMA_ARG_API_PREFIX", "/environment")
    command = [program, "-m", model, "-c", "128", *options]
    async with asyncio.timeout(LIMIT), LlamaServer(command, settings=home, ready_timeout=20) as server:
        assert server.url.endswith("/said" if options else "/environment")
        assert (await server.holding()).state["models"]
