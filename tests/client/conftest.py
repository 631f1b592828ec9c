"""Servers of other processes, as an application starts them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import PATIENCE, Parent

from sdmanager.client import Client


@dataclass
class Process(Parent):
    """``sdmanager serve`` and a client of it."""

    child: subprocess.Popen[str]
    client: Client
    stderr: Path


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts servers: ``serve("--queue", "2", token=…)``; what still runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, token: str | None = None, **options) -> Process:
            name = f"server-{time.monotonic_ns()}"
            ready, stderr = tmp_path / f"{name}.json", tmp_path / f"{name}.log"
            env = {**environment, **({} if token is None else {"SDMANAGER_TOKEN": token})}
            argv = [sys.executable, "-m", "sdmanager", "serve", "--threads", "1", "--port", "auto"]
            argv += ["--ready-file", str(ready), *arguments]
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
            with stderr.open("w") as file:
                child = stack.enter_context(
                    subprocess.Popen(argv, env=env, stderr=file, text=True, **streams)
                )
            stack.callback(child.kill)
            client = Client.from_ready_file(
                ready, token=token, wait=PATIENCE, while_running=lambda: child.poll() is None
            )
            stack.callback(client.close)
            return Process(child, client, stderr)

        yield start


@pytest.fixture
def server(serve: Callable[..., Process]) -> Process:
    """One that draws, with room for two to wait."""
    return serve("--queue", "2")
