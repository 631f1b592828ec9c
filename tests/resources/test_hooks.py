"""Hooks: real commands, and functions, whose program is a file that is there while memory is held."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import psutil
import pytest
from processes import all_gone

from sdmanager.errors import InvalidRequestError, OffloadError, RestoreError
from sdmanager.resources import Offloadable
from sdmanager.resources.hooks import HookOffloadable
from sdmanager.resources.offloadable import Holding

NOTHING = Holding("model", None, None)


def python(code, *arguments):
    return [sys.executable, "-I", "-S", "-c", f"import os, sys, time\n{code}", *map(str, arguments)]


class Model:
    """A program that holds memory while its file is there; each hook adds a line to a log."""

    def __init__(self, folder):
        self.file, self.log = folder / "loaded", folder / "log"
        self.file.touch()

    def put_aside_command(self):
        return python("open(sys.argv[2], 'a').write('out\\n'); os.unlink(sys.argv[1])", self.file, self.log)

    def restore_command(self):
        return python("open(sys.argv[2], 'a').write('in\\n'); open(sys.argv[1], 'w')", self.file, self.log)

    def holds_command(self):
        return python("sys.exit(not os.path.exists(sys.argv[1]))", self.file)

    def put_aside(self):
        self.note("out")
        self.file.unlink()

    def restore(self):
        self.note("in")
        self.file.touch()

    def note(self, word):
        with self.log.open("a") as file:
            file.write(f"{word}\n")

    @property
    def calls(self):
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path)


def by_commands(model, **options):
    return HookOffloadable("model", model.put_aside_command(), model.restore_command(), **options)


def gone(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return all_gone([psutil.Process(pid)])
    return True


def test_it_is_an_offloadable(model):
    assert isinstance(by_commands(model), Offloadable)


async def test_commands_put_aside_and_bring_back(model):
    program = by_commands(model, ram_bytes=5, vram_bytes=6)
    holding = await program.holding()
    assert holding == Holding("model", 5, 6)
    await program.put_aside(holding)
    assert not model.file.exists()
    assert await program.holding() is None
    await program.restore(holding.state)
    assert model.file.exists()
    assert await program.holding() == holding


async def test_what_was_brought_back_is_not_brought_back_again(model):
    program = by_commands(model)
    await program.put_aside(NOTHING)
    await asyncio.gather(*(program.restore({}) for _ in range(3)))
    assert model.calls == ["out", "in"]


async def test_another_manager_brings_it_back(model):
    await by_commands(model).put_aside(NOTHING)
    await by_commands(model).restore({})
    assert model.calls == ["out", "in"]


async def test_a_command_says_whether_it_holds_memory(model):
    program = by_commands(model, holds=model.holds_command())
    assert await program.holding() is not None
    model.file.unlink()
    assert await program.holding() is None


async def test_commands_with_one_that_says_whether_it_holds_memory_go_all_the_way(model, caplog):
    program = by_commands(model, holds=model.holds_command())
    await program.put_aside(NOTHING)
    assert await program.holding() is None
    await program.restore({})
    await program.restore({})
    assert await program.holding() is not None
    assert model.calls == ["out", "in"]
    assert not caplog.records


async def test_what_was_put_aside_by_half_is_brought_back_though_it_was_back_before(model):
    def put_aside():
        model.put_aside()
        if model.calls.count("out") == 2:
            raise OSError

    program = HookOffloadable("model", put_aside, model.restore)
    await program.put_aside(NOTHING)
    await program.restore({})
    with pytest.raises(OffloadError, match="raised OSError"):
        await program.put_aside(NOTHING)
    await program.restore({})
    assert model.calls == ["out", "in", "out", "in"]


async def test_what_is_said_to_be_back_is_left_alone(model):
    await by_commands(model, holds=model.holds_command()).restore({})
    assert model.calls == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_functions_do_what_commands_do(model, is_async):
    async def put_aside():
        model.put_aside()

    async def restore():
        model.restore()

    async def holds():
        return model.file.exists()

    hooks = (put_aside, restore, holds) if is_async else (model.put_aside, model.restore, model.file.exists)
    program = HookOffloadable("model", hooks[0], hooks[1], holds=hooks[2])
    assert await program.holding() is not None
    await program.put_aside(NOTHING)
    assert await program.holding() is None
    await program.restore({})
    await program.restore({})
    assert model.calls == ["out", "in"]


async def test_a_plain_function_runs_beside_the_loop_and_an_async_one_on_it(model):
    threads = []

    async def restore():
        threads.append(threading.current_thread())

    program = HookOffloadable("model", lambda: threads.append(threading.current_thread()), restore)
    await program.put_aside(NOTHING)
    await program.restore({})
    assert threads[0] is not threading.current_thread()
    assert threads[1] is threading.current_thread()


async def test_what_a_plain_function_gives_to_be_awaited_is_awaited(model):
    async def put_aside():
        model.put_aside()

    await HookOffloadable("model", lambda: put_aside(), model.restore).put_aside(NOTHING)
    assert model.calls == ["out"]


async def test_a_command_that_fails_is_an_error_with_its_last_words(model):
    failing = python("sys.exit('first\\n\\x1b[31mNo such unit.\\n')")
    program = HookOffloadable("model", failing, failing)
    with pytest.raises(OffloadError) as caught:
        await program.put_aside(NOTHING)
    expected = "its hook put_aside ended with code 1: [31mNo such unit."
    assert caught.value.message == f"model could not be put aside: {expected}"
    with pytest.raises(RestoreError, match="its hook restore ended with code 1"):
        await program.restore({})
    assert await program.holding() is not None


async def test_a_command_that_is_killed_is_an_error(model):
    program = HookOffloadable("model", python("os.kill(os.getpid(), 9)"), model.restore)
    with pytest.raises(OffloadError, match=r"ended with (signal 9|code 137)"):
        await program.put_aside(NOTHING)


async def test_a_command_that_is_not_there_is_an_error(tmp_path, model):
    program = HookOffloadable("model", [tmp_path / "nothing"], model.restore)
    with pytest.raises(OffloadError, match="cannot run nothing: No such file"):
        await program.put_aside(NOTHING)


async def test_a_function_that_raises_is_an_error(model):
    def put_aside():
        raise KeyError("first\nlast")

    program = HookOffloadable("model", put_aside, model.restore)
    with pytest.raises(OffloadError, match="raised KeyError") as caught:
        await program.put_aside(NOTHING)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


async def test_a_command_that_hangs_is_ended_at_the_limit(tmp_path, model):
    program = HookOffloadable(
        "model", python("open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)", tmp_path / "pid"),
        model.restore, timeout=5.0,  # a Python must have started by then
    )  # fmt: skip
    with pytest.raises(OffloadError, match="took longer than 5 s"):
        await program.put_aside(NOTHING)
    pid = int((tmp_path / "pid").read_text())
    assert gone(pid)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_that_hangs_is_given_up_at_the_limit(model, is_async):
    goes_on = threading.Event()
    hook = (lambda: asyncio.sleep(60)) if is_async else (lambda: goes_on.wait(60))
    program = HookOffloadable("model", hook, model.restore, timeout=0.1)
    with pytest.raises(OffloadError, match=r"took longer than 0\.1 s"):
        await asyncio.wait_for(program.put_aside(NOTHING), 10)
    goes_on.set()


async def test_a_thread_that_was_given_up_cannot_undo_what_comes_next(model):
    goes_on = threading.Event()

    def put_aside():
        goes_on.wait(10)
        model.put_aside()

    program = HookOffloadable("model", put_aside, model.restore, timeout=0.2)
    with pytest.raises(OffloadError):
        await program.put_aside(NOTHING)
    with pytest.raises(RestoreError, match="while an earlier call still runs"):
        await program.restore({})
    goes_on.set()
    await program.restore({})
    assert model.calls == ["out", "in"]


async def test_cancelling_ends_a_command_and_leaves_it_to_be_brought_back(tmp_path, model):
    code = "os.unlink(sys.argv[1]); open(sys.argv[2], 'w').write(str(os.getpid())); time.sleep(60)"
    program = HookOffloadable("model", python(code, model.file, tmp_path / "pid"), model.restore)
    task = asyncio.create_task(program.put_aside(NOTHING))
    async with asyncio.timeout(10):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int((tmp_path / "pid").read_text())
    assert gone(pid)
    await program.restore({})
    assert model.file.exists()


async def test_what_still_holds_memory_was_not_put_aside(model):
    program = HookOffloadable("model", lambda: None, model.restore, holds=model.file.exists, timeout=0.2)
    with pytest.raises(OffloadError, match=r"still holds memory after 0.2 s"):
        await program.put_aside(NOTHING)


async def test_what_holds_no_memory_was_not_brought_back(model):
    model.file.unlink()
    program = HookOffloadable("model", model.put_aside, lambda: None, holds=model.file.exists, timeout=0.2)
    with pytest.raises(RestoreError, match=r"not back after 0.2 s"):
        await program.restore({})


async def test_what_comes_up_a_little_later_was_brought_back(model):
    model.file.unlink()
    later = threading.Timer(0.2, model.file.touch)
    program = HookOffloadable("model", model.put_aside, later.start, holds=model.file.exists)
    await asyncio.wait_for(program.restore({}), 10)


async def test_nothing_is_held_where_nobody_can_say(tmp_path, model, caplog):
    program = by_commands(model, holds=[tmp_path / "nothing"])
    assert await program.holding() is None
    assert "The hook holds of model cannot run nothing" in caplog.text


async def test_there_is_no_shell(tmp_path, model):
    code = "open(sys.argv[1], 'w').write(sys.argv[2])"
    program = HookOffloadable("model", python(code, tmp_path / "said", "$HOME; `id` > x"), model.restore)
    await program.put_aside(NOTHING)
    assert (tmp_path / "said").read_text() == "$HOME; `id` > x"


@pytest.mark.parametrize("hook", ["stop", b"stop", [], [""], ["a", 5], ["a\0"], [b"a"], 5, None])
def test_what_is_no_hook_is_refused(model, hook):
    with pytest.raises(
        InvalidRequestError, match="The hook put_aside must be an argument list or a function"
    ):
        HookOffloadable("model", hook, model.restore)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"ram_bytes": "1"}, {"vram_bytes": -1}, {"holds": "x"}])
def test_what_cannot_be_used_is_refused(model, options):
    with pytest.raises(InvalidRequestError):
        by_commands(model, **options)


async def test_a_command_is_not_told_the_key_of_a_llama_server(monkeypatch):
    monkeypatch.setenv("LLAMA_API_KEY", "sk-not-for-hooks")
    command = python("sys.exit('LLAMA_API_KEY' in os.environ)")
    await asyncio.wait_for(HookOffloadable("it", command, command).put_aside(NOTHING), 10)
