from __future__ import annotations

import contextlib
import gc
import hashlib
import random
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted_server import File

from sdmanager.download import Patience, download

FILE_SIZE = 300_001
PART = re.compile(r"\..+\.[0-9a-f]{16}\.(download|json)")


@pytest.fixture(autouse=True)
def plain_network(monkeypatch):
    """No proxy, netrc or authorities of the user's own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)


def _open_sockets_and_locks():
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:") or name.partition(" ")[0].endswith((".lock", ".download")):
                found.add(name)
    return found


def _threads():
    return {thread for thread in threading.enumerate() if thread.name == "sdmanager-download"}


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """Every test must end without a thread, a socket or an open part of its own."""
    before = _open_sockets_and_locks() if sys.platform == "linux" else set()
    yield
    if sys.platform != "linux":
        return
    deadline = time.monotonic() + 15
    while (_threads() or _open_sockets_and_locks() - before) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not _threads()
    assert not _open_sockets_and_locks() - before


@pytest.fixture
def file():
    return File(random.Random(1).randbytes(FILE_SIZE))


@pytest.fixture
def quick():
    """Patience that does not make tests wait, and yet is not at an end on a busy machine."""
    return Patience(connect=5, read=20, first_pause=0.001, longest_pause=0.002)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "files" / "file.bin"


@pytest.fixture
def fetch(file, target, quick):
    """Downloads the file, whose digest and size are known unless said otherwise."""

    def fetch(url, **options):
        defaults = {"sha256": hashlib.sha256(file.data).hexdigest(), "size": len(file.data)}
        return download(url, options.pop("to", target), **(defaults | {"patience": quick} | options))

    return fetch


@pytest.fixture
def remains(target):
    """The names of what lies beside the target, which may be nothing but whole parts."""

    def remains():
        names = {path.name for path in target.parent.iterdir()} - {target.name}
        assert all(PART.fullmatch(name) for name in names), names
        return sorted(name.rpartition(".")[2] for name in names)

    return remains
