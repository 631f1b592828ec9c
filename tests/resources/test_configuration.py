"""The settings file that says what is put aside."""

from __future__ import annotations

import os
import sys

import pytest

from sdmanager.errors import InvalidRequestError
from sdmanager.resources.configuration import OffloadingConfig, load_offloading
from sdmanager.resources.hooks import HookOffloadable
from sdmanager.resources.llama_swap import LlamaSwap
from sdmanager.resources.ollama import Ollama
from sdmanager.settings import Settings

KEY = "sk-not-to-be-seen"
SERVER = '[[offload]]\nkind = "llama-server"\ncommand = ["x"]\n'
HOOKS = '[[offload]]\nkind = "hooks"\nname = "mine"\nput_aside = ["stop"]\nrestore = ["start"]\n'


@pytest.fixture
def load(tmp_path):
    def load(text, **environ):
        path = tmp_path / "offload.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_offloading(path, Settings(tmp_path, tmp_path, tmp_path), environ=environ)

    return load


def test_an_empty_file_says_nothing(load):
    assert load("") == OffloadingConfig((), 0.75, 5.0)


def test_each_kind_is_made_as_the_file_says(load):
    config = load(
        """
        threshold = 0.9
        linger = 0
        [[offload]]
        kind = "ollama"
        [[offload]]
        kind = "ollama"
        name = "second"
        url = "http://127.0.0.1:11500/"
        [[offload]]
        kind = "llama-swap"
        url = "http://127.0.0.1:8080"
        api_key_env = "SWAP_KEY"
        vram = "6 GiB"
        ram = 512
        [[offload]]
        kind = "hooks"
        name = "mine"
        put_aside = ["systemctl", "--user", "stop", "my-model"]
        restore = ["systemctl", "--user", "start", "my-model"]
        holds = ["systemctl", "--user", "is-active", "my-model"]
        timeout = 30
        vram = "1.5GB"
        """,
        SWAP_KEY=KEY,
        OLLAMA_HOST=":11499",
    )
    assert (config.threshold, config.linger) == (0.9, 0.0)
    assert [type(each) for each in config.offloadables] == [Ollama, Ollama, LlamaSwap, HookOffloadable]
    assert [each.name for each in config.offloadables] == [
        "ollama at 127.0.0.1:11499", "second", "llama-swap at 127.0.0.1:8080", "mine",
    ]  # fmt: skip
    assert [each.url for each in config.offloadables[:3]] == [
        "http://127.0.0.1:11499", "http://127.0.0.1:11500", "http://127.0.0.1:8080",
    ]  # fmt: skip
    swap, hooks = config.offloadables[2:]
    assert (swap._vram, swap._ram, swap._asker._key) == (6 << 30, 512, KEY)
    assert (hooks._vram, hooks._ram, hooks._timeout) == (1_500_000_000, None, 30.0)
    assert KEY not in repr(config)


async def test_hooks_of_a_file_are_run(load, tmp_path):
    code = "import sys; open(sys.argv[1], 'w')"
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "made")]
    (program,) = load(HOOKS.replace('["stop"]', str(command))).offloadables
    await program.put_aside(await program.holding())
    assert (tmp_path / "made").exists()


