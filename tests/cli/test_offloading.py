"""``--offload`` and ``--offload-threshold``."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_llms import serving

from sdmanager.cli.offloading import add_offload, offloading_of
from sdmanager.errors import InvalidRequestError
from sdmanager.resources import Ollama
from sdmanager.resources.journal import Entry, Journal
from sdmanager.settings import Settings

HOOKS = '[[offload]]\nkind = "hooks"\nname = "mine"\nput_aside = ["stop"]\nrestore = ["start"]\n'


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.chdir(tmp_path)

    def read(*words):
        parser = argparse.ArgumentParser()
        add_offload(parser)
        return offloading_of(vars(parser.parse_args(words)), Settings(tmp_path, tmp_path, tmp_path))

    return read


def test_without_the_option_nothing_is_put_aside(read):
    config = read()
    assert (config.offloadables, config.threshold, config.linger) == ((), 0.75, 5.0)


def test_servers_are_named_with_or_without_an_address(read):
    config = read("--offload", "ollama", "--offload", "llama-swap=http://127.0.0.1:8080")
    assert [repr(each) for each in config.offloadables] == [
        "Ollama('http://127.0.0.1:11434', name='ollama')",
        "LlamaSwap('http://127.0.0.1:8080', name='llama-swap at 127.0.0.1:8080')",
    ]
    (ollama,) = read("--offload=ollama=http://127.0.0.1:5").offloadables
    assert ollama.url == "http://127.0.0.1:5"


def test_a_file_is_read_and_an_option_has_the_last_word(read, tmp_path):
    (tmp_path / "mine.toml").write_text(f"threshold = 0.5\nlinger = 1\n{HOOKS}")
    config = read("--offload", "mine.toml", "--offload", "ollama")
    assert [each.name for each in config.offloadables] == ["mine", "ollama"]
    assert (config.threshold, config.linger) == (0.5, 1.0)
    assert read("--offload", "mine.toml", "--offload-threshold", "90").threshold == 0.9
    assert read("--offload-threshold", "90%").threshold == 0.9


def test_a_file_of_another_name_is_read_where_there_is_one(read, tmp_path):
    (tmp_path / "settings").write_text(HOOKS)
    assert [each.name for each in read("--offload", "settings").offloadables] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["olama"], "There is nothing to put aside called 'olama'"),
        (["llama-swap"], "--offload llama-swap needs an address"),
        (["ollama="], "--offload ollama needs an address"),
        (["ollama=ftp://host"], "The address of Ollama cannot be used"),
        (["none.toml"], "it cannot be read: No such file"),
        (["ollama", "ollama"], "'ollama' is there 2 times"),
        ([""], "There is nothing to put aside called ''"),
        (["a\0b"], "There is nothing to put aside"),
        (["x" * 5000], "There is nothing to put aside"),
    ],
)
def test_what_cannot_be_put_aside_is_refused(read, words, message):
    with pytest.raises(InvalidRequestError) as caught:
        read(*(f"--offload={word}" for word in words))
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ollama="], "Write --offload ollama, or --offload ollama=http://127.0.0.1:11434"),
        (["llama-swap="], "Write --offload llama-swap=http://127.0.0.1:8080"),
        (["ollama", "ollama"], "Name them in a settings file, each with a name."),
    ],
)
def test_a_hint_leads_to_what_works(read, words, hint):
    with pytest.raises(InvalidRequestError) as caught:
        read(*(f"--offload={word}" for word in words))
    assert caught.value.hint == hint


@pytest.mark.parametrize("percent", ["0", "101", "nan", "much", "-5", ""])
def test_a_threshold_that_is_no_percentage_is_refused(read, capsys, percent):
    with pytest.raises(SystemExit):
        read(f"--offload-threshold={percent}")
    assert "is no percentage from 1 to 100" in capsys.readouterr().err


# --- generate, with what an earlier run left aside

GENERATE = (sys.executable, "-m", "sdmanager", "generate", "x", "-W", "64", "-H", "64", "--steps", "2")
MODELS = {"chat:1b": {"size": 1 << 20, "vram": 0}}
PATIENCE = 60.0


def journal_of(environment):
    return Journal(Path(environment["HOME"]) / "state" / "offloads")


def leave(environment, name, state=None, owner=None):
    """What a run that was killed leaves."""
    entry = Entry(name, "chat:1b", state or {"models": [{"name": "chat:1b"}]}, owner, time.time())
    journal_of(environment).write(entry)


@contextmanager
def ollama(tmp_path, **environ):
    with serving("ollama_server.py", tmp_path / "calls", MODELS, **environ) as server:
        yield server, Ollama(server.url).name


def generate(environment, tmp_path, *words):
    return subprocess.run(
        [*GENERATE, "-m", "demo", "-o", str(tmp_path / "a.png"), *words],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_what_was_left_aside_is_back_after_the_picture(environment, tmp_path):
    with ollama(tmp_path) as (server, name):
        leave(environment, name)
        done = subprocess.run(
            [*GENERATE, "-m", "demo", "-o", "a.png", "--offload", f"ollama={server.url}"],
            env=environment, cwd=tmp_path, timeout=120, check=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert lines[0].startswith("a.png  64x64")
        assert lines[1:] == [f"Bringing back {name} …"]
        assert server.models("load") == ["chat:1b"]
    assert journal_of(environment).entries() == []


def test_json_is_one_object_also_when_something_is_brought_back(environment, tmp_path):
    with ollama(tmp_path) as (server, name):
        leave(environment, name)
        done = generate(environment, tmp_path, "--json", "--offload", f"ollama={server.url}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "aside" not in json.loads(done.stdout)
        assert server.models("load") == ["chat:1b"]


def test_what_is_not_back_is_told_and_left_to_the_next(environment, tmp_path):
    with ollama(tmp_path, FAKE_MODE="refuses") as (server, name):
        leave(environment, name)
        done = generate(environment, tmp_path, "--offload", f"ollama={server.url}")
        assert done.returncode == 0
        told = done.stderr.splitlines()
        assert told[0] == f"Bringing back {name} …"
        assert all(line.startswith("sdmanager: warning: ") for line in told[1:-1])
        assert len(told) > 2
        assert told[-1].startswith(f"{name} is not back: ")
        assert "more system memory" in told[-1]
        assert told[-1].endswith(". The next command with the same --offload tries again.")
        assert [entry.owner for entry in journal_of(environment).entries()] == [None]

        quiet = generate(environment, tmp_path, "--quiet", "--offload", f"ollama={server.url}")
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")

        done = generate(environment, tmp_path, "--json", "--offload", f"ollama={server.url}")
        assert (done.returncode, done.stderr) == (0, "")
        (aside,) = json.loads(done.stdout)["aside"]
        assert (aside["name"], aside["what"]) == (name, "chat:1b")
        assert "more system memory" in aside["error"]


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_the_waiting(environment, tmp_path, as_json):
    with ollama(tmp_path, FAKE_MODE="slow", FAKE_SECONDS="50") as (server, name):
        leave(environment, name)
        words = ["-m", "demo", "-o", str(tmp_path / "a.png"), "--offload", f"ollama={server.url}"]
        with subprocess.Popen(
            [*GENERATE, *words, *(["--json"] if as_json else [])],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as child:  # fmt: skip
            try:
                deadline = time.monotonic() + PATIENCE
                while not server.models("load"):
                    assert time.monotonic() < deadline, "waited in vain"
                    time.sleep(0.02)
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=20)
            finally:
                child.kill()
        assert child.returncode == 130
        assert (tmp_path / "a.png").exists()
        if as_json:
            facts = json.loads(out)
            assert (facts["model"], facts["aside"][0]["name"]) == ("demo", name)
        else:
            assert f"{name} is not back: Waiting for it was ended. The next command" in err
        assert "Traceback" not in err
    assert [entry.is_orphan for entry in journal_of(environment).entries()] == [True]


def test_a_llama_server_is_left_to_serve(environment, tmp_path):
    (tmp_path / "mine.toml").write_text(
        f'[[offload]]\nkind = "llama-server"\ncommand = ["{sys.executable}", "-c", "open(\'started\', \'w\')"]\n'
    )
    leave(environment, "llama-server", {"port": 1})
    before = journal_of(environment).entries()
    done = generate(environment, tmp_path, "--offload", str(tmp_path / "mine.toml"))
    assert done.returncode == 0
    assert done.stderr == "llama-server is started by serve only, so it is left out.\n"
    assert journal_of(environment).entries() == before
    done = generate(environment, tmp_path, "--json", "--offload", str(tmp_path / "mine.toml"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ollama", "--offload ollama"),
        ("ollama at 127.0.0.1:5", "--offload ollama=http://127.0.0.1:5"),
        ("llama-swap", "--offload llama-swap=URL"),
        ("chat", "the --offload that names it"),
    ],
)
def test_without_the_option_what_was_left_aside_is_told(environment, tmp_path, name, option):
    leave(environment, name)
    leave(environment, "of-somebody-who-runs", owner=journal_of(environment).owner)
    done = generate(environment, tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{name} was put aside by an earlier run and is not back: add {option}, "
        "or forget it with 'sdmanager aside --forget'."
    ]
    if name == "chat":
        done = generate(environment, tmp_path, "--json")
        assert done.stderr == ""
        assert [each["name"] for each in json.loads(done.stdout)["aside"]] == ["chat"]
