"""``sdmanager engine`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmanager", "engine", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_path_list_and_test(environment: dict[str, str]) -> None:
    path = run(environment, "path")
    assert path.returncode == 0
    assert Path(path.stdout.strip()).name == "sd-cli"
    listed = run(environment, "list")
    assert path.stdout.strip() in listed.stdout
    assert listed.stdout.startswith("cpu")
    tested = run(environment, "test")
    assert tested.returncode == 0
    assert "64x64" in tested.stdout
    assert "whole" in tested.stdout


def test_json(environment: dict[str, str]) -> None:
    path = json.loads(run(environment, "path", "--json").stdout)
    assert path["variant"] == "cpu"
    assert len(path["sha256"]) == 64
    assert json.loads(run(environment, "list", "--json").stdout) == {"engines": [path]}
    tested = json.loads(run(environment, "test", "--json").stdout)
    assert tested["ok"] is True
    assert tested["engine"] == path
    assert tested["proof"]["seconds"] > 0


def test_what_is_there_already_is_not_built_again(environment: dict[str, str]) -> None:
    built = run(environment, "build")
    assert built.returncode == 0
    assert built.stdout == run(environment, "path").stdout


def test_an_empty_home(environment: dict[str, str], tmp_path: Path) -> None:
    empty = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty")}
    listed = run(empty, "list")
    assert listed.returncode == 0
    assert "engine build" in listed.stdout
    path = run(empty, "path")
    assert path.returncode == 31
    assert "engine build" in path.stderr
    assert path.stdout == ""


def test_missing_tools_are_named_before_anything_is_fetched(
    environment: dict[str, str], tmp_path: Path
) -> None:
    bare = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty"), "PATH": str(tmp_path)}
    for variant, tool in (("cpu", "compiler"), ("cuda", "nvcc"), ("vulkan", "glslc")):
        built = run(bare, "build", "--variant", variant)
        assert built.returncode == 33
        assert tool in built.stderr
        assert "Traceback" not in built.stderr
