"""``sdmanager serve`` as a user, a parent process or a service manager runs it: a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_llms import FAKES
from fake_llms import serving as serving_llm
from loras import write_lora
from ports import free_port
from processes import PATIENCE, Parent, all_gone, command, wait_for

from sdmanager.resources import Ollama
from sdmanager.resources.journal import Entry, Journal

# One thread: with more, an engine that shares its cores waits most of the time.
COMMAND = (sys.executable, "-m", "sdmanager", "serve", "--threads", "1")
FAKE = Path(__file__).parents[1] / "fakes" / "fake_engine.py"
READY = re.compile(r"sdmanager is ready at (http://\S+)\n")
LONG = {"prompt": "my secret lighthouse", "width": 64, "height": 64, "steps": 1000}
SHORT = {**LONG, "steps": 2}


class Served(Parent):
    """A server of a test's own."""

    def __init__(self, child: subprocess.Popen[str], stderr: Path) -> None:
        self.child = child
        self._stderr = stderr
        self.said = ""
        self.url = ""
        self.token: str | None = None

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(encoding="utf-8")

    def wait_until_ready(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.said += line
            if found := READY.fullmatch(line):
                self.url = found[1]
                return
        raise AssertionError(f"never ready: {self.stderr}")

    def ask(self, path: str, body: object = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def begin(self, body: object) -> str:
        return self.ask("/v1/images/generations", body)["id"]

    def status_of(self, generation_id: str) -> dict[str, Any]:
        return self.ask(f"/v1/images/generations/{generation_id}")

    def draw(self, body: object) -> dict[str, Any]:
        generation_id = self.begin(body)
        wait_for(lambda: self.status_of(generation_id)["status"] not in {"pending", "in_progress"})
        return self.status_of(generation_id)


@contextlib.contextmanager
def started(
    environment: dict[str, str], *arguments: str, port: str = "auto", **options: Any
) -> Iterator[Served]:
    """A server that is being started, and killed at the end if it still runs."""
    stderr = Path(environment["HOME"]) / f"stderr-{time.monotonic_ns()}"
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **options}
    with (
        stderr.open("w") as file,
        subprocess.Popen([*COMMAND, "--port", port, *arguments], env=environment, stderr=file, **streams) as child,
    ):  # fmt: skip
        try:
            yield Served(child, stderr)
        finally:
            child.kill()


@contextlib.contextmanager
def serving(environment: dict[str, str], *arguments: str, **options: Any) -> Iterator[Served]:
    """A server that answers."""
    with started(environment, *arguments, **options) as server:
        server.wait_until_ready()
        yield server


def log_of(environment: dict[str, str]) -> str:
    return "".join(path.read_text() for path in (Path(environment["HOME"]) / "logs").glob("server*.log"))


@pytest.fixture
def scripted(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment whose engine misbehaves as the file ``mode`` in the home folder says, and then leaves ``ran``."""
    folder = Path(environment["HOME"])
    (folder / "mode").write_text("draws")
    engine = tmp_path / "sd-cli"
    engine.write_text(
        "#!/bin/sh\n"
        f"FAKE_ENGINE=\"$(cat '{folder}/mode')\"; export FAKE_ENGINE\n"
        f"case \"$1\" in -h|--version) ;; *) : > '{folder}/ran' ;; esac\n"
        f"exec '{sys.executable}' -I -S '{FAKE}' \"$@\"\n"
    )
    engine.chmod(0o755)
    return {**environment, "SDMANAGER_ENGINE": str(engine)}


def test_it_says_where_it_is_draws_and_ends_with_ctrl_c(environment: dict[str, str]) -> None:
    with serving(environment) as server:
        assert server.ask("/health") == {"status": "ok", "busy": False}
        done = server.draw(SHORT)
        assert done["status"] == "complete"
        assert done["result"]["images"][0]["width"] == 64
        assert server.end(signal.SIGINT) == 0
        assert server.child.stdout is not None
        assert server.child.stdout.read() == ""
    assert "from the model 'demo'" in server.stderr
    assert re.search(rf"sdmanager: generation {done['id']} complete after \d+\.\d s\n", server.stderr)
    assert server.stderr.endswith("Stopping…\n")
    assert log_of(environment).count(f"generation {done['id']} complete") == 1
    for text in (server.stderr, log_of(environment)):
        assert "secret" not in text
        assert "Traceback" not in text


def test_json_is_one_object(environment: dict[str, str]) -> None:
    with started(environment, "--json", "-m", "demo") as server:
        assert server.child.stdout is not None
        facts = json.loads(server.child.stdout.readline())
        assert sorted(facts) == ["pid", "port", "url", "version"]
        assert facts["url"] == f"http://127.0.0.1:{facts['port']}"
        assert facts["pid"] == server.child.pid
        server.url = facts["url"]
        assert server.ask("/v1/info")["version"] == facts["version"]
        assert server.end(signal.SIGTERM) == 0
        assert server.child.stdout.read() == ""


def test_options_reach_the_server(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--queue", "3", "--vae-tiling", "--lora-dir", str(tmp_path))
    with serving(environment, *arguments, "--host", "localhost", port=str(port)) as server:
        info = server.ask("/v1/info")
        assert (info["port"], info["queueSize"]) == (port, 3)
        (drawing,) = [server.begin(LONG)]
        engine = next(c for c in map(command, server.wait_until_drawing()) if "--steps" in c)
        assert "--vae-tiling" in engine
        assert engine[engine.index("--threads") + 1] == "1"
        waiting = server.begin(SHORT)
        assert server.status_of(waiting)["status"] == "pending"
        assert server.end(signal.SIGINT) == 0
        for name in (drawing, waiting):
            assert f"generation {name} cancelled" in server.stderr


def test_two_servers_at_once_have_ports_and_logs_of_their_own(environment: dict[str, str]) -> None:
    with serving(environment) as first, serving(environment) as second:
        assert first.url != second.url
        assert second.ask("/health")["status"] == first.ask("/health")["status"] == "ok"
        logs = sorted(path.name for path in (Path(environment["HOME"]) / "logs").glob("server*"))
        assert logs == ["server-2.log", "server.log"]
        assert first.end(signal.SIGTERM) == second.end(signal.SIGTERM) == 0


def test_a_new_token_is_printed_once_and_never_logged(environment: dict[str, str]) -> None:
    with started(environment, "--token", "--log-level", "debug") as server:
        assert server.child.stdout is not None
        found = re.fullmatch(r"Token: (\S{32,})\n", server.child.stdout.readline())
        assert found is not None
        server.wait_until_ready()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.ask("/v1/info")
        server.token = found[1]
        assert server.draw(SHORT)["status"] == "complete"
        assert server.end(signal.SIGTERM) == 0
    assert found[1] not in server.stderr
    assert found[1] not in log_of(environment)


def test_a_new_token_stands_in_the_json(environment: dict[str, str]) -> None:
    with started(environment, "--token", "--json") as server:
        assert server.child.stdout is not None
        facts = json.loads(server.child.stdout.readline())
        server.url, server.token = facts["url"], facts["token"]
        assert server.ask("/v1/info")["port"] == facts["port"]


@pytest.mark.parametrize("arguments", [(), ("--token",)])
def test_the_token_of_the_environment_is_printed_nowhere(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    token = "the-token-of-the-environment"
    with serving({**environment, "SDMANAGER_TOKEN": token}, *arguments) as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.ask("/v1/info")
        server.token = token
        assert server.ask("/v1/info")["status"] == "running"
        assert server.end(signal.SIGTERM) == 0
        assert server.child.stdout is not None
        assert token not in server.said + server.child.stdout.read() + server.stderr + log_of(environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_token_is_not_in_the_environment_of_the_engine(environment: dict[str, str]) -> None:
    token = "the-token-of-the-environment"
    known = {**environment, "SDMANAGER_TOKEN": token, "SOMETHING_ELSE": "is-there"}
    with serving(known) as server:
        server.token = token
        server.begin(LONG)
        family = server.wait_until_drawing()  # the engine, and what guards it
        for process in family:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"SOMETHING_ELSE=is-there\0" in variables
            assert b"SDMANAGER_TOKEN" not in variables
            assert token.encode() not in variables
            assert token not in " ".join(command(process))


def test_prompts_are_logged_at_debug_alone(environment: dict[str, str], tmp_path: Path) -> None:
    # The engine prints of a prompt only its LoRAs; nothing else may print more of it, errors included.
    write_lora(tmp_path / "loras" / "zyzzyva.safetensors")
    peculiar = {**SHORT, "prompt": "a quokka <lora:zyzzyva:1>", "negativePrompt": "a penny-farthing"}
    for level in ("info", "debug"):
        with serving(environment, "--log-level", level, "--lora-dir", str(tmp_path / "loras")) as server:
            assert server.draw(peculiar)["status"] == "complete"
            with pytest.raises(urllib.error.HTTPError, match="400"):
                server.begin({**peculiar, "prompt": "a quokka <lora:zyzzyva:many>"})
            assert server.end(signal.SIGTERM) == 0
        if level == "info":
            for word in ("quokka", "zyzzyva", "penny-farthing", "engine: "):
                assert word not in server.stderr
                assert word not in log_of(environment)
    assert re.search("engine: .*zyzzyva", log_of(environment))


def test_a_failed_generation_is_told_with_its_reason(scripted: dict[str, str]) -> None:
    with serving(scripted, "--log-level", "warning") as server:
        assert server.draw(SHORT)["status"] == "complete"
        (Path(scripted["HOME"]) / "mode").write_text("segv")
        failed = server.draw(SHORT)
        assert failed["status"] == "error"
        assert server.end(signal.SIGTERM) == 0
    reason = re.escape(f"{failed['error']['message']} ({failed['error']['code']})")
    assert re.search(
        rf"sdmanager: generation {failed['id']} failed after \d+\.\d s: {reason}\n", server.stderr
    )
    assert "complete" not in server.stderr


def test_the_ready_file_is_there_while_the_server_answers(scripted: dict[str, str], tmp_path: Path) -> None:
    home, path = Path(scripted["HOME"]), tmp_path / "ready.json"
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    path.write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": gone.pid}))
    (home / "mode").write_text("hang@loading")
    with started(scripted, "--ready-file", str(path)) as server:
        wait_for((home / "ran").exists)
        assert not path.exists()  # the stale one has gone, and this server is not ready yet
    (home / "mode").write_text("draws")
    with started(scripted, "--ready-file", str(path)) as server:
        wait_for(path.exists)
        facts = json.loads(path.read_text())
        assert facts["pid"] == server.child.pid
        server.url = facts["url"]
        assert server.ask("/health")["status"] == "ok"
        assert server.end(signal.SIGTERM) == 0
        assert list(tmp_path.glob("*ready*")) == []


def test_a_ready_file_of_somebody_else_is_left_at_the_end(
    environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "ready.json"
    path.touch()  # as a parent makes one, to have a name of its own
    with serving(environment, "--ready-file", str(path)) as server:
        assert json.loads(path.read_text())["pid"] == server.child.pid
        path.write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
        assert server.end(signal.SIGTERM) == 0
    assert json.loads(path.read_text())["pid"] == 1


@pytest.mark.parametrize("own_file", [False, True])
def test_a_second_server_on_the_port_leaves_the_ready_file_of_the_first(
    environment: dict[str, str], tmp_path: Path, own_file: bool
) -> None:
    port, path = str(free_port()), tmp_path / "ready.json"
    with serving(environment, "--ready-file", str(path), port=port) as first:
        facts = path.read_bytes()
        assert json.loads(facts)["pid"] == first.child.pid
        other = tmp_path / "other.json" if own_file else path
        with started(environment, "--ready-file", str(other), port=port) as second:
            assert second.child.wait(PATIENCE) == (
                63 if own_file else 51
            )  # the port, or the file of one that runs
            assert second.child.stdout is not None
            assert second.child.stdout.read() == ""
        assert path.read_bytes() == facts
        assert other.exists() is not own_file
        assert first.ask("/health")["status"] == "ok"
        assert first.end(signal.SIGTERM) == 0
    assert not path.exists()


def test_what_a_killed_server_had_accepted_is_answered_by_the_next(
    environment: dict[str, str], tmp_path: Path
) -> None:
    port, path = str(free_port()), tmp_path / "ready.json"
    arguments = ("--queue", "2", "--ready-file", str(path))
    with serving(environment, *arguments, port=port) as server:
        finished = server.draw(SHORT)["id"]
        accepted = [server.begin(LONG), server.begin(SHORT)]
        family = server.wait_until_drawing()
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert all_gone(family)
    assert json.loads(path.read_text())["pid"] == server.child.pid
    with serving(environment, *arguments, port=port) as again:
        assert json.loads(path.read_text())["pid"] == again.child.pid
        assert again.status_of(finished)["status"] == "complete"
        for name in accepted:
            told = again.status_of(name)
            assert (told["status"], told["error"]["code"]) == ("error", "INTERRUPTED")
        assert again.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_generation_ends_both_cleanly(environment: dict[str, str], number: int) -> None:
    with serving(environment) as server:
        name = server.begin(LONG)
        family = server.wait_until_drawing()
        assert server.end(number) == 0
        assert all_gone(family)
    assert f"generation {name} cancelled" in server.stderr
    assert "Stopping…" in server.stderr
    assert "Traceback" not in server.stderr
    assert list((Path(environment["HOME"]) / "cache" / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_before_the_server_is_ready_is_no_success(
    scripted: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    home, path = Path(scripted["HOME"]), tmp_path / "ready.json"
    (home / "mode").write_text("hang@loading")
    with started(scripted, "--ready-file", str(path)) as server:
        wait_for((home / "ran").exists)
        family = server.family()
        assert family
        assert server.end(number) == code
        assert all_gone(family)
        assert server.child.stdout is not None
        assert server.child.stdout.read() == ""
    assert not path.exists()
    assert "Traceback" not in server.stderr


def stubborn(scripted: dict[str, str], server: Served) -> list[psutil.Process]:
    """Have the server draw with an engine that ignores SIGTERM."""
    (Path(scripted["HOME"]) / "mode").write_text("stubborn")
    name = server.begin(LONG)
    wait_for(lambda: server.status_of(name).get("progress", {}).get("currentStep"))
    return server.family()


def test_a_second_ctrl_c_kills_at_once_and_leaves_no_process(
    scripted: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "ready.json"
    with serving(scripted, "--ready-file", str(path)) as server:
        family = stubborn(scripted, server)
        server.child.send_signal(signal.SIGINT)
        wait_for(lambda: "Stopping…" in server.stderr)
        assert server.end(signal.SIGINT) == 130
        assert all_gone(family)
    assert not path.exists()
    assert "cancelled" not in server.stderr
    assert "Traceback" not in server.stderr


def test_other_signals_may_come_twice(scripted: dict[str, str]) -> None:
    with serving(scripted) as server:
        family = stubborn(scripted, server)
        server.child.send_signal(signal.SIGTERM)
        wait_for(lambda: "Stopping…" in server.stderr)
        assert server.end(signal.SIGTERM, signal.SIGHUP) == 0
        assert all_gone(family)
    assert "cancelled" in server.stderr


def test_a_terminal_that_is_closed_ends_the_server(environment: dict[str, str]) -> None:
    parent, child_end = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "--port", "auto"], env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        stdin=child_end, stdout=child_end, stderr=child_end,
    ) as child:  # fmt: skip
        os.close(child_end)
        seen = b""
        while b"ready at" not in seen:
            seen += os.read(parent, 4096)
        os.close(parent)
        assert child.wait(PATIENCE) == 0


def test_nohup_is_respected(environment: dict[str, str]) -> None:
    ignoring = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with serving(environment, preexec_fn=ignoring) as server:
        server.child.send_signal(signal.SIGHUP)
        assert server.ask("/health")["status"] == "ok"
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("streams", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_change_nothing(environment: dict[str, str], tmp_path: Path, streams: str) -> None:
    path = tmp_path / "ready.json"
    line = f"exec '{sys.executable}' -m sdmanager serve -t 1 --port auto --ready-file '{path}' {streams}"
    with subprocess.Popen(["/bin/sh", "-c", line], env=environment, stdout=subprocess.DEVNULL) as child:
        try:
            wait_for(path.exists)
            server = Served(child, path)
            server.url = json.loads(path.read_text())["url"]
            assert server.draw(SHORT)["status"] == "complete"
            # No socket and no log has got the number of a stream, which libraries write to.
            for number in re.findall(r"\d", streams):
                assert os.readlink(f"/proc/{child.pid}/fd/{number}") == os.devnull
            assert server.end(signal.SIGTERM) == 0
        finally:
            child.kill()


def test_a_parent_that_reads_no_more_stops_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    arguments = ["--port", "auto", "--ready-file", str(path)]
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()
        try:
            wait_for(path.exists)
            server = Served(child, path)
            server.url = json.loads(path.read_text())["url"]
            assert server.draw(SHORT)["status"] == "complete"
            assert server.end(signal.SIGTERM) == 0
        finally:
            child.kill()


BAD = {
    "no model": (["-m", "nope.gguf"], "MODEL_NOT_FOUND", 21, "'nope.gguf' does not exist"),
    "parts of demo": (["-m", "demo", "--vae", "v"], "INVALID_REQUEST", 2, "takes no parts"),
    "everybody without a token": (["--host", "0.0.0.0"], "INVALID_REQUEST", 2, "token"),
    "any origin": (["--allow-origin", "*"], "INVALID_REQUEST", 2, "origin"),
    "no origin": (["--allow-origin", "null"], "INVALID_REQUEST", 2, "origin"),
    "empty token": (["--token", ""], "INVALID_REQUEST", 2, "token"),
    "address of nobody": (["--host", "192.0.2.1", "--token"], "PORT_IN_USE", 63, ""),
    "queue below nothing": (["--queue", "-1"], "INVALID_REQUEST", 2, "queue"),
    "no threads": (["--threads", "0"], "INVALID_REQUEST", 2, "threads"),
    "no such port": (["--port", "65536"], "INVALID_REQUEST", 2, "port"),
    "no such folder": (["--ready-file", "nowhere/r"], "OUTPUT_NOT_WRITABLE", 51, "'nowhere' does not exist"),
    "folder as ready file": (["--ready-file", "."], "OUTPUT_NOT_WRITABLE", 51, ""),
    "other file": (["--ready-file", "precious"], "OUTPUT_NOT_WRITABLE", 51, "not written by a server"),
    "device": (["--ready-file", "/dev/null"], "OUTPUT_NOT_WRITABLE", 51, ""),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_one_sentence_a_hint_and_an_exit_code(
    environment: dict[str, str], tmp_path: Path, case: str
) -> None:
    arguments, code, status, words = BAD[case]
    (tmp_path / "precious").write_text('{"a": 1}')
    port = [] if "--port" in arguments else ["--port", "auto"]
    done = subprocess.run(
        [*COMMAND, *port, *arguments, "--json"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert json.loads(done.stdout)["error"]["code"] == code
    assert words in done.stderr
    sentence, *hint = done.stderr.splitlines()
    assert sentence.startswith("sdmanager: ")
    assert len(hint) == 1 or "must be a whole number from" in sentence
    assert "Traceback" not in done.stderr
    assert (tmp_path / "precious").read_text() == '{"a": 1}'
    assert Path("/dev/null").is_char_device()


def test_a_port_in_use(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with started(environment, "--ready-file", str(tmp_path / "r"), port=str(port)) as server:
            assert server.child.wait(PATIENCE) == 63
            assert server.child.stdout is not None
            assert server.child.stdout.read() == ""
    assert "--port auto" in server.stderr
    assert not (tmp_path / "r").exists()


def test_wrong_usage_is_argparses_own(environment: dict[str, str]) -> None:
    with started(environment, port="many") as server:
        assert server.child.wait(PATIENCE) == 2
    assert "neither a number nor 'auto'" in server.stderr


# --- programs that are put aside


@pytest.mark.parametrize("with_port", [True, False])
def test_a_llama_server_runs_as_long_as_the_server(
    environment: dict[str, str], tmp_path: Path, with_port: bool
) -> None:
    port, words = free_port(), [sys.executable, "-I", "-S", str(FAKES / "llama_server.py"), "-m", "x.gguf"]
    (tmp_path / "mine.toml").write_text(
        f'[[offload]]\nkind = "llama-server"\nname = "chat"\ncommand = {json.dumps(words)}\n'
        + (f"port = {port}\n" if with_port else "")
    )
    with serving(environment, "--offload", str(tmp_path / "mine.toml")) as server:
        assert "sdmanager: starting chat\n" in server.stderr
        found = re.search(r"sdmanager: chat is ready at (http://127\.0\.0\.1:(\d+))\n", server.stderr)
        assert found is not None
        assert not with_port or int(found[2]) == port
        with urllib.request.urlopen(f"{found[1]}/health", timeout=PATIENCE) as answer:
            assert json.load(answer) == {"status": "ok"}
        assert server.draw(SHORT)["status"] == "complete"
        family = server.family()
        assert family
        assert server.end(signal.SIGTERM) == 0
        assert all_gone(family)
    assert "Traceback" not in server.stderr


def test_what_a_killed_server_had_put_aside_is_brought_back_by_the_next(
    environment: dict[str, str], tmp_path: Path
) -> None:
    journal = Journal(Path(environment["HOME"]) / "state" / "offloads")
    models = {"chat:1b": {"size": 1 << 20, "vram": 0}}
    with serving_llm("ollama_server.py", tmp_path / "calls", models) as llm:
        offload = ("--offload", f"ollama={llm.url}")
        with serving(environment, *offload) as server:
            killed = journal.owner.of(server.child.pid)
            name = Ollama(llm.url).name
            state = {"models": [{"name": "chat:1b"}]}
            journal.write(Entry(name, "chat:1b", state, killed, time.time()))
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
        assert llm.models("load") == []
        with serving(environment, *offload) as again:
            assert llm.models("load") == ["chat:1b"]
            assert again.end(signal.SIGTERM) == 0
        assert "was put aside by an earlier run" not in again.stderr
    assert journal.entries() == []


def test_what_it_cannot_bring_back_is_told(scripted: dict[str, str]) -> None:
    journal = Journal(Path(scripted["HOME"]) / "state" / "offloads")
    journal.write(Entry("ollama", "chat:1b", {}, None, time.time()))
    with serving(scripted) as server:
        assert server.end(signal.SIGTERM) == 0
    assert (
        server.stderr.count("ollama was put aside by an earlier run and is not back: add --offload ollama")
        == 1
    )
    assert [entry.name for entry in journal.entries()] == ["ollama"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from sdmanager.cli.main import build_parser; build_parser().format_help();"
        "print(sorted({'asyncio', 'aiohttp', 'pydantic', 'PIL', 'tqdm'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("name", ["generate", "calibrate", "serve", "aside", "doctor", "models", "engine"])
def test_help_of_each_command_loads_nothing_heavy(name: str) -> None:
    code = (
        "import sys\nfrom sdmanager.cli.main import main\n"
        f"try: main(['{name}', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'asyncio', 'aiohttp', 'pydantic', 'PIL', 'tqdm', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("\n[]\n")
