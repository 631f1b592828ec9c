"""Ollama, against a process that speaks its API, holds the memory that it claims, and notes each call."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from fake_llms import serving

from sdmanager.errors import InvalidRequestError, OffloadError, RestoreError
from sdmanager.resources import Offloadable, ResourceOrchestrator
from sdmanager.resources.journal import Entry, Journal
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.ollama import Ollama

MIB = 1 << 20
CHAT, EMBED, OTHER = "llama3.2:3b", "nomic-embed-text:latest", "hf.co/a/b:Q4_K_M"
MODELS = {
    CHAT: {"size": 24 * MIB, "vram": 16 * MIB},
    EMBED: {"size": 8 * MIB, "vram": 8 * MIB, "embeds": True},
    OTHER: {"size": 4 * MIB, "vram": 0},
}


@contextmanager
def running(tmp_path, loaded=None, *, port=0, log="calls", **environ):
    with serving("ollama_server.py", tmp_path / log, MODELS, loaded or {}, port=port, **environ) as server:
        yield server


def ollama(server, **options):
    return Ollama(server.url, environ={}, **options)


def listed(server):
    return {each["name"] for each in server.ask("GET", "/api/ps")["models"]}


def use(server, name):
    """As another program of the user's does: the log has it as a load, too."""
    server.ask("POST", "/api/generate", {"model": name, "prompt": "Hello", "stream": False})


async def until_due(server, count=1):
    """Until models that were told to go would have gone."""
    async with asyncio.timeout(10):
        while len(server.calls("due")) < count:
            await asyncio.sleep(0.01)


async def held(program):
    holding = await asyncio.wait_for(program.holding(), 10)
    assert holding is not None
    return holding


def test_it_is_an_offloadable():
    assert isinstance(Ollama("http://127.0.0.1:1"), Offloadable)


async def test_what_is_loaded_is_told_with_its_memory(tmp_path):
    with running(tmp_path, {CHAT: 600, EMBED: -1}) as server:
        holding = await held(ollama(server))
    assert holding.what == f"{CHAT}, {EMBED}"
    assert (holding.ram, holding.vram) == (8 * MIB, 24 * MIB)


async def test_the_state_is_plain_json_with_the_time_each_model_had_left_and_its_context(tmp_path):
    with running(tmp_path, {CHAT: 600, EMBED: -1, OTHER: 5}) as server:
        state = (await held(ollama(server))).state
    assert json.loads(json.dumps(state)) == state
    chat, embed, other = state["models"]
    assert (chat["name"], chat["context"]) == (CHAT, 8192)
    assert 590 < chat["keep_alive"] <= 600
    assert embed["keep_alive"] == -1
    assert other["keep_alive"] == 60, "less would be over before it was seen"


async def test_nothing_is_held_where_nothing_is_loaded(tmp_path):
    with running(tmp_path) as server:
        assert await ollama(server).holding() is None


async def test_what_is_put_aside_gives_its_memory_back(tmp_path):
    with running(tmp_path, {CHAT: 600, EMBED: 600}) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        program = ollama(server)
        await program.put_aside(await held(program))
        assert listed(server) == set()
        assert before - process.memory_info().rss > 28 * MIB
        assert await program.holding() is None


async def test_models_come_back_with_one_call_each_and_what_they_had(tmp_path):
    with running(tmp_path, {CHAT: 600, EMBED: -1}) as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
        await program.restore(json.loads(json.dumps(holding.state)))
        loads = server.calls("load")
        assert [(each["model"], each["path"]) for each in loads] == [
            (CHAT, "/api/generate"),
            (EMBED, "/api/embed"),
        ]
        assert [each["context"] for each in loads] == [8192, 8192]
        assert 590 < loads[0]["keep_alive"] <= 600
        assert loads[1]["keep_alive"] == -1
        again = await held(program)
    assert again.what == holding.what
    assert 580 < again.state["models"][0]["keep_alive"] <= 600
    assert again.state["models"][1]["keep_alive"] == -1


