"""A real server that is killed while it draws: what it told of is in the gallery, whole, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gallery import pictures, rows, whole

GENERATIONS = "/v1/images/generations"
READY = re.compile(r"sdmanager is ready at (http://\S+)\n")


@contextlib.contextmanager
def a_server(folder: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """With a gallery there."""
    argv = [sys.executable, "-m", "sdmanager", "serve", "--port", "auto", "--threads", "1", "--queue", "5"]
    with subprocess.Popen(
        [*argv, "--gallery", str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child, next(found[1] for line in child.stdout if (found := READY.fullmatch(line)))
        finally:
            child.kill()


def draw_until_it_dies(url: str, count: int, until: int, reached: threading.Event) -> set[str]:
    """Ask for pictures, and for how they stand: ids of generations that were seen to be complete.

    Sets the event when there are so many of them.
    """
    complete: set[str] = set()
    fields = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2, "count": count, "previews": {}}
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        pending = [session.post(url + GENERATIONS, json=fields, timeout=30).json()["id"] for _ in range(5)]
        while pending:
            if len(complete) == until:
                reached.set()
            body = session.get(f"{url}{GENERATIONS}/{pending[0]}", timeout=30).json()
            assert body["status"] in {"pending", "in_progress", "complete"}
            if body["status"] == "complete":
                complete.add(pending.pop(0))
    reached.set()
    return complete


async def killed_once(folder: Path, environment: dict[str, str], chance: random.Random, opened) -> int:
    before = set(rows(folder)) if folder.exists() else set()
    reached, count, until = threading.Event(), chance.randint(1, 3), chance.randint(0, 3)
    with a_server(folder, environment) as (child, url):
        told = asyncio.create_task(asyncio.to_thread(draw_until_it_dies, url, count, until, reached))
        assert await asyncio.to_thread(reached.wait, 120)
        await asyncio.to_thread(time.sleep, chance.uniform(0, 0.5))  # into the next one
        child.kill()
        complete = await told
    history = await opened(folder)
    found = {
        name: folder / path for name, path in rows(folder, "id, path FROM images WHERE completed_at > 0")
    }
    assert {(name,) for name in found} == set(rows(folder))
    promised = {f"{name}-{index}" for name in complete for index in range(count)}
    assert promised | {name for (name,) in before} <= found.keys()
    assert all(whole(path.read_bytes()) for path in found.values())
    assert pictures(folder) == set(found.values())
    await history.aclose()
    return len(found)


async def test_a_server_that_is_killed_loses_no_image(
    tmp_path: Path, environment: dict[str, str], opened
) -> None:
    chance, kept = random.Random(8), 0
    for _ in range(3):
        kept = await killed_once(tmp_path / "gallery", environment, chance, opened)
    assert kept > 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_server_that_is_killed_again_and_again_loses_no_image(
    tmp_path: Path, environment: dict[str, str], opened
) -> None:
    chance, kept = random.Random(100), 0
    for _ in range(25):
        kept = await killed_once(tmp_path / "gallery", environment, chance, opened)
    assert kept > 25
