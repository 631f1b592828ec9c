"""``sdmanager serve --open``: the page in the browser that the user has."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 60.0


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """A program that notes what it is to open, whole or not at all."""
    program = tmp_path / "browser"
    program.write_text('#!/bin/sh\nprintf %s "$1" > "$0.part"\nmv "$0.part" "$0.asked"\n')
    program.chmod(0o755)
    return program


def serve(environment, *arguments, **variables):
    command = [
        sys.executable,
        "-m",
        "sdmanager",
        "serve",
        "--port",
        "auto",
        "--threads",
        "1",
        "--open",
        *arguments,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment | variables, **pipes)


def asked_of(browser: Path) -> str:
    asked = browser.with_name("browser.asked")
    deadline = time.monotonic() + PATIENCE
    while not asked.exists():
        assert time.monotonic() < deadline, "no browser was opened"
        time.sleep(0.02)
    return asked.read_text()


def end(child) -> str:
    """Stop it; what it said on stderr."""
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, stderr
    return stderr


def test_the_page_is_opened_once_the_server_answers(environment, browser):
    with serve(environment, BROWSER=shlex.quote(str(browser))) as child:
        url = re.search(r"http://\S+", child.stdout.readline())[0]
        assert asked_of(browser) == f"{url}/"
        assert "no browser" not in end(child)


def test_the_token_goes_to_the_page_behind_the_hash(environment, browser):
    with serve(environment, "--token", "a&b#c", "--json", BROWSER=shlex.quote(str(browser))) as child:
        url = json.loads(child.stdout.readline())["url"]
        assert asked_of(browser) == f"{url}/#token=a%26b%23c"
        assert "a&b#c" not in end(child)


def test_where_there_is_no_browser_one_line_says_where_the_page_is(environment, tmp_path):
    # No program at all can be found, so neither can one that would open a page.
    variables = {"BROWSER": str(tmp_path / "none"), "PATH": "/nowhere", "DISPLAY": ""}
    with serve(environment, "--token", "s3cret", **variables) as child:
        url = re.search(r"http://\S+", child.stdout.readline())[0]
        lines = []
        for line in child.stderr:
            lines.append(line)
            if "browser" in line:
                break
        assert lines[-1] == f"sdmanager: no browser could be opened. The page is at {url}/\n"
        assert "s3cret" not in "".join(lines) + end(child)
