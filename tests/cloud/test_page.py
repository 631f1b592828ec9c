"""The snippets of docs/hosted.md, run as they stand, with the hub and its providers on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from inference_server import inference_server

PAGE = (Path(__file__).parents[2] / "docs" / "hosted.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    assert found
    return found


@pytest.mark.parametrize("language", ["py", "shell"])
def test_snippets(language: str, environment: dict[str, str], tmp_path: Path) -> None:
    with inference_server() as service:
        service.providers = {"fal-ai": "text-to-image"}
        led = {**environment, **service.environment(tmp_path / "hf")}
        for snippet in snippets(language):
            program = f"sdmanager() {{ '{sys.executable}' -m sdmanager \"$@\"; }}\n"
            command = (
                [sys.executable, "-c", snippet] if language == "py" else ["bash", "-euc", program + snippet]
            )
            done = subprocess.run(command, env=led, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
            assert done.stdout
        assert [
            asked.json["num_inference_steps"] for asked in service.drawings() if "num_" in asked.body.decode()
        ] == ([2] if language == "py" else [])
        assert len(service.drawings()) == (1 if language == "py" else 2)