async def test_what_is_back_is_left_alone(tmp_path):
    with running(tmp_path, {CHAT: 600, EMBED: 600}) as server:
        program = ollama(server)
        holding = await held(program)
        await program.restore(holding.state)
        await program.put_aside(holding)
        await program.restore(holding.state)
        await program.restore(holding.state)
        assert server.models("load") == [CHAT, EMBED]


async def test_two_restores_at_once_load_once(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="slow", FAKE_SECONDS="0.2") as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
        async with asyncio.timeout(10):
            await asyncio.gather(*(program.restore(holding.state) for _ in range(3)))
        assert server.models("load") == [CHAT]


async def test_what_the_user_has_loaded_meanwhile_stays_and_nothing_is_loaded_beside_it(tmp_path):
    with running(tmp_path, {CHAT: 600}) as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
        await asyncio.to_thread(use, server, OTHER)
        await program.restore(holding.state)
        assert server.models("load") == [OTHER]
        assert listed(server) == {OTHER}


async def test_a_model_that_was_deleted_meanwhile_is_not_missed(tmp_path, caplog):
    with running(tmp_path, {CHAT: 600, OTHER: 600}) as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
        await asyncio.to_thread(server.ask, "DELETE", "/api/delete", {"model": CHAT})
        await program.restore(holding.state)
        assert listed(server) == {OTHER}
    assert f"no model {CHAT} any more" in caplog.text


async def test_models_that_do_not_go_are_an_error_after_the_limit(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="stays") as server:
        program = ollama(server, unload_timeout=0.2)
        with pytest.raises(OffloadError, match=f"still has {CHAT} loaded after 0.2 s"):
            await program.put_aside(await held(program))


async def test_a_model_that_would_go_once_it_has_answered_is_kept_after_all(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="busy", FAKE_SECONDS="1") as server:
        program = ollama(server, unload_timeout=0.2)
        holding = await held(program)
        with pytest.raises(OffloadError):
            await program.put_aside(holding)
        await program.restore(holding.state)
        await until_due(server)
        assert listed(server) == {CHAT}


async def test_the_next_manager_keeps_it_too(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="busy", FAKE_SECONDS="1") as server:
        holding = await held(ollama(server))
        with pytest.raises(OffloadError):
            await ollama(server, unload_timeout=0.1).put_aside(holding)
        await ollama(server).restore(holding.state)
        await until_due(server)
        assert listed(server) == {CHAT}


async def test_it_waits_until_a_busy_model_has_gone(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="busy", FAKE_SECONDS="0.3") as server:
        program = ollama(server)
        await program.put_aside(await held(program))
        assert listed(server) == set()


async def test_putting_aside_can_be_cancelled_and_restored(tmp_path):
    with running(tmp_path, {CHAT: 600, OTHER: 600}, FAKE_MODE="busy", FAKE_SECONDS="0.6") as server:
        program = ollama(server)
        holding = await held(program)
        task = asyncio.create_task(program.put_aside(holding))
        async with asyncio.timeout(10):
            while len(server.models("unload")) < 2:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await program.restore(holding.state)
        await until_due(server, 2)
        assert listed(server) == {CHAT, OTHER}


async def test_a_restore_that_was_cancelled_is_finished_by_the_next_without_a_second_load(tmp_path):
    with running(tmp_path, {CHAT: 600}, FAKE_MODE="slow", FAKE_SECONDS="0.3") as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
        task = asyncio.create_task(program.restore(holding.state))
        async with asyncio.timeout(10):
            while not server.models("load"):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(program.restore(holding.state), 10)
        assert server.models("load") == [CHAT]


async def test_a_server_that_has_gone_holds_nothing_and_is_an_error_to_everything_else(tmp_path):
    with running(tmp_path, {CHAT: 600}) as server:
        program = ollama(server)
        holding = await held(program)
        server.end()
        assert await program.holding() is None
        with pytest.raises(OffloadError, match=rf"ollama at 127\.0\.0\.1:{server.port} cannot be reached"):
            await program.put_aside(holding)
        with pytest.raises(RestoreError, match="cannot be reached") as caught:
            await program.restore(holding.state)
    assert "ollama ps" in caught.value.hint
    assert caught.value.details == {"name": program.name}


