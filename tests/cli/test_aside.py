"""``sdmanager aside`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sdmanager.resources.journal import Entry, Journal

SINCE = 1_790_000_000  # 2026-09-21 14:13:20 UTC


@pytest.fixture
def journal(environment: dict[str, str]) -> Journal:
    return Journal(Path(environment["HOME"]) / "state" / "offloads")


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmanager", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def leave_two(journal: Journal) -> None:
    """One of a process that runs, and one of a process that is gone."""
    journal.write(Entry("ollama", "chat:1b", {}, None, SINCE, attempts=2))
    journal.write(Entry("mine", "a \x1b[31mmodel", {}, journal.owner, SINCE + 60))


def test_where_nothing_is_aside_it_says_so_and_writes_nothing(
    environment: dict[str, str], journal: Journal
) -> None:
    for arguments, told in (((), "Nothing is put aside."), (("--forget",), "There is nothing to forget.")):
        done = run(environment, "aside", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{told}\n", "")
    assert json.loads(run(environment, "aside", "--json").stdout) == {"aside": []}
    assert not (Path(environment["HOME"]) / "state" / "offloads").exists()


def test_it_lists_what_is_aside_and_by_whom(environment: dict[str, str], journal: Journal) -> None:
    leave_two(journal)
    done = run(environment, "aside")
    assert (done.returncode, done.stderr) == (0, "")
    first, why, second, hint = done.stdout.splitlines()
    assert first == (
        "ollama (chat:1b): since 2026-09-21 14:13 UTC, by an earlier run, which is gone, "
        "2 attempts to bring it back"
    )
    assert why.startswith("  ollama ")
    assert second == ("mine (a \\x1b[31mmodel): since 2026-09-21 14:14 UTC, by a process that is running")
    assert "sdmanager aside --forget" in hint
    left, running = json.loads(run(environment, "aside", "--json").stdout)["aside"]
    assert (left["name"], left["what"], left["since"], left["attempts"], left["leftOver"]) == (
        "ollama", "chat:1b", "2026-09-21T14:13:20+00:00", 2, True,
    )  # fmt: skip
    assert (running["name"], running["error"], running["leftOver"]) == ("mine", None, False)


def test_forgetting_leaves_what_somebody_brings_back(environment: dict[str, str], journal: Journal) -> None:
    leave_two(journal)
    done = run(environment, "aside", "--forget", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["forgotten"] == ["ollama"]
    assert [each["name"] for each in facts["aside"]] == ["mine"]
    assert [entry.name for entry in journal.entries()] == ["mine"]
    journal.write(Entry("ollama", "chat:1b", {}, None, SINCE))
    told = run(environment, "aside", "--forget").stdout.splitlines()
    assert told[0] == "Forgotten: ollama."
    assert told[1].startswith("mine (")
    assert len(told) == 2
