"""The recorded output of the engine in tests/data/transcripts, and the events that it means."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

from sdmanager.engine import output as out
from sdmanager.engine.parser import OutputParser

FOLDER = Path(__file__).parents[1] / "data" / "transcripts"
BUILDS = ("pypi-0.4.7", "master-97d2990")
SCENARIOS = [f"{build}/{path.stem}" for build in BUILDS for path in sorted((FOLDER / build).glob("*.events"))]


@cache
def stream(scenario: str, name: str) -> bytes:
    return (FOLDER / f"{scenario}.{name}").read_bytes()


@cache
def run_of(scenario: str) -> dict[str, object]:
    return json.loads((FOLDER / f"{scenario}.json").read_text(encoding="utf-8"))


def expected_events(scenario: str) -> list[object]:
    """The hand-written events of a scenario."""
    lines = (FOLDER / f"{scenario}.events").read_text(encoding="utf-8").splitlines()
    return [_event(line) for line in lines if line.strip() and not line.startswith("#")]


def _event(line: str) -> object:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call), line
    assert isinstance(call.func, ast.Name), line
    values = {word.arg: _value(word.value) for word in call.keywords}
    return getattr(out, call.func.id)(**values)


def _value(node: ast.expr) -> object:
    return out.LogLevel(node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def parse(stdout: bytes, stderr: bytes = b"", *, steps: int | None = None, prompt: str = "") -> list[object]:
    """All events of both streams, each in one piece."""
    parser = OutputParser(steps, prompt)
    return [*parser.feed("stdout", stdout), *parser.feed("stderr", stderr), *parser.close()]


def parse_recorded(scenario: str) -> list[object]:
    return parse(stream(scenario, "stdout"), stream(scenario, "stderr"))