async def test_a_server_that_was_restarted_meanwhile_gets_its_models_back(tmp_path):
    with running(tmp_path, {CHAT: 600}) as server:
        program = ollama(server)
        holding = await held(program)
        await program.put_aside(holding)
    with running(tmp_path, port=server.port, log="again") as server:
        await program.restore(holding.state)
        assert listed(server) == {CHAT}
        assert server.models("load") == [CHAT]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("hang", "did not answer within 0.3 s"),
        ("error500", "answered with status 500: out of order for ever"),
        ("garbage", "does not answer as Ollama does"),
        ("huge", "gave an answer of more than 1 MiB"),
        ("gzip", "does not answer as Ollama does"),
        ("redirect", "answered with status 302"),
    ],
)
async def test_what_answers_otherwise_holds_nothing_and_is_an_error(tmp_path, mode, words):
    with running(tmp_path, FAKE_MODE=mode) as server:
        program = ollama(server, timeout=0.3 if mode == "hang" else 20)
        assert await asyncio.wait_for(program.holding(), 60) is None
        with pytest.raises(RestoreError, match=words):
            await program.restore({"models": [{"name": CHAT}]})


@pytest.mark.parametrize(
    ("mode", "words"), [("refuses", "model requires more system memory"), ("empty", "does not list")]
)
async def test_a_model_that_is_not_loaded_is_an_error(tmp_path, mode, words):
    with running(tmp_path, FAKE_MODE=mode) as server, pytest.raises(RestoreError, match=words):
        await ollama(server).restore({"models": [{"name": CHAT, "keep_alive": 60, "context": None}]})


async def test_loading_has_a_limit(tmp_path):
    with running(tmp_path, FAKE_MODE="slow", FAKE_SECONDS="5") as server:
        program = ollama(server, load_timeout=0.2)
        with pytest.raises(RestoreError, match=r"did not answer within 0\.2 s"):
            await program.restore({"models": [{"name": CHAT}]})


async def test_what_is_not_known_of_a_model_is_left_to_ollama(tmp_path):
    with running(tmp_path) as server:
        await ollama(server).restore({"models": [{"name": CHAT, "keep_alive": "long", "context": -5}]})
        (load,) = server.calls("load")
    assert (load["keep_alive"], load["context"]) == (None, None)


@pytest.mark.parametrize("state", [{}, {"models": []}, {"models": [{}]}, {"models": ["a"]}, {"models": "a"}])
async def test_a_state_that_says_nothing_is_an_error_that_names_the_way_out(tmp_path, state):
    with running(tmp_path) as server:
        with pytest.raises(RestoreError) as caught:
            await ollama(server).restore(state)
        with pytest.raises(OffloadError):
            await ollama(server).put_aside(Holding("?", None, None, state))
    assert "saved state" in caught.value.hint


@pytest.mark.parametrize("expires_at", [None, "", "soon", "0001-01-01T00:00:00Z", "2024-13-01T00:00:00Z"])
async def test_a_model_without_a_known_end_gets_ollamas_default(expires_at):
    program = Ollama("http://127.0.0.1:1", now=lambda: datetime(2030, 1, 1, tzinfo=UTC))
    model = program._model_of({"name": CHAT, "expires_at": expires_at, "size": -1})
    assert (model.keep_alive, model.is_leaving, model.ram) == (None, False, None)


async def test_the_time_left_is_counted_from_the_clock():
    start = datetime(2030, 1, 1, tzinfo=UTC)
    program = Ollama("http://127.0.0.1:1", now=lambda: start)
    for seconds, keep_alive in ((90.2, 91), (10, 60), (86_400 * 365 * 11, -1), (-1, None)):
        end = (start + timedelta(seconds=seconds)).isoformat()
        model = program._model_of({"name": CHAT, "expires_at": end})
        assert (model.keep_alive, model.is_leaving) == (keep_alive, seconds < 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:11500", "http://127.0.0.1:11500"),
        (":11500", "http://127.0.0.1:11500"),
        ("[::]:11500", "http://[::1]:11500"),
        ("::1", "http://[::1]:11434"),
        ('"localhost"', "http://localhost:11434"),
        ("http://gpu.lan", "http://gpu.lan:80"),
        ("https://gpu.lan/llm/", "https://gpu.lan:443/llm"),
        ("gpu.lan:80/llm", "http://gpu.lan:80/llm"),
    ],
)
def test_the_address_is_that_of_ollamas_own_variable(host, url):
    assert Ollama(environ={} if host is None else {"OLLAMA_HOST": host}).url == url


