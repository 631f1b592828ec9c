"""Every snippet of the README and of docs/ is run, in an empty home folder, with the real engine."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from ports import free_port

from sdmanager.cli.main import build_parser
from sdmanager.resources import load_offloading
from sdmanager.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# Where the pages have a server; a snippet that names it gets one, with a queue and a gallery, on a port of its own.
PORT = "8081"


def snippets(language: str) -> list:
    found = []
    for page in PAGES:
        for index, match in enumerate(
            re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)
        ):
            found.append(pytest.param(match[1], id=f"{page.name}-{index}"))
    return found


@pytest.mark.parametrize("code", snippets("python"))
def test_python(code: str, hub_environment: dict[str, str], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if PORT in code:
            code = stack.enter_context(with_server(code, hub_environment, tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=hub_environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", snippets("toml"))
def test_a_settings_file(text: str, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "room.toml"
    path.write_text(text, encoding="utf-8")
    assert load_offloading(path, settings, environ={}).offloadables


def commands() -> list:
    """Lines of shell snippets that call sdmanager; installing is run as it stands by `.ci/run`."""
    found = []
    for block in snippets("sh"):
        for line in block.values[0].splitlines():
            if line.startswith("sdmanager ") and not line.startswith("sdmanager serve"):
                found.append(pytest.param(shlex.split(line, comments=True), id=line[:60]))  # noqa: PERF401
    return found


# What a command needs that stands before it in the pages: what it draws from, and the model that it names.
def _before(args: list[str], environment: dict[str, str], folder: Path) -> None:
    if "--init-image" in args:
        _run(["generate", "a cat", "--count", "3", "-o", "cat.png", "--quiet"], environment, folder)
    if "sd-turbo" in args and args[:2] not in (["models", "pull"], ["models", "info"]):
        _run(["models", "pull", "sd-turbo", "--quiet"], environment, folder)


def _run(args: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sdmanager", *args],
        env=environment, cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", commands())
def test_command(arguments: list[str], hub_environment: dict[str, str], tmp_path: Path) -> None:
    args = arguments[1:]
    build_parser().parse_args(args)
    _before(args, hub_environment, tmp_path)
    done = _run(args, hub_environment, tmp_path)
    assert "Traceback" not in done.stderr
    assert done.stdout


def serve_commands() -> list:
    lines = {
        line
        for block in snippets("sh")
        for line in block.values[0].splitlines()
        if line.startswith("sdmanager serve")
    }
    return [pytest.param(shlex.split(line, comments=True), id=line[:60]) for line in sorted(lines)]


@contextlib.contextmanager
def serving(arguments: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The URL of a server that is started so, but on a port of its own."""
    args = arguments[1:]
    build_parser().parse_args(args)
    command = [sys.executable, "-m", "sdmanager", *args, "--port", "auto"]
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("sdmanager is ready at http://127.0.0.1:")
            yield line.split()[-1]
        finally:
            server.terminate()
            assert server.wait(30) == 0


@contextlib.contextmanager
def with_server(code: str, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The snippet as it is to be run while a server is there."""
    arguments = ["sdmanager", "serve", "--queue", "8", "--gallery", "gallery"]
    with serving(arguments, environment, folder) as url:
        yield code.replace(PORT, url.rpartition(":")[2])


def _write_room(environment: dict[str, str], folder: Path) -> None:
    """The settings file of the page, and a llama-server for it, on a port that is free."""
    (page,) = snippets("toml")
    port = free_port()
    text = page.values[0].replace("port = 8080", f"port = {port}")
    assert str(port) in text
    (folder / "room.toml").write_text(text, encoding="utf-8")
    program = folder / "bin" / "llama-server"
    program.parent.mkdir()
    fake = ROOT / "tests" / "fakes" / "llama_server.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
    program.chmod(0o755)
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"


@pytest.mark.parametrize("arguments", serve_commands())
def test_serving(arguments: list[str], hub_environment: dict[str, str], tmp_path: Path) -> None:
    _before(arguments[1:], hub_environment, tmp_path)
    hub_environment["BROWSER"] = "true"  # --open opens nothing on the machine that runs the tests
    if "room.toml" in arguments:
        _write_room(hub_environment, tmp_path)
    with serving(arguments, hub_environment, tmp_path) as url:
        assert requests.get(f"{url}/health", timeout=10).json() == {"status": "ok", "busy": False}
        if "--ready-file" in arguments:
            assert (
                json.loads((tmp_path / arguments[arguments.index("--ready-file") + 1]).read_text())["url"]
                == url
            )


@pytest.mark.parametrize("script", snippets("bash"))
def test_shell_scripts_against_a_server(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    assert PORT in script
    with with_server(script, environment, tmp_path) as shown:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", shown],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    if '"previews": {' in script:
        assert "event: preview" in done.stdout
        assert "event: complete" in done.stdout
    for name in re.findall(r" -o (\S+)", script):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG") if name.endswith(".png") else data


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    ("call", "page"), [("errors.table", "errors.md"), ("catalogue.page", "catalogue.md")]
)
def test_pages_that_are_made_are_current(call: str, page: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import make_{call.partition('.')[0]}; print(make_{call}(), end='')"],
        cwd=ROOT / "docs", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / page).read_text()
