"""Fake servers of language models, each a process of its own, and what they noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FAKES = Path(__file__).parents[1] / "fakes"


@dataclass(frozen=True)
class FakeServer:
    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calls(self, call: str) -> list[dict[str, object]]:
        """What was noted of this kind, in order."""
        if not self.log.exists():
            return []
        noted = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [each for each in noted if each["call"] == call]

    def models(self, call: str) -> list[object]:
        """Whose calls of this kind were noted."""
        return [each["model"] for each in self.calls(call)]

    def ask(self, method: str, path: str, body: object = None) -> object:
        """As another program of the user's would; blocking."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else text

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def serving(
    script: str, log: Path, *arguments: object, port: int = 0, **environ: str
) -> Iterator[FakeServer]:
    """A server of ``tests/fakes`` that listens."""
    words = [each if isinstance(each, str) else json.dumps(each) for each in arguments]
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(FAKES / script), str(port), str(log), *words],
        stdout=subprocess.PIPE,
        env={**os.environ, **environ},
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield FakeServer(process, int(process.stdout.readline()), log)
        finally:
            process.kill()