def test_a_llama_server_is_made_with_its_command(load):
    (server,) = load(
        '[[offload]]\nkind = "llama-server"\ncommand = ["llama-server", "-m", "model.gguf"]\nport = 8090\n'
        'api_key_env = "LLAMA_KEY"\nname = "chat"\nready_timeout = 30\nvram = "6 GiB"\nram = "1 GiB"\n'
        'host = "127.0.0.1"',
        LLAMA_KEY=KEY,
    ).offloadables
    assert (server.name, server.url) == ("chat", "http://127.0.0.1:8090")
    assert KEY not in repr(server)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("treshold = 1", "there is no key 'treshold'", "Did you mean 'threshold'?"),
        ("threshold = 75", "threshold: 'threshold' must be above 0", "0.75 is 75 %"),
        ("threshold = 0", "'threshold' must be above 0", None),
        ("threshold = true", "'threshold' must be a number", None),
        ("threshold = nan", "'threshold' must be a number", None),
        ('threshold = "0.5"', "'threshold' must be a number", None),
        ("linger = -1", "'linger' must be a number of seconds", None),
        ("offload = 1", "'offload' must be a list of tables", "[[offload]]"),
        ('[offload]\nkind = "ollama"', "'offload' must be a list of tables", "[[offload]]"),
        ("[[offload]]", "[[offload]] 1: 'kind' is missing", "ollama, llama-swap, llama-server, hooks"),
        ('[[offload]]\nkind = "olama"', "there is no kind 'olama'", "Did you mean 'ollama'?"),
        ("[[offload]]\nkind = 5", "there is no kind '5'", None),
        (
            HOOKS + '[[offload]]\nkind = "ollama"\nport = 5',
            "[[offload]] 2: there is no key 'port'",
            "kind, name, url",
        ),
        (
            '[[offload]]\nkind = "ollama"\nurl = "ftp://host"',
            "[[offload]] 1: The address of Ollama cannot",
            "http://127.0.0.1:11434",
        ),
        (
            '[[offload]]\nkind = "llama-swap"\nurl = "host"',
            "[[offload]] 1: The address of llama-swap cannot",
            "http://127.0.0.1:8080",
        ),
        ('[[offload]]\nkind = "ollama"\nurl = ""', "'url' must be a text", None),
        ('[[offload]]\nkind = "ollama"\nurl = 5', "'url' must be a text", None),
        (
            '[[offload]]\nkind = "ollama"\nname = "a/b"',
            "The name of what is put aside cannot be used",
            "letters",
        ),
        ('[[offload]]\nkind = "llama-swap"', "'url' is missing", None),
        (
            f'[[offload]]\nkind = "llama-swap"\nurl = "http://a"\napi_key = "{KEY}"',
            "there is no key 'api_key'",
            "api_key_env",
        ),
        (
            '[[offload]]\nkind = "llama-swap"\nurl = "http://a"\napi_key_env = "NOT_SET"',
            "the environment variable that 'api_key_env' names is not set",
            "Set it",
        ),
        ('[[offload]]\nkind = "hooks"', "'name' is missing", None),
        (HOOKS.replace('["stop"]', '"stop it"'), "'put_aside' must be a list of words", None),
        (HOOKS.replace('["stop"]', "[]"), "'put_aside' must be a list of words", None),
        (HOOKS.replace('["stop"]', '["a", 5]'), "'put_aside' must be a list of words", None),
        (HOOKS.replace("restore", "restor"), "there is no key 'restor'", "Did you mean 'restore'?"),
        (HOOKS + 'vram = "6 gib"', "'vram' must be a size", None),
        (HOOKS + 'vram = "much"', "'vram' must be a size", None),
        (HOOKS + "vram = -1", "'vram' must be a size", None),
        (HOOKS + 'ram = "9999999 TiB"', "'ram' must be a size", None),
        (HOOKS + "timeout = 0", "timeout must be a number of seconds", None),
        (HOOKS + HOOKS, "'mine' is there 2 times", "name"),
        ('[[offload]]\nkind = "ollama"\n' * 2, "'ollama' is there 2 times", 'name = "second"'),
        ('[[offload]]\nkind = "llama-server"', "'command' is missing", None),
        (SERVER + "port = 0", "'port' must be a port", None),
        (SERVER + "ready_timeout = -1", "ready_timeout must be a number of seconds above 0", "60"),
        (SERVER + 'name = "a/b"', "The name of what is put aside cannot be used", "letters"),
        (
            SERVER.replace('"x"', f'"x", "--api-key", "{KEY}"'),
            "--api-key may not be in the command",
            'api_key_env = "NAME"',
        ),
        ("a = \nb = 1", "it is not TOML: Invalid value (at line 1", None),
        ("a = " + "[" * 100_000, "it is nested too deeply", None),
        ("a = " + "1" * 5000, "it is not TOML", None),
        (b"a = '\xff'", "it is not text in UTF-8", None),
        ("#" * ((1 << 20) + 1), "it has more than 1 MiB", None),
    ],
)
def test_each_fault_is_told_with_its_place(load, text, message, hint):
    with pytest.raises(InvalidRequestError) as caught:
        load(text)
    error = caught.value
    assert error.message.startswith("In 'offload.toml'")
    assert error.message.endswith(".")
    assert not error.message.endswith("..")
    assert message in error.message
    assert (hint or "") in error.hint
    assert KEY not in f"{error.message}{error.hint}{error.details}"


def test_a_file_that_is_not_there_is_refused(tmp_path):
    settings = Settings(tmp_path, tmp_path, tmp_path)
    with pytest.raises(InvalidRequestError, match=r"In 'none.toml': it cannot be read: No such file"):
        load_offloading(tmp_path / "none.toml", settings)
    with pytest.raises(InvalidRequestError, match="it is not a file"):
        load_offloading(tmp_path, settings)
    with pytest.raises(InvalidRequestError, match="the name cannot be used"):
        load_offloading(tmp_path / "a\0b", settings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InvalidRequestError, match="it is not a file"):
        load_offloading(tmp_path / "pipe.toml", Settings(tmp_path, tmp_path, tmp_path))