@pytest.mark.parametrize("host", ["ftp://host", "host:99999", "host:port", "a b", "user:pass@host"])
def test_a_variable_that_is_no_address_is_refused(host):
    with pytest.raises(InvalidRequestError, match="OLLAMA_HOST"):
        Ollama(environ={"OLLAMA_HOST": host})


@pytest.mark.parametrize(
    "url",
    [
        "", "/path:1", "host:port", "user:secret@host", "ho st", "host\n", "host?a=b", "ftp://host", "http://",
        "http://host:0", "http://host:99999", "http://host?a=b", "http://host#a",
        "http://user:secret@host", "http://ho st", "http://host\n", "http://[::1", 5,
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_asked_is_refused_without_being_shown(url):
    with pytest.raises(InvalidRequestError, match="The address of Ollama cannot be used") as caught:
        Ollama(url)
    assert "secret" not in caught.value.message
    assert "http://127.0.0.1:11434" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("gpu.lan", "http://gpu.lan:11434"),
        ("0.0.0.0:11500", "http://127.0.0.1:11500"),
        ("http://gpu.lan", "http://gpu.lan"),
    ],
)
def test_an_address_without_a_scheme_is_read_as_that_of_ollamas_variable(given, url):
    assert Ollama(given, environ={"OLLAMA_HOST": "elsewhere:1"}).url == url


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("", "ollama"),
        ("localhost", "ollama"),
        ("0.0.0.0", "ollama"),
        ("http://LOCALHOST:11434/", "ollama"),
        (":11500", "ollama at 127.0.0.1:11500"),
        ("localhost:11500", "ollama at 127.0.0.1:11500"),
        ("GPU.lan", "ollama at gpu.lan:11434"),
        ("https://gpu.lan/llm/", "ollama at gpu.lan:443/llm"),
        ("[::2]", "ollama at [::2]:11434"),
    ],
)
def test_without_a_name_it_is_named_after_its_place(host, name):
    assert Ollama(environ={"OLLAMA_HOST": host}).name == name
    assert Ollama(host or "127.0.0.1", environ={}).name == name
    assert Ollama(environ={"OLLAMA_HOST": host}, name="mine").name == "mine"


async def test_what_is_aside_of_one_does_not_come_back_in_another(tmp_path, home):
    journal = Journal(home.state_dir / "offloads")
    with running(tmp_path, {CHAT: 600}) as first, running(tmp_path, log="other") as second:
        holding = await held(ollama(first))
        dead = replace(journal.owner, start_time=0.0)
        journal.write(Entry(ollama(first).name, holding.what, dict(holding.state), dead, 1e9))
        async with asyncio.timeout(20):
            room = ResourceOrchestrator(home, [ollama(second)])
            await room.recover()
            await room.aclose()
        assert listed(second) == set()
        assert [entry.name for entry in journal.entries()] == [ollama(first).name]


def test_the_names_of_places_are_short_and_differ():
    names = {Ollama(f"http://{'a' * 60}.{'b' * 60}.lan:{port}").name for port in (5000, 5001)}
    assert len(names) == 2
    assert max(map(len, names)) <= 100


@pytest.mark.parametrize("name", ["", " a", "a" * 65, "a/b", "a\n", 5])
def test_a_name_that_could_not_be_shown_or_written_down_is_refused(name):
    with pytest.raises(InvalidRequestError, match="name"):
        Ollama(name=name, environ={})


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_time_limit_that_is_none_is_refused(seconds):
    with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds"):
        Ollama(timeout=seconds, environ={})


async def test_no_proxy_of_the_environment_is_asked(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with running(tmp_path, {CHAT: 600}) as server:
            assert await held(ollama(server))
