import asyncio
import contextlib
import gc
import os
import secrets
import sys
import time
from pathlib import Path

import psutil
import pytest

FAKES = Path(__file__).parent.parent / "fakes"
ROOT = Path(__file__).parent.parent.parent


def _open_files():
    files = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            files[entry.name] = str(entry.readlink())
    return files


@pytest.fixture(autouse=True)
def nothing_left_behind(token):
    """Every test of this package must end without an open file, a zombie or a process of its own."""
    before = {*_open_files().items(), *_zombies()}
    yield
    deadline = time.monotonic() + 5
    while _left(before, token) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not _left(before, token)


def _left(before, token):
    files = [item for item in set(_open_files().items()) - before if "/" not in item[1] or "pidfd" in item[1]]
    return files + list(_zombies() - before) + _living(token)


def _zombies():
    return {child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


@pytest.fixture
def token():
    """Marks the processes of one test, in their arguments."""
    return f"token-{secrets.token_hex(8)}"


@pytest.fixture
def fake(token):
    """The argument list of a child in the given mode."""

    def fake(mode, *arguments, mark=token):
        return [sys.executable, "-I", "-S", str(FAKES / "process_child.py"), mode, *arguments, mark]

    return fake


@pytest.fixture
def living():
    """The processes, zombies apart, whose arguments hold a token."""
    return _living


def _living(token):
    mark, found = token.encode(), []
    for pid in psutil.pids():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            if mark in arguments and pid != os.getpid():
                process = psutil.Process(pid)
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


@pytest.fixture
def seconds_until_gone(living):
    """How long the processes of a token went on; fails after thirty seconds."""

    def seconds_until_gone(token):
        start = time.monotonic()
        while left := living(token):
            assert time.monotonic() < start + 30, left
            time.sleep(0.002)
        return time.monotonic() - start

    return seconds_until_gone


class Output:
    """Collects a stream and lets a test wait for a text in it."""

    def __init__(self):
        self.received = bytearray()
        self._more = asyncio.Event()

    def __call__(self, chunk):
        self.received += chunk
        self._more.set()

    async def until(self, text, count=1):
        async with asyncio.timeout(10):
            while self.received.count(text) < count:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def output():
    return Output()


@pytest.fixture
def new_output():
    return Output
