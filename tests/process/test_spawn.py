import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
import time

import psutil
import pytest

from sdmanager.process import Child, ExitStatus, StopOutcome, run, spawn

HOSTILE = [
    *"-~*",
    "-x",
    "--",
    "",
    "a b",
    '"',
    "'",
    "new\nline",
    "é漢😀",
    "$HOME",
    "%s",
    "`id`",
    "$(id)",
    "\\n",
]


def python(code, *arguments):
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def ignored(_chunk):
    pass


@pytest.mark.parametrize("code", [0, 1, 2, 3, 126, 127, 128, 255])
async def test_exit_code_passes_through(code):
    completed = await run(["/bin/sh", "-c", f"exit {code}"])
    assert completed.status == ExitStatus(code, None, StopOutcome.EXITED)
    assert completed.status.ok == (code == 0)


@pytest.mark.parametrize(
    "name", ["SIGSEGV", "SIGKILL", "SIGTERM", "SIGABRT", "SIGHUP", "SIGBUS", "SIGFPE", "SIGILL", "SIGPIPE"]
)
async def test_death_by_signal_passes_through(name):
    number = signal.Signals[name]
    code = f"import os, signal; signal.signal({number}, signal.SIG_DFL)" if name == "SIGPIPE" else "import os"
    completed = await run(python(f"{code}; os.kill(os.getpid(), {number})"))
    assert completed.status == ExitStatus(None, number, StopOutcome.EXITED)
    assert not completed.status.ok
    assert completed.stderr == b""  # the guard's shell says nothing


async def test_exit_codes_of_ignored_and_stopping_signals_stay_codes():
    # 145 to 151 would be SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU and SIGURG.
    for code in range(145, 152):
        assert (await run(["/bin/sh", "-c", f"exit {code}"])).status.code == code


async def test_arguments_pass_unchanged():
    arguments = [*HOSTILE, *(chr(number) for number in range(1, 256)), "x" * 100_000]
    completed = await run(python("import sys; print(ascii(sys.argv[1:]))", *arguments))
    assert completed.stdout.decode().strip() == ascii(arguments)


async def test_arguments_that_are_not_unicode_pass_unchanged():
    raw = bytes(range(128, 256))
    code = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
    assert (await run(python(code, os.fsdecode(raw)))).stdout == raw


async def test_stdin_is_empty():
    completed = await run(python("import sys; print(repr(sys.stdin.read()))"))
    assert completed.stdout == b"''\n"


async def test_child_has_the_three_standard_files_only():
    completed = await run(python("import os; print(sorted(os.listdir('/proc/self/fd')))"))
    assert completed.stdout == b"['0', '1', '2', '3']\n"  # 3 is the listing's own


async def test_child_starts_with_default_signals():
    completed = await run(["/bin/grep", "SigIgn", "/proc/self/status"])
    ignored_signals = int(completed.stdout.split()[1], 16)
    # A shell ignores these two for a child that it does not wait for at once.
    assert ignored_signals == 1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1


async def test_working_directory_and_environment(tmp_path):
    completed = await run(
        ["/bin/sh", "-c", 'pwd; echo "$A"'], cwd=tmp_path, env={"A": "é x", "PATH": os.defpath}
    )
    assert completed.stdout.decode() == f"{tmp_path}\né x\n"


async def test_variables_of_the_guard_do_not_reach_the_child():
    env = {"child": "1", "code": "2", "_": "3", "IFS": "x", "PATH": os.defpath}
    completed = await run(python("import os; print(os.environ['child'], os.environ['code'])"), env=env)
    assert completed.stdout == b"1 2\n"


