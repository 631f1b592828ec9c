"""What the recipes of docs/ say, taken out of the pages, and a command ``sdmanager`` for them to start."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from processes import PATIENCE, all_gone, draws, wait_for

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def blocks() -> Callable[[str, str], list[str]]:
    """The fenced blocks of a page in one language."""

    def of(page: str, language: str) -> list[str]:
        return re.findall(
            rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S
        )

    return of


@pytest.fixture
def home_with_command(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment in whose PATH ``sdmanager`` stands; it writes its process id into ``pid`` beside it."""
    command = tmp_path / "bin" / "sdmanager"
    command.parent.mkdir()
    command.write_text(
        f"#!/bin/sh\nenv > '{tmp_path}/bin/environment'\necho $$ > '{tmp_path}/bin/pid'\n"
        f"exec '{sys.executable}' -m sdmanager \"$@\" --threads 1\n"
    )
    command.chmod(0o755)
    return {**environment, "PATH": f"{command.parent}:{environment['PATH']}"}


@pytest.fixture
def server_process(tmp_path: Path) -> Callable[[], list[psutil.Process]]:
    """The server that was started by that command, and all below it."""

    def family() -> list[psutil.Process]:
        server = psutil.Process(int((tmp_path / "bin" / "pid").read_text()))
        return [server, *server.children(recursive=True)]

    return family


@pytest.fixture
def dies_with(server_process: Callable[[], list[psutil.Process]]) -> Callable[[subprocess.Popen[str]], None]:
    """Kills a program once the engine draws for it, and sees that the server and its engine end, too."""

    def check(program: subprocess.Popen[str]) -> None:
        wait_for(lambda: draws(server_process()))
        family = server_process()
        program.kill()
        assert all_gone(family, PATIENCE)

    return check


@contextlib.contextmanager
def running(
    arguments: list[object], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A program that says something on stdout, for the length of a block."""
    streams = {"text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=folder, env=environment, **streams) as program:
        try:
            yield program
        finally:
            program.kill()


@pytest.fixture
def run(tmp_path: Path) -> Callable:
    """Runs programs in a folder of the test's own: ``with run(arguments, environment) as program``."""
    return lambda arguments, environment, folder=tmp_path: running(arguments, folder, environment)
