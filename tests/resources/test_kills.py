"""A manager that is killed anywhere between putting aside and bringing back: the next start makes it good."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from held import Held, HeldServer

MANAGER = Path(__file__).parents[1] / "fakes" / "room_manager.py"
POINTS = (
    "before-journal",
    "after-journal",
    "unload-sent",
    "put-aside",
    "generating",
    "restore-begun",
    "load-sent",
    "entry-goes",
)
NEVER_STOPPED = {"before-journal", "after-journal"}
LIMIT = 30.0


class Manager:
    """A process that recovers, then makes room and stays at a point, or goes on to its end."""

    def __init__(self, home, port, *point):
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(MANAGER), str(home), str(port), *point],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self, word):
        while line := self.process.stdout.readline():
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"it never said {word!r}")

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


def check_recovery(home, server, point, model):
    """What the start after a kill has done: as much as was needed, once."""
    expected = [] if point in NEVER_STOPPED else [f"unload {None}", f"load {model}"]
    assert server.calls[server.calls.index(f"set {model}") + 1 :] == expected, point
    state = asyncio.run(Held(server.port).state())
    assert (state["state"], state["model"]) == ("loaded", model), point
    assert not list((home / "state" / "offloads").glob("*.json")), point


def kill_at_each(home, server, points, chance):
    """Each process brings back what the one before it left, and is killed at a point of its own.

    Returns the longest that a start took, in seconds.
    """
    slowest = 0.0
    before = None
    for number, point in enumerate([*points, None]):
        manager = Manager(home, server.port, *([point] if point else []))
        try:
            manager.said("recovered")
            slowest = max(slowest, time.monotonic() - manager.started)
            if before is not None:
                check_recovery(home, server, *before)
            model = f"model-{number}"
            seconds = {"unload_seconds": chance.uniform(0, 0.1), "load_seconds": chance.uniform(0, 0.5)}
            asyncio.run(Held(server.port).set(model, **seconds))
            manager.go_on()
            manager.said(f"at {point}" if point else "done")
            before = (point, model)
        finally:
            manager.kill()
    check_recovery(home, server, *before)
    return slowest


@pytest.mark.timeout(120)
def test_killed_anywhere_it_is_brought_back_once_by_the_next_start(tmp_path):
    with HeldServer(tmp_path) as server:
        assert kill_at_each(tmp_path, server, POINTS * 2, random.Random(16)) < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_kills(tmp_path):
    chance = random.Random(200)
    points = list(POINTS) * 25
    chance.shuffle(points)
    with HeldServer(tmp_path) as server:
        assert kill_at_each(tmp_path, server, points, chance) < LIMIT
