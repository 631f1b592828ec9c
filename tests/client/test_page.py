"""The code of docs/client.md, run as it stands against a server of another process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def run(code: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pictures_of_a_server(server, environment: dict[str, str], tmp_path: Path) -> None:
    url = server.client.info()["url"]
    drawing, following, _ = (code.replace("http://127.0.0.1:8081", url) for code in BLOCKS)
    assert "step 2: " in run(drawing, environment, tmp_path)
    assert run(following, environment, tmp_path).endswith("complete\n")
    for name in ("lighthouse.png", "dog.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_server_of_ones_own(environment: dict[str, str], tmp_path: Path) -> None:
    command = tmp_path / "bin" / "sdmanager"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m sdmanager \"$@\"\n")
    command.chmod(0o755)
    path = {**environment, "PATH": f"{command.parent}:{environment['PATH']}"}
    assert "http://127.0.0.1:" in run(BLOCKS[2], path, tmp_path)
