"""A llama-server of our own: started, asked, put aside and brought back, over real processes and HTTP."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from ports import free_port
from processes import all_gone

from sdmanager.errors import (
    InvalidRequestError,
    OffloadError,
    PortInUseError,
    RestoreError,
    ServerError,
    ServerNotRunningError,
)
from sdmanager.resources._llama_process import Lines
from sdmanager.resources.llama_server import LlamaServer
from sdmanager.resources.offloadable import Holding, Offloadable
from sdmanager.settings import Settings

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fakes" / "llama_server.py"
MIB = 1 << 20
LIMIT = 20
KEY = "sk-not-for-anybody"
NOTHING = Holding("it", None, None)


@dataclass
class Stand:
    """Makes servers that write their starts to one file."""

    settings: Settings
    log: Path
    made: list[LlamaServer] = field(default_factory=list)

    def command(self, *more):
        return [sys.executable, "-I", "-S", FAKE, "-m", "/models/tiny.gguf", *more]

    def environment(self, faults="", load=0.05, claim=0):
        return {
            "FAKE_LLAMA": faults,
            "FAKE_LLAMA_LOG": str(self.log),
            "FAKE_LLAMA_LOAD": str(load),
            "FAKE_LLAMA_CLAIM": str(claim),
        }

    def server(self, *more, faults="", load=0.05, claim=0, env=None, **options):
        env = {**self.environment(faults, load, claim), **(env or {})}
        server = LlamaServer(self.command(*more), env=env, settings=self.settings, **options)
        self.made.append(server)
        return server

    @property
    def starts(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
async def stand(home, tmp_path):
    stand = Stand(home, tmp_path / "starts")
    yield stand
    async with asyncio.timeout(LIMIT):
        for server in stand.made:
            await server.stop()
    assert not [pid for pid in pids_of(stand) if runs(pid)]
    assert [task for task in asyncio.all_tasks() if "llama" in task.get_name()] == []


def pids_of(stand):
    return [start["pid"] for start in stand.starts]


def runs(pid):
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(condition, seconds=LIMIT):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def somebody_elses(stand, port, **options):
    """A llama-server that the user started by hand."""
    env = {**os.environ, **stand.environment(**options), "FAKE_LLAMA_LOG": f"{stand.log}-other"}
    command = [str(part) for part in stand.command("--port", str(port))]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


async def test_it_is_an_offloadable(stand):
    assert isinstance(stand.server(), Offloadable)


async def test_start_returns_when_the_model_is_loaded(stand):
    server = stand.server(load=0.3)
    before = time.monotonic()
    await server.start()
    assert time.monotonic() - before >= 0.3
    assert server.running
    assert await server.is_healthy()
    assert "main: model loaded" in server.logs()
    assert not any("\x1b" in line for line in server.logs())


async def test_stop_returns_when_it_is_dead_and_may_be_repeated(stand):
    server = stand.server()
    await server.start()
    await server.stop()
    assert not runs(pids_of(stand)[0])
    assert not server.running
    assert not await server.is_healthy()
    await server.stop()


async def test_one_that_ignores_the_polite_stop_is_killed_after_the_grace(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.3)
    await server.start()
    before = time.monotonic()
    await server.stop()
    assert time.monotonic() - before >= 0.3
    assert not runs(pids_of(stand)[0])


async def test_starting_twice_at_once_starts_one(stand):
    server = stand.server(load=0.2)
    await asyncio.gather(server.start(), server.start(), server.start())
    await server.start()
    assert len(stand.starts) == 1


async def test_as_a_context_it_runs_inside_and_not_after(stand):
    async with stand.server() as server:
        assert await server.is_healthy()
    assert not runs(pids_of(stand)[0])


async def test_a_free_port_is_chosen_once_and_stays(stand):
    server = stand.server()
    with pytest.raises(ServerNotRunningError):
        _ = server.url
    await server.start()
    url = server.url
    await server.stop()
    await server.start()
    assert server.url == url
    assert [start["argv"] for start in stand.starts] == [stand.starts[0]["argv"]] * 2


async def test_host_and_port_of_the_command_count(stand):
    port = free_port()
    server = stand.server("--port", str(port), "--host", "0.0.0.0")
    assert server.url == f"http://127.0.0.1:{port}"
    await server.start()
    argv = stand.starts[0]["argv"]
    assert argv[-4:] == ["--host", "0.0.0.0", "--port", str(port)]
    assert argv.count("--port") == 1


async def test_a_port_that_is_taken_is_refused_and_nothing_is_started(stand):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        server = stand.server(port=port)
        with pytest.raises(PortInUseError) as caught:
            await server.start()
    assert caught.value.details == {"port": port}
    assert stand.starts == []
    assert server.error is caught.value


async def test_a_port_taken_by_one_that_listens_everywhere_is_refused(stand):
    with socket.create_server(("0.0.0.0", 0)) as sock, pytest.raises(PortInUseError):
        await stand.server(port=sock.getsockname()[1]).start()


async def test_a_port_that_is_lost_to_another_program_while_starting_is_not_taken_for_ours(
    stand, monkeypatch
):
    """The other one answers that it is well; ours cannot bind and says so a moment later."""
    port = free_port()
    with somebody_elses(stand, port):
        await asyncio.sleep(0.2)
        monkeypatch.setattr("sdmanager.resources._llama_life.is_taken", lambda *_: bool(stand.starts))
        server = stand.server(port=port)
        with pytest.raises(PortInUseError):
            await server.start()
    assert not server.running


async def test_one_that_dies_while_loading_gives_its_last_words_without_folders(stand):
    server = stand.server(faults="dies-while-loading")
    with pytest.raises(ServerError) as caught:
        await server.start()
    assert "exit code 1" in caught.value.message
    assert "error loading model: broken.gguf is not a GGUF file" in caught.value.message
    assert "someone" not in caught.value.message
    assert not server.running
    assert server.error is caught.value


async def test_one_that_is_never_ready_is_ended_after_its_time(stand):
    server = stand.server(faults="never-healthy", ready_timeout=0.5)
    with pytest.raises(ServerError, match=r"not ready within 0\.5 s"):
        await server.start()
    assert not any(map(runs, pids_of(stand)))  # it may have been ended before it noted its start
    assert not server.running


@pytest.mark.parametrize("program", ["/nowhere/llama-server", "no-such-llama-server", "/"])
async def test_a_program_that_is_not_there_is_an_error_with_a_hint(home, program):
    server = LlamaServer([program, "-m", "x.gguf"], settings=home)
    with pytest.raises(ServerError, match="could not be started") as caught:
        await server.start()
    assert "program in its command" in caught.value.hint


async def test_one_that_ends_by_itself_is_noticed_and_can_be_started_again(stand):
    server = stand.server()
    await server.start()
    os.kill(pids_of(stand)[0], signal.SIGKILL)
    await until(lambda: not server.running)
    await until(lambda: server.error is not None)
    assert "by signal 9" in server.error.message
    assert "model loaded" in server.error.message
    assert await server.holding() is None
    await server.start()
    assert await server.is_healthy()
    assert server.error is None


async def test_stop_during_start_ends_the_start(stand):
    server = stand.server(load=30)
    starting = asyncio.create_task(server.start())
    await until(lambda: stand.starts)
    await server.stop()
    with pytest.raises(ServerNotRunningError):
        await starting
    assert not runs(pids_of(stand)[0])


async def test_cancelling_the_only_one_who_starts_ends_the_start(stand):
    server = stand.server(load=30)
    starting = asyncio.create_task(server.start())
    await until(lambda: stand.starts)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not runs(pids_of(stand)[0])


async def test_cancelling_one_of_two_who_start_leaves_the_start(stand):
    server = stand.server(load=0.5)
    first, second = asyncio.create_task(server.start()), asyncio.create_task(server.start())
    await until(lambda: stand.starts)
    first.cancel()
    await second
    assert first.cancelled()
    assert await server.is_healthy()


async def test_start_while_stopping_waits_for_the_end_and_starts_anew(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.3)
    await server.start()
    await asyncio.gather(server.stop(), server.start())
    assert server.running
    first, second = pids_of(stand)
    assert not runs(first)
    assert runs(second)


async def test_cancelling_stop_does_not_keep_it_alive(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.3)
    await server.start()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await until(lambda: not server.running and not runs(pids_of(stand)[0]), 3)


async def test_cancelling_one_of_two_who_stop_leaves_the_other_waiting_for_the_end(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.3)
    await server.start()
    first, second = asyncio.create_task(server.stop()), asyncio.create_task(server.stop())
    await asyncio.sleep(0.05)
    first.cancel()
    await second
    assert first.cancelled()
    assert not runs(pids_of(stand)[0])


async def test_a_loop_that_ends_takes_it_along(home, tmp_path):
    stand = Stand(home, tmp_path / "starts")

    def run_and_leave():
        async def start():
            await stand.server().start()

        asyncio.run(start())

    await asyncio.to_thread(run_and_leave)
    assert not runs(pids_of(stand)[0])


async def test_another_loop_is_told_so(stand):
    server = stand.server()
    await server.start()
    for call in (server.start, server.stop):
        with pytest.raises(ServerError, match="another event loop"):
            await asyncio.to_thread(lambda call=call: asyncio.run(call()))
    with pytest.raises(OffloadError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(server.put_aside(NOTHING)))
    with pytest.raises(RestoreError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(server.restore({})))
    assert server.running


async def test_a_manager_in_another_loop_cannot_put_it_aside_and_says_so_once(stand, caplog):
    async def ask_twice():
        return await server.holding(), await server.holding()

    server = stand.server(name="chat")
    assert await asyncio.to_thread(lambda: asyncio.run(ask_twice())) == (None, None)
    assert caplog.messages == []
    await server.start()
    assert await asyncio.to_thread(lambda: asyncio.run(ask_twice())) == (None, None)
    (message,) = caplog.messages
    assert message.startswith("chat was started in another event loop")
    assert "start it in the same one" in message
    assert await server.holding() is not None


@pytest.mark.parametrize("faults", ["", "child", "shared-memory"])
async def test_holding_tells_the_ram_that_ending_it_frees(stand, faults):
    server = stand.server(claim=64 * MIB, faults=faults)
    assert await server.holding() is None
    await server.start()
    holding = await server.holding()
    assert holding.what == "tiny.gguf"
    assert 64 * MIB <= holding.ram < (64 + 40) * MIB
    assert holding.vram is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells file pages apart")
@pytest.mark.parametrize(("option", "counts"), [("--mmap", False), ("--mlock", True)])
async def test_a_mapped_model_counts_only_where_it_is_locked(stand, tmp_path, option, counts):
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(64 * MIB))
    server = stand.server("--model", str(model), option, faults="maps-model")
    await server.start()
    holding = await server.holding()
    assert (holding.ram >= 64 * MIB) is counts
    assert holding.ram > MIB


async def test_what_the_user_said_counts_more_than_what_is_measured(stand):
    seen = []

    async def measure(pid):
        seen.append(pid)
        return 1, 2

    said = stand.server(ram_bytes=5 * MIB, vram_bytes=7 * MIB, measure=measure)
    await said.start()
    holding = await said.holding()
    assert (holding.ram, holding.vram) == (5 * MIB, 7 * MIB)
    assert seen == []
    half = stand.server(ram_bytes=5 * MIB, measure=measure, name="half")
    await half.start()
    holding = await half.holding()
    assert (holding.ram, holding.vram) == (5 * MIB, 2)
    family = psutil.Process(seen[0])
    assert pids_of(stand)[1] in [family.pid, *(child.pid for child in family.children(recursive=True))]


async def test_a_measure_that_fails_leaves_what_it_would_tell_unknown(stand):
    async def measure(pid):
        raise RuntimeError("no driver")

    server = stand.server(measure=measure, claim=MIB)
    await server.start()
    holding = await server.holding()
    assert holding.vram is None
    assert holding.ram > MIB


async def test_holding_waits_for_a_load_in_hand(stand):
    server = stand.server(load=0.4)
    starting = asyncio.create_task(server.start())
    await until(lambda: stand.starts)
    assert (await server.holding()).what == "tiny.gguf"
    await starting


async def test_aside_and_back_with_the_same_arguments(stand):
    server = stand.server("-c", "512", claim=32 * MIB)
    await server.start()
    url = server.url
    holding = await server.holding()
    state = json.loads(json.dumps(dict(holding.state)))
    await server.put_aside(holding)
    assert not runs(pids_of(stand)[0])
    assert not server.running
    await server.restore(state)
    assert await server.is_healthy()
    assert server.url == url
    first, second = stand.starts
    assert first["argv"] == second["argv"]


async def test_restoring_again_and_twice_at_once_starts_one(stand):
    server = stand.server(load=0.2)
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    await asyncio.gather(*(server.restore(holding.state) for _ in range(4)))
    await server.restore(holding.state)
    assert len(stand.starts) == 2


async def test_restore_and_start_at_once_start_one(stand):
    server = stand.server(load=0.3)
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    await asyncio.gather(server.restore(holding.state), server.start(), server.restore(holding.state))
    assert len(stand.starts) == 2
    assert await server.is_healthy()


async def test_what_runs_is_left_alone_by_restore(stand):
    server = stand.server()
    await server.start()
    await server.restore((await server.holding()).state)
    assert len(stand.starts) == 1


async def test_the_next_manager_brings_it_back_where_its_clients_knew_it(stand):
    first = stand.server()
    await first.start()
    holding = await first.holding()
    await first.put_aside(holding)
    second = stand.server()
    await second.restore(holding.state)
    assert second.url == first.url
    assert await second.is_healthy()


async def test_a_free_port_that_something_else_took_meanwhile_is_replaced_in_the_next_run(stand, monkeypatch):
    monkeypatch.setattr("sdmanager.resources.llama_server._LEAVING_SECONDS", 0.3)
    monkeypatch.setattr("sdmanager.resources.llama_server._STRANGER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        taken = sock.getsockname()[1]
        server = stand.server()
        await server.restore({"port": taken})
    assert await server.is_healthy()
    assert str(taken) not in server.url


async def test_a_port_that_something_else_has_is_an_error_that_can_be_tried_again(stand, monkeypatch):
    monkeypatch.setattr("sdmanager.resources.llama_server._LEAVING_SECONDS", 0.3)
    monkeypatch.setattr("sdmanager.resources.llama_server._STRANGER_SECONDS", 0.3)
    server = stand.server()
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    with socket.create_server(("127.0.0.1", holding.state["port"])), pytest.raises(RestoreError):
        await server.restore(holding.state)
    await server.restore(holding.state)
    assert await server.is_healthy()
    assert len(stand.starts) == 2


@pytest.mark.parametrize("load", [0, 30])
async def test_a_server_that_the_user_started_on_the_port_meanwhile_stays(stand, load):
    server = stand.server(port=free_port())
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    with somebody_elses(stand, holding.state["port"], load=load) as other:
        await server.restore(holding.state)
        assert other.poll() is None
        assert not server.running
        assert len(stand.starts) == 1


async def test_restore_waits_for_the_dying_child_of_the_manager_before(stand):
    port = free_port()
    server = stand.server(port=port)
    with somebody_elses(stand, port) as dying:
        restoring = asyncio.create_task(server.restore({"port": port}))
        await asyncio.sleep(0.1)
        dying.kill()
        async with asyncio.timeout(LIMIT):
            await restoring
    assert await server.is_healthy()


async def test_one_that_the_user_stopped_stays_stopped(stand):
    server = stand.server()
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    await server.stop()
    await server.restore(holding.state)
    assert not server.running
    await server.start()
    assert server.running


async def test_a_stop_while_its_port_is_looked_at_is_kept_to(stand, monkeypatch):
    server = stand.server()
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    look = server._life.port_is_taken

    async def look_and_be_stopped():
        taken = await look()
        await server.stop()
        return taken

    monkeypatch.setattr(server._life, "port_is_taken", look_and_be_stopped)
    await server.restore(holding.state)
    assert not server.running
    assert len(stand.starts) == 1


async def test_a_stop_while_restore_waits_for_the_end_is_kept_to(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.5)
    await server.start()
    holding = await server.holding()
    calls = []
    for call in (server.put_aside(holding), server.restore(holding.state), server.stop()):
        calls.append(asyncio.create_task(call))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*calls)
    assert not server.running
    assert len(stand.starts) == 1


async def test_a_stop_while_it_loads_for_restore_is_no_error(stand):
    server = stand.server(load=5)
    restoring = asyncio.create_task(server.restore({}))
    await until(lambda: stand.starts)
    await server.stop()
    async with asyncio.timeout(LIMIT):
        await restoring
    assert not runs(pids_of(stand)[0])


async def test_a_stop_while_start_waits_for_the_end_is_kept_to(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.5)
    await server.start()
    calls = []
    for call in (server.put_aside(NOTHING), server.start(), server.stop()):
        calls.append(asyncio.create_task(call))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(LIMIT):
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), ServerNotRunningError, type(None)]
    assert len(stand.starts) == 1


async def test_one_that_serves_another_model_than_before_is_not_back(stand):
    server = stand.server(faults="other-model")
    await server.start()
    holding = await server.holding()
    await server.put_aside(holding)
    with pytest.raises(RestoreError, match=r"tiny\.gguf"):
        await server.restore(holding.state)


async def test_with_other_arguments_than_before_these_count(stand):
    first = stand.server()
    await first.start()
    holding = await first.holding()
    await first.put_aside(holding)
    second = stand.server("--alias", "chosen-since")
    await second.restore(holding.state)
    assert (await second.holding()).what == "chosen-since"


async def test_one_that_runs_but_hangs_is_not_back(stand, monkeypatch):
    monkeypatch.setattr("sdmanager.resources._llama_asking._LIMIT_SECONDS", 0.3)
    server = stand.server(faults="hangs")
    await server.start()
    holding = await server.holding()
    Path(f"{stand.log}.hang").touch()
    assert not await server.is_healthy()
    with pytest.raises(RestoreError, match="does not answer"):
        await server.restore(holding.state)
    assert (await server.holding()).state["arguments"] == holding.state["arguments"]


async def test_one_that_says_no_models_is_brought_back_all_the_same(stand):
    server = stand.server(faults="silent-models")
    await server.start()
    holding = await server.holding()
    assert holding.what == "llama-server"
    assert "models" not in holding.state
    await server.put_aside(holding)
    await server.restore(holding.state)
    assert await server.is_healthy()


async def test_a_start_that_fails_while_restoring_is_an_error_that_can_be_tried_again(stand):
    server = stand.server(faults="dies-while-loading")
    with pytest.raises(RestoreError, match="error loading model"):
        await server.restore({})
    with pytest.raises(RestoreError):
        await server.restore({"port": "x", "models": 3, "arguments": None})
    assert len(stand.starts) == 2


async def test_cancelling_restore_ends_its_start_and_another_try_succeeds(stand):
    server = stand.server(load=0.5)
    restoring = asyncio.create_task(server.restore({}))
    await until(lambda: stand.starts)
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert not runs(pids_of(stand)[0])
    await server.restore({})
    assert await server.is_healthy()


async def test_cancelling_put_aside_leaves_a_state_from_which_it_comes_back(stand):
    server = stand.server(faults="ignores-term", stop_grace=0.3)
    await server.start()
    holding = await server.holding()
    putting = asyncio.create_task(server.put_aside(holding))
    await asyncio.sleep(0.05)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await server.restore(holding.state)
    assert await server.is_healthy()


@pytest.mark.parametrize("given_as", ["api_key", "env", "environ"])
async def test_the_key_is_used_and_appears_nowhere(stand, monkeypatch, given_as, caplog):
    caplog.set_level("DEBUG")
    options = {}
    if given_as == "api_key":
        options["api_key"] = KEY
    elif given_as == "env":
        options["env"] = {"LLAMA_API_KEY": KEY}
    else:
        monkeypatch.setenv("LLAMA_API_KEY", KEY)
    server = stand.server(faults="says-key", **options)
    await server.start()
    holding = await server.holding()
    assert holding.what == "tiny.gguf"
    assert holding.state["models"] == ["/models/tiny.gguf"]
    assert "the key is ***, really" in server.logs()
    command_lines = [psutil.Process(pids_of(stand)[0]).cmdline()]
    command_lines.append(psutil.Process(pids_of(stand)[0]).parent().cmdline())
    os.kill(pids_of(stand)[0], signal.SIGKILL)
    await until(lambda: server.error is not None)
    assert server.error.hint == "Run its command by hand to see all that it prints."
    shown = [repr(server), str(server.error), server.error.details, server.logs(), holding, command_lines]
    assert KEY not in repr((shown, stand.starts, caplog.text))


async def test_of_several_keys_the_first_is_shown(stand):
    server = stand.server(api_key=f"{KEY},another")
    await server.start()
    assert (await server.holding()).what == "tiny.gguf"


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ([], {}, "must be a list"),
        ("llama-server -m x.gguf", {}, "must be a list"),
        (Path("llama-server"), {}, "must be a list"),
        (["llama-server", "--api-key", KEY], {}, "may not be in the command"),
        (["llama-server", f"--api-key={KEY}"], {}, "may not be in the command"),
        (["llama-server", "--ssl-key-file", "k"], {}, "not supported"),
        (["llama-server", "--port"], {}, "without a value"),
        (["llama-server", "--port", "http"], {}, "1 to 65535"),
        (["llama-server", "--port", "0"], {}, "1 to 65535"),
        (["llama-server", "--port", "9" * 5000], {}, "1 to 65535"),
        (["llama-server"], {"port": 65536}, "1 to 65535"),
        (["llama-server"], {"port": -1}, "1 to 65535"),
        (["llama-server", "--port", "8080"], {"port": 8081}, "--port 8080, not 8081"),
        (["llama-server", "--host", "::1"], {"host": "127.0.0.1"}, "--host ::1, not"),
        (["llama-server", "--host", "/tmp/llama.sock"], {}, "one name or address"),
        (["llama-server", "-m", "a\0b"], {}, "NUL"),
        (["llama-server"], {"name": ""}, "The name of what is put aside"),
        (["llama-server"], {"name": "a/b"}, "The name of what is put aside"),
        (["llama-server"], {"ready_timeout": -1}, "ready_timeout must be a number of seconds above 0"),
        (["llama-server"], {"stop_grace": 0}, "stop_grace must be a number of seconds above 0"),
        (["llama-server"], {"vram_bytes": -1}, "vram_bytes must be a number of bytes"),
        (["llama-server"], {"ram_bytes": "6 GiB"}, "ram_bytes must be a number of bytes"),
        (["llama-server"], {"env": {"LLAMA_ARG_SSL_KEY_FILE": "k"}}, "LLAMA_ARG_SSL_KEY_FILE is set"),
        (["llama-server"], {"api_key": "a\nb"}, "cannot be sent"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(home, command, options, said):
    with pytest.raises(InvalidRequestError, match=said) as caught:
        LlamaServer(command, settings=home, **options)
    assert KEY not in caught.value.message


def test_tls_that_the_environment_asks_for_is_refused(home, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_SSL_KEY_FILE", "key.pem")
    with pytest.raises(InvalidRequestError, match="it is asked over HTTP"):
        LlamaServer(["llama-server"], settings=home)


@pytest.mark.parametrize("given_as", ["env", "environ"])
async def test_it_is_asked_below_the_prefix_of_its_environment(stand, monkeypatch, given_as):
    options = {"ready_timeout": 5.0}
    if given_as == "env":
        options["env"] = {"LLAMA_ARG_API_PREFIX": "/llm"}
    else:
        monkeypatch.setenv("LLAMA_ARG_API_PREFIX", "/llm")
    server = stand.server(**options)
    monkeypatch.delenv("LLAMA_ARG_API_PREFIX", raising=False)
    await server.start()
    assert server.url.endswith("/llm")
    assert (await server.holding()).state["models"] == ["/models/tiny.gguf"]


async def test_a_prefix_in_the_command_counts_more_than_the_environments(stand, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_API_PREFIX", "/environment")
    server = stand.server("--api-prefix", "/command", ready_timeout=5.0)
    await server.start()
    assert server.url.endswith("/command")
    assert await server.is_healthy()


def test_of_an_option_that_is_given_twice_the_last_counts(home):
    server = LlamaServer(["llama-server", "--port", "9000", "-c", "8", "--port", "9001"], settings=home)
    assert server.url == "http://127.0.0.1:9001"


def test_an_ipv6_address_and_a_prefix_are_in_the_url(home):
    server = LlamaServer(["llama-server", "--api-prefix", "/llm"], host="::", port=9000, settings=home)
    assert server.url == "http://[::1]:9000/llm"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error loading model from '/home/me/a b/x.gguf'", "error loading model from 'x.gguf'"),
        ("failed to open /home/me/x.gguf: no such file", "failed to open x.gguf: no such file"),
        ("failed to open C:\\Users\\me\\x.gguf", "failed to open x.gguf"),
        ("cannot listen on http://127.0.0.1:8080", "cannot listen on http://127.0.0.1:8080"),
        ("first\nerror: second\nthird", "error: second"),
        ("first\rsecond", "second"),
        ("error: a\ncleaning up before exit", "error: a"),
        ("", ""),
        ("error " + "x" * 5000, "error " + "x" * 294 + "…"),
    ],
)
def test_last_words_are_the_telling_line_without_folders(said, words):
    lines = Lines()
    for byte in said.encode():
        lines.add_stderr(bytes([byte]))
    lines.end()
    assert lines.last_words() == words


def test_lines_without_an_end_take_bounded_memory():
    lines = Lines()
    for _ in range(200):
        lines.add_stdout(b"x" * 65536)
    lines.end()
    assert [len(line) for line in lines.last(10)] == [2000]
    for number in range(3000):
        lines.add_stderr(b"%d\n" % number)
    assert (len(lines.last(9999)), lines.last(1), lines.last(0)) == (1000, ["2999"], [])


async def test_after_the_death_of_its_manager_nothing_of_it_runs(stand, tmp_path):
    script = tmp_path / "manager.py"
    script.write_text(
        "import asyncio, sys\n"
        "from sdmanager.resources.llama_server import LlamaServer\n"
        "async def main():\n"
        "    async with LlamaServer(sys.argv[1:]) as server:\n"
        "        print(server.url, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    env = {
        **os.environ,
        **stand.environment(faults="ignores-term"),
        "PYTHONPATH": str(ROOT),
        "SDMANAGER_HOME": str(tmp_path),
    }
    command = [sys.executable, script, *map(str, stand.command())]
    manager = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
    try:
        url = await asyncio.wait_for(asyncio.to_thread(manager.stdout.readline), LIMIT)
        assert url.startswith(b"http://127.0.0.1:")
        child = psutil.Process(pids_of(stand)[0])
    finally:
        manager.kill()
        manager.wait()
        manager.stdout.close()
    assert all_gone([child])
    server = stand.server()
    await server.restore({"port": int(url.rsplit(b":")[-1])})
    assert server.url == url.decode().strip()


async def test_many_lives_leave_no_file_open(stand):
    server = stand.server(load=0)
    await server.start()
    await server.stop()
    before = psutil.Process().num_fds()
    for _ in range(5):
        await server.start()
        await server.put_aside(await server.holding())
    assert psutil.Process().num_fds() <= before + 1
