"""``serve --stop-with-stdin``: a server that ends with its parent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from processes import PATIENCE, all_gone, draws, wait_for

COMMAND = [
    sys.executable,
    "-m",
    "sdmanager",
    "serve",
    "--port",
    "auto",
    "--threads",
    "1",
    "--stop-with-stdin",
]
LONG = {"prompt": "a cat", "width": 512, "height": 512, "steps": 1000}


@contextlib.contextmanager
def started(environment: dict[str, str], **options) -> Iterator[subprocess.Popen[str]]:
    streams = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        **options,
    }
    with subprocess.Popen(COMMAND, env=environment, **streams) as child:
        try:
            yield child
        finally:
            child.kill()


def draw_long(line: str) -> None:
    url = re.fullmatch(r"sdmanager is ready at (http://\S+)\n", line)[1]
    headers = {"Content-Type": "application/json"}
    body = json.dumps(LONG).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/images/generations", body, headers), timeout=PATIENCE
    )


def drawing_below(pid: int) -> list[psutil.Process]:
    """The process and all below it, once the engine draws."""
    server = psutil.Process(pid)
    wait_for(lambda: draws(server.children(recursive=True)))
    return [server, *server.children(recursive=True)]


def test_it_cancels_what_it_draws_and_ends_well_when_stdin_ends(environment: dict[str, str]) -> None:
    with started(environment) as server:
        draw_long(server.stdout.readline())
        family = drawing_below(server.pid)
        server.stdin.write("what comes before is thrown away\n")
        server.stdin.flush()
        assert server.poll() is None
        _, said = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0
    assert "Stopping…\n" in said
    assert " cancelled after " in said
    assert all_gone(family)


def test_it_ends_with_a_parent_that_is_killed(environment: dict[str, str]) -> None:
    code = (
        "import subprocess, sys\n"
        f"server = subprocess.Popen({COMMAND!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "print(server.pid, flush=True)\n"
        "print(server.stdout.readline(), end='', flush=True)\n"
        "server.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        draw_long(parent.stdout.readline())
        family = drawing_below(pid)
        parent.kill()
        assert all_gone(family, PATIENCE)


def test_a_pipe_that_does_not_block_is_waited_on(environment: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # of the pipe's end, so for the server, too
    with open(writing, "wb", buffering=0) as ours, started(environment, stdin=reading) as server:
        os.close(reading)
        draw_long(server.stdout.readline())
        family = drawing_below(server.pid)
        ours.write(b"what comes before is thrown away")
        assert server.poll() is None
        ours.close()
        assert server.wait(PATIENCE) == 0
    assert all_gone(family)


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_one_that_is_not_ready_yet_ends_as_with_ctrl_c(environment: dict[str, str], stdin: int) -> None:
    with started(environment, stdin=stdin) as server:
        said, noted = server.communicate(timeout=PATIENCE)
    assert (server.returncode, said) == (130, "")
    assert "Traceback" not in noted


def test_without_the_option_the_end_of_stdin_means_nothing(environment: dict[str, str]) -> None:
    command = [part for part in COMMAND if part != "--stop-with-stdin"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as server:
        draw_long(server.stdout.readline())
        drawing_below(server.pid)
        assert server.poll() is None
        server.terminate()
        assert server.wait(PATIENCE) == 0
