"""The demo model: made once, always the same, whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from safetensors import safe_open

from sdmanager.errors import StorageError
from sdmanager.models import Role, demo_model, resolve_model
from sdmanager.models.demo import demo_paths
from sdmanager.settings import Settings

LAYOUT = json.loads(resources.files("sdmanager.models").joinpath("demo_tensors.json").read_bytes())["files"]


def settings_in(folder: Path) -> Settings:
    return Settings(folder / "data", folder / "cache", folder / "state")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A demo model that the tests here only read."""
    return demo_paths(tmp_path_factory.mktemp("models"))


def contents(paths: dict[str, Path]) -> dict[str, bytes]:
    return {role: path.read_bytes() for role, path in paths.items()}


def stamps(paths: dict[str, Path]) -> dict[str, int]:
    return {role: path.stat().st_mtime_ns for role, path in paths.items()}


def test_three_files_of_28_megabytes(made):
    assert set(made) == {"diffusion_model", "llm", "tae"}
    assert 27e6 < sum(path.stat().st_size for path in made.values()) < 29e6


def test_every_tensor_of_the_list_has_its_shape(made):
    for role, path in made.items():
        with safe_open(path, "numpy") as file:
            assert set(file.keys()) == set(LAYOUT[role])
            for name, (dtype, shape) in LAYOUT[role].items():
                part = file.get_slice(name)
                assert (part.get_dtype(), part.get_shape()) == (dtype, shape)


def test_weights_are_usable_numbers(made):
    import numpy as np

    with safe_open(made["tae"], "numpy") as file:
        biases = {name: file.get_tensor(name) for name in file.keys() if name.endswith(".bias")}  # noqa: SIM118
    raised = [name for name, bias in biases.items() if bias.any()]
    assert len(raised) == 1
    assert raised[0].startswith("decoder.")
    assert np.all(biases[raised[0]] == 0.5)
    with safe_open(made["diffusion_model"], "numpy") as file:
        for name in file.keys():  # noqa: SIM118
            weights = file.get_tensor(name).astype(np.float32)
            assert np.isfinite(weights).all(), name
            if weights.ndim > 1:
                assert 0.8 < weights.std() * np.sqrt(np.prod(weights.shape[1:])) < 1.2, name


def test_another_one_is_the_same_byte_by_byte(made, tmp_path):
    assert contents(demo_paths(tmp_path)) == contents(made)
    assert [entry.name for entry in tmp_path.iterdir()] == [made["llm"].parent.name]


def test_it_is_made_once(made):
    before = stamps(made)
    assert demo_paths(made["llm"].parent.parent) == made
    assert stamps(made) == before


@pytest.fixture
def small(monkeypatch):
    """A list of few small tensors, where only the files matter."""
    from sdmanager.models import demo

    files = {role: {"decoder.1.weight": ["F32", [4, 4]]} for role in LAYOUT}
    monkeypatch.setattr(
        demo.json, "loads", lambda data: {"files": files} if b"files" in data else _loads(data)
    )


_loads = json.loads


@pytest.mark.parametrize(
    "damage", ["cut", "gone", "longer", "no sizes", "odd sizes", "empty folder", "a file"]
)
def test_a_damaged_one_is_made_again(tmp_path, small, damage):
    paths = demo_paths(tmp_path)
    good, folder = contents(paths), paths["llm"].parent
    if damage == "cut":
        paths["llm"].write_bytes(good["llm"][:-1])
    elif damage == "gone":
        paths["tae"].unlink()
    elif damage == "longer":
        paths["tae"].write_bytes(good["tae"] + b"x")
    elif damage == "no sizes":
        (folder / "sizes.json").unlink()
    elif damage == "odd sizes":
        (folder / "sizes.json").write_text('{"llm": "x"}')
    else:
        for entry in folder.iterdir():
            entry.unlink()
        if damage == "a file":
            folder.rmdir()
            folder.write_text("in the way")
    if damage == "a file":
        with pytest.raises(StorageError):
            demo_paths(tmp_path)
        return
    assert contents(demo_paths(tmp_path)) == good
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_one_that_another_process_made_meanwhile_is_kept(tmp_path, small, monkeypatch):
    """It was removed and replaced, perhaps while that process's engine was reading it."""
    from sdmanager.models import demo

    first = demo_paths(tmp_path)
    inodes = {role: path.stat().st_ino for role, path in first.items()}
    demo._make(first["llm"].parent)
    assert {role: path.stat().st_ino for role, path in first.items()} == inodes
    assert [entry.name for entry in tmp_path.iterdir()] == [first["llm"].parent.name]


MAKE = """
import sys
from pathlib import Path
from sdmanager.models.demo import demo_paths
print("ready", flush=True)
sys.stdin.readline()
print(sum(path.stat().st_size for path in demo_paths(Path(sys.argv[1])).values()))
"""


def test_two_processes_at_once(tmp_path, made):
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("go\n")
        maker.stdin.flush()
    sizes = [int(maker.communicate(timeout=60)[0]) for maker in makers]
    assert sizes == [sum(path.stat().st_size for path in made.values())] * 2
    assert contents(demo_paths(tmp_path)) == contents(made)
    assert [entry.name for entry in tmp_path.iterdir()] == [made["llm"].parent.name]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="demo model cannot be written") as caught:
        demo_paths(tmp_path / "file" / "models")
    assert str(tmp_path) not in str(caught.value)
    assert "SDMANAGER_HOME" in caught.value.hint


def test_a_full_disk_leaves_nothing(tmp_path, small, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left on device"):
        demo_paths(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, "demo"])
def test_the_model_that_is_used_without_a_name(tmp_path, small, name):
    model = resolve_model(name, settings_in(tmp_path))
    assert model == demo_model(settings_in(tmp_path))
    assert (model.name, set(model.files)) == ("demo", {Role.DIFFUSION_MODEL, Role.LLM, Role.TAE})
    assert all(path.is_absolute() and os.path.getsize(path) for path in model.files.values())
    assert not model.has_own_decoder
    assert model.defaults.as_fields() == {"steps": 12, "cfg_scale": 1.0, "width": 256, "height": 256}
