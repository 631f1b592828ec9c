"""llama-swap, against a process that speaks its API, holds the memory that it claims, and notes each start and stop."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager

import psutil
import pytest
from fake_llms import serving

from sdmanager.errors import InvalidRequestError, OffloadError, RestoreError
from sdmanager.resources import Offloadable
from sdmanager.resources._asking import Asker
from sdmanager.resources.llama_swap import LlamaSwap
from sdmanager.resources.offloadable import Holding

MIB = 1 << 20
CHAT, CODER, OTHER = "qwen2.5", "author/coder 7b", "smollm2"
MODELS = {CHAT: 24 * MIB, CODER: 8 * MIB, OTHER: MIB}
KEY = "sk-not-to-be-seen"


@contextmanager
def running(tmp_path, models=(), *, port=0, log="calls", **environ):
    with serving("llama_swap.py", tmp_path / log, MODELS, list(models), port=port, **environ) as server:
        yield server


def listed(server):
    return {each["model"]: each["state"] for each in server.ask("GET", "/running")["running"]}


def starts(server, before=0):
    return server.models("start")[before:]


async def held(program):
    holding = await asyncio.wait_for(program.holding(), 10)
    assert holding is not None
    return holding


async def noted(server, call, count=1):
    async with asyncio.timeout(10):
        while len(server.calls(call)) < count:
            await asyncio.sleep(0.01)


def test_it_is_an_offloadable():
    assert isinstance(LlamaSwap("http://127.0.0.1:1"), Offloadable)


async def test_what_runs_is_told_with_the_memory_that_the_user_said(tmp_path):
    with running(tmp_path, [CHAT, CODER]) as server:
        holding = await held(LlamaSwap(server.url, vram_bytes=5, ram_bytes=6))
        unknown = await held(LlamaSwap(server.url))
    assert holding == Holding(f"{CHAT}, {CODER}", 6, 5, {"models": [CHAT, CODER]})
    assert (unknown.ram, unknown.vram) == (None, None)
    assert json.loads(json.dumps(holding.state)) == holding.state


@pytest.mark.parametrize("mode", ["", "old", "slow"])
async def test_what_is_put_aside_gives_its_memory_back(tmp_path, mode):
    with running(tmp_path, [CHAT, CODER], FAKE_MODE=mode, FAKE_SECONDS="0.1") as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        program = LlamaSwap(server.url)
        await program.put_aside(await held(program))
        assert listed(server) == {}
        assert before - process.memory_info().rss > 28 * MIB
        assert await program.holding() is None
        assert server.models("stop") == [CHAT, CODER]


@pytest.mark.parametrize("mode", ["", "old", "slow", "other"])
async def test_models_come_back_with_one_start_each(tmp_path, mode):
    with running(tmp_path, [CHAT, CODER], FAKE_MODE=mode, FAKE_SECONDS="0.1") as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        await program.put_aside(holding)
        await program.restore(json.loads(json.dumps(holding.state)))
        assert listed(server) == {CHAT: "ready", CODER: "ready"}
        await program.restore(holding.state)
        assert starts(server, 2) == [CHAT, CODER]


async def test_two_restores_at_once_start_once(tmp_path):
    with running(tmp_path, [CHAT], FAKE_MODE="slow", FAKE_SECONDS="0.2") as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        await program.put_aside(holding)
        async with asyncio.timeout(10):
            await asyncio.gather(*(program.restore(holding.state) for _ in range(3)))
        assert starts(server, 1) == [CHAT]


async def test_two_managers_at_once_start_once(tmp_path):
    with running(tmp_path, FAKE_MODE="slow", FAKE_SECONDS="0.2") as server:
        async with asyncio.timeout(10):
            await asyncio.gather(*(LlamaSwap(server.url).restore({"models": [CHAT]}) for _ in range(3)))
        assert starts(server) == [CHAT]


async def test_what_the_user_has_running_meanwhile_stays_and_nothing_is_started_beside_it(tmp_path):
    with running(tmp_path, [CHAT]) as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        await program.put_aside(holding)
        await asyncio.to_thread(server.ask, "GET", f"/upstream/{OTHER}/health")
        await program.restore(holding.state)
        assert listed(server) == {OTHER: "ready"}


async def test_a_model_that_was_removed_meanwhile_is_not_missed(tmp_path, caplog):
    for mode in ("", "old"):
        with running(tmp_path, FAKE_MODE=mode) as server:
            await LlamaSwap(server.url).restore({"models": ["gone", CHAT]})
            assert listed(server) == {CHAT: "ready"}
        assert "no model gone any more" in caplog.text
        caplog.clear()


async def test_a_model_that_was_removed_from_its_file_can_still_be_put_aside(tmp_path):
    with running(tmp_path) as server:
        await LlamaSwap(server.url).put_aside(Holding("gone", None, None, {"models": ["gone"]}))


async def test_an_old_one_does_not_stop_what_it_was_not_told_to(tmp_path):
    with running(tmp_path, [CHAT], FAKE_MODE="old") as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        await asyncio.to_thread(server.ask, "GET", f"/upstream/{OTHER}/health")
        with pytest.raises(OffloadError, match=f"cannot stop single models, and {OTHER} runs by now"):
            await program.put_aside(holding)
        assert set(listed(server)) == {CHAT, OTHER}


async def test_models_that_do_not_stop_are_an_error_after_the_limit(tmp_path):
    with running(tmp_path, [CHAT], FAKE_MODE="stays") as server:
        program = LlamaSwap(server.url, unload_timeout=0.2)
        with pytest.raises(OffloadError, match=f"still has {CHAT} running after 0.2 s"):
            await program.put_aside(await held(program))


async def test_putting_aside_can_be_cancelled_and_restored(tmp_path):
    with running(tmp_path, [CHAT], FAKE_MODE="slow", FAKE_SECONDS="2") as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        task = asyncio.create_task(program.put_aside(holding))
        await noted(server, "stop")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert listed(server) == {CHAT: "stopping"}
        await asyncio.wait_for(program.restore(holding.state), 60)
        assert listed(server) == {CHAT: "ready"}
        assert starts(server, 1) == [CHAT]


async def test_a_restore_that_was_cancelled_is_finished_by_the_next_without_a_second_start(tmp_path):
    with running(tmp_path, FAKE_MODE="slow", FAKE_SECONDS="0.3") as server:
        program = LlamaSwap(server.url)
        task = asyncio.create_task(program.restore({"models": [CHAT]}))
        await noted(server, "start")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(program.restore({"models": [CHAT]}), 10)
        assert listed(server) == {CHAT: "ready"}
        assert starts(server) == [CHAT]


async def test_one_that_is_still_starting_is_waited_for(tmp_path):
    with running(tmp_path, FAKE_MODE="slow", FAKE_SECONDS="20") as server:
        program = LlamaSwap(server.url, load_timeout=0.5)
        with pytest.raises(RestoreError, match=r"did not answer within 0\.5 s"):
            await program.restore({"models": [CHAT]})
        await noted(server, "start")
        with pytest.raises(RestoreError, match=f"does not bring {CHAT} up"):
            await program.restore({"models": [CHAT]})
        assert (await held(program)).what == CHAT
        assert starts(server) == [CHAT]


async def test_a_server_that_has_gone_holds_nothing_and_is_an_error_to_everything_else(tmp_path):
    with running(tmp_path, [CHAT]) as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        server.end()
        assert await program.holding() is None
        with pytest.raises(
            OffloadError, match=rf"llama-swap at 127\.0\.0\.1:{server.port} cannot be reached"
        ):
            await program.put_aside(holding)
        with pytest.raises(RestoreError, match="cannot be reached"):
            await program.restore(holding.state)


async def test_a_server_that_was_restarted_meanwhile_gets_its_models_back(tmp_path):
    with running(tmp_path, [CHAT]) as server:
        program = LlamaSwap(server.url)
        holding = await held(program)
        await program.put_aside(holding)
    with running(tmp_path, port=server.port, log="again") as server:
        await program.restore(holding.state)
        assert listed(server) == {CHAT: "ready"}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("hang", "did not answer within 0.3 s"),
        ("error500", "answered with status 500: out of order"),
        ("garbage", "does not answer as llama-swap does"),
        ("broken", "does not run qwen2.5: it answered with status 502: upstream command exited prematurely"),
    ],
)
async def test_what_answers_otherwise_holds_nothing_and_is_an_error(tmp_path, mode, words):
    with running(tmp_path, FAKE_MODE=mode) as server:
        program = LlamaSwap(server.url, timeout=0.3 if mode == "hang" else 20)
        assert await asyncio.wait_for(program.holding(), 60) is None
        with pytest.raises(RestoreError, match=words):
            await program.restore({"models": [CHAT]})


async def test_the_key_is_shown_to_it_and_to_nobody_else(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with running(tmp_path, [CHAT], FAKE_KEY=KEY) as server:
        program = LlamaSwap(server.url, api_key=KEY)
        holding = await held(program)
        await program.put_aside(holding)
        await program.restore(holding.state)
        assert starts(server, 1) == [CHAT]
    with running(tmp_path, FAKE_KEY="another") as server:
        program = LlamaSwap(server.url, api_key=KEY)
        with pytest.raises(RestoreError, match="refuses the API key") as caught:
            await program.restore(holding.state)
    shown = f"{caught.value!r} {caught.value.hint} {caught.value.details} {program!r} {holding} {caplog.text}"
    assert KEY not in shown
    assert "api_key_env" in caught.value.hint


async def test_a_key_in_what_the_server_says_is_not_told(tmp_path):
    with running(tmp_path, FAKE_KEY="another") as server:
        answer = await Asker(server.url, KEY).ask("GET", "/running", seconds=5)
    assert answer.said == "unauthorized: Bearer ***"


@pytest.mark.parametrize("state", [{}, {"models": []}, {"models": [5]}, {"models": "a"}])
async def test_a_state_that_says_nothing_is_an_error_that_names_the_way_out(tmp_path, state):
    with running(tmp_path) as server:
        with pytest.raises(RestoreError) as caught:
            await LlamaSwap(server.url).restore(state)
        with pytest.raises(OffloadError):
            await LlamaSwap(server.url).put_aside(Holding("?", None, None, state))
    assert "saved state" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "two words"}, {"api_key": "line\n"}, {"vram_bytes": -1}, {"ram_bytes": True}, {"vram_bytes": 1.5},
        {"ram_bytes": 1 << 61}, {"timeout": 0}, {"unload_timeout": -1}, {"load_timeout": None}, {"name": ""},
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(options):
    with pytest.raises(InvalidRequestError):
        LlamaSwap("http://127.0.0.1:8080", **options)


def test_an_address_is_needed():
    with pytest.raises(InvalidRequestError, match="The address of llama-swap cannot be used") as caught:
        LlamaSwap("127.0.0.1:8080")
    assert "http://127.0.0.1:8080" in caught.value.hint


def test_without_a_name_it_is_named_after_its_place():
    assert LlamaSwap("http://localhost:8080/").name == "llama-swap at 127.0.0.1:8080"
    assert LlamaSwap("https://gpu.lan").name == "llama-swap at gpu.lan:443"
    assert LlamaSwap("http://gpu.lan:1", name="mine").name == "mine"