@pytest.mark.parametrize("size", [0, 1, 65536, 10_000_000])
async def test_output_of_both_streams_is_complete_and_in_order(size, new_output):
    code = (
        "import sys, threading\n"
        "def write(file, salt):\n"
        "    data = b''.join(b'%d %d\\n' % (salt, n) for n in range(int(sys.argv[1]) // 10))\n"
        "    file.write(data); file.flush()\n"
        "threads = [threading.Thread(target=write, args=a) for a in ((sys.stdout.buffer, 1), (sys.stderr.buffer, 2))]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    stdout, stderr = new_output(), new_output()
    async with spawn(python(code, str(size)), on_stdout=stdout, on_stderr=stderr) as child:
        assert (await child.wait()).ok
    for salt, stream in ((1, stdout), (2, stderr)):
        assert stream.received == b"".join(b"%d %d\n" % (salt, n) for n in range(size // 10))


async def test_last_words_before_death_arrive():
    for _ in range(20):
        completed = await run(python("import os; os.write(1, b'x' * 60000); os.kill(os.getpid(), 9)"))
        assert len(completed.stdout) == 60000
        assert completed.status.signal == signal.SIGKILL


async def test_output_still_in_the_pipe_at_the_exit_is_read(output):
    code = "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20); os.write(1, b'x' * 1_000_000)"
    async with spawn(python(code), on_stdout=output, on_stderr=ignored) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # the loop does not run meanwhile
        assert (await child.wait()).ok
    assert len(output.received) == 1_000_000


async def test_chunks_are_bounded():
    sizes = []
    async with spawn(
        ["/bin/sh", "-c", "head -c 3000000 /dev/zero"],
        on_stdout=lambda chunk: sizes.append(len(chunk)),
        on_stderr=ignored,
    ) as child:
        await child.wait()
    assert sum(sizes) == 3_000_000
    assert max(sizes) <= 65536


@pytest.mark.parametrize("mode", ["obey", "ignore", "flood"])
@pytest.mark.parametrize("place", ["stdout", "stderr"])
async def test_error_of_a_callback_ends_the_child_and_is_raised(fake, mode, place):
    calls = []

    def fail(chunk):
        calls.append(chunk)
        raise LookupError("mine")

    argv = fake(mode) if place == "stdout" else ["/bin/sh", "-c", '"$@" >&2', "sh", *fake(mode)]
    start = time.monotonic()
    with pytest.raises(LookupError, match="mine"):
        async with spawn(
            argv,
            on_stdout=fail if place == "stdout" else ignored,
            on_stderr=fail if place == "stderr" else ignored,
            grace=0.3,
        ) as child:
            await child.wait()
    assert time.monotonic() - start < 20
    assert len(calls) == 1


async def test_error_of_a_callback_is_raised_from_the_block_that_does_not_wait(fake, output):
    def fail(chunk):
        output(chunk)
        raise LookupError("mine")

    async def job():
        async with spawn(fake("obey"), on_stdout=fail, on_stderr=ignored) as child:
            await output.until(b"ready")
            assert (await child.stop()).outcome is StopOutcome.TERMINATED

    with pytest.raises(LookupError, match="mine"):
        await job()


async def test_error_of_the_block_wins_over_the_error_of_a_callback(fake, output):
    def fail(_chunk):
        output(_chunk)
        raise LookupError("callback")

    async def job():
        async with spawn(fake("obey"), on_stdout=fail, on_stderr=ignored):
            await output.until(b"ready")
            raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        await job()


async def test_no_callback_after_the_block(fake, output):
    async with spawn(fake("flood"), on_stdout=output, on_stderr=ignored, grace=0.1):
        await output.until(b"xxx")
    received = len(output.received)
    await asyncio.sleep(0.05)
    assert len(output.received) == received


async def test_twenty_children_at_once():
    results = await asyncio.gather(*(run(python(f"print({n}); raise SystemExit({n})")) for n in range(20)))
    assert [(c.stdout, c.status.code) for c in results] == [(b"%d\n" % n, n) for n in range(20)]


def test_loop_outside_the_main_thread(fake, new_output):
    result = []

    async def job():
        output = new_output()
        async with spawn(fake("obey"), on_stdout=output, on_stderr=ignored) as child:
            await output.until(b"ready")
            result.append(await child.stop())

    thread = threading.Thread(target=lambda: asyncio.run(job()))
    thread.start()
    thread.join(10)
    assert result == [ExitStatus(None, signal.SIGTERM, StopOutcome.TERMINATED)]


@pytest.mark.parametrize("without", ["pidfd_open", "pidfd_open waitid"])
async def test_systems_without_pidfd(monkeypatch, fake, output, without):
    for name in without.split():
        monkeypatch.delattr(os, name)
    assert (await run(["/bin/sh", "-c", "echo out; exit 3"])).status.code == 3
    assert (await run(python("import os; os.abort()"))).status.signal == signal.SIGABRT
    async with spawn(fake("grandchild"), on_stdout=output, on_stderr=ignored, grace=0.2) as child:
        await output.until(b"ready")
        assert (await child.stop()).outcome is StopOutcome.TERMINATED
    async with spawn(fake("ignore"), on_stdout=output, on_stderr=ignored, grace=0.2) as child:
        await output.until(b"ready", 2)
        assert (await child.stop()).outcome is StopOutcome.KILLED


async def test_status_taken_by_another_part_of_the_host_is_unknown(fake, output):
    # Popen.wait() and asyncio would say 0 or 255.
    async with spawn(fake("obey"), on_stdout=output, on_stderr=ignored) as child:
        await output.until(b"ready")
        os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        assert await child.wait() == ExitStatus(None, None, StopOutcome.EXITED)


async def test_ignored_sigchld_does_not_hang():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        completed = await asyncio.wait_for(run(["/bin/sh", "-c", "echo out"]), 5)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert completed.stdout == b"out\n"
    assert completed.status.code in (0, None)


async def test_failing_start_leaves_nothing(monkeypatch):
    def fail(*_arguments):
        raise OSError("no more descriptors")

    loop = asyncio.get_running_loop()
    before = psutil.Process().children()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_reader", fail)
        with pytest.raises(OSError, match="no more descriptors"):
            await run(["/bin/sleep", "60"])
    assert psutil.Process().children() == before


@pytest.mark.parametrize("free", range(12))
async def test_running_out_of_files_leaves_nothing(free):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        with contextlib.suppress(OSError):
            await run(["/bin/true"])
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await run(["/bin/true"])).status.ok


async def test_missing_working_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        await run(["/bin/true"], cwd=tmp_path / "absent")


async def test_empty_argument_list():
    with pytest.raises(ValueError, match="argv is empty"):
        await run([])


async def test_argument_with_a_null_byte():
    with pytest.raises(ValueError, match="null"):
        await run(["/bin/echo", "a\0b"])


async def test_argument_that_is_too_long():
    with pytest.raises(OSError, match="too long"):
        await run(["/bin/echo", "x" * 5_000_000])


async def test_pid_leads_the_group(fake, output):
    async with spawn(fake("obey"), on_stdout=output, on_stderr=ignored) as child:
        assert isinstance(child, Child)
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) == child.pid


async def test_guard_may_be_replaced(fake, output):
    script = 'exec 3<&0 </dev/null; echo guarded >&2; "$@" 3<&- & wait $!; exit $?'
    guard = ["/bin/sh", "-c", script, "guard"]
    completed = await run(["/bin/sh", "-c", "cat; exit 5"], guard=guard)
    assert (completed.status.code, completed.stderr) == (5, b"guarded\n")


@pytest.mark.slow
async def test_one_gibibyte_of_output_in_bounded_memory():
    process, seen = psutil.Process(), [0]
    await run(["/bin/true"])
    before = process.memory_info().rss
    peak = [before]

    def count(chunk):
        seen[0] += len(chunk)
        if seen[0] % (1 << 24) < 65536:
            peak[0] = max(peak[0], process.memory_info().rss)

    async with spawn(
        ["/bin/sh", "-c", "head -c 1073741824 /dev/zero"], on_stdout=count, on_stderr=ignored
    ) as child:
        assert (await child.wait()).ok
    assert seen[0] == 1 << 30
    assert max(peak[0], process.memory_info().rss) - before < 20 << 20
