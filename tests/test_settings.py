"""Folders and wishes, from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from sdmanager.cli import main
from sdmanager.settings import Settings


def test_one_folder_for_everything(tmp_path: Path) -> None:
    settings = Settings.from_environment({"SDMANAGER_HOME": str(tmp_path)})
    folders = (settings.data_dir, settings.cache_dir, settings.state_dir)
    assert folders == (tmp_path / "data", tmp_path / "cache", tmp_path / "state")
    assert settings.downloads_dir.is_relative_to(settings.cache_dir)
    assert settings.generations_dir.is_relative_to(settings.state_dir)
    assert (settings.logs_dir, settings.loras_dir) == (tmp_path / "logs", tmp_path / "data" / "loras")


@pytest.mark.parametrize("value", ["", "0", "no", "true"])
def test_pickles_are_taken_only_where_it_is_said_plainly(tmp_path: Path, value: str) -> None:
    environ = {"SDMANAGER_HOME": str(tmp_path), "SDMANAGER_ALLOW_PICKLE": value}
    assert not Settings.from_environment(environ).allow_pickle


def test_wishes(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {
            "SDMANAGER_HOME": str(tmp_path),
            "SDMANAGER_ENGINE": "~/sd-cli",
            "SDMANAGER_VARIANT": "cpu",
            "SDMANAGER_BINARIES": "/x/binaries.json",
            "SDMANAGER_MIRROR": "https://mirror.example",
            "SDMANAGER_LORAS": "~/loras",
            "SDMANAGER_CATALOG": "~/models.json",
            "SDMANAGER_ALLOW_PICKLE": "1",
        }
    )
    assert (settings.catalog, settings.allow_pickle) == (Path("~/models.json").expanduser(), True)
    assert settings.engine == Path("~/sd-cli").expanduser()
    assert (settings.variant, settings.manifest) == ("cpu", Path("/x/binaries.json"))
    assert settings.mirror == "https://mirror.example"
    assert settings.loras_dir == Path("~/loras").expanduser()


def test_where_the_platform_keeps_logs() -> None:
    assert Settings.from_environment({}).logs_dir == platformdirs.PlatformDirs("sdmanager").user_log_path


def test_what_is_empty_is_not_set(tmp_path: Path) -> None:
    names = ("ENGINE", "VARIANT", "BINARIES", "MIRROR", "LORAS")
    settings = Settings.from_environment(
        {"SDMANAGER_HOME": str(tmp_path)} | {f"SDMANAGER_{name}": "" for name in names}
    )
    assert (settings.engine, settings.variant, settings.manifest, settings.mirror) == (None, None, None, None)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a user who has no home folder, as in a container that was started with a bare number."""
    for name in list(os.environ):
        if name == "HOME" or name.startswith(("XDG_", "SDMANAGER_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("action", [["engine", "list"], ["doctor"], ["generate", "x"]])
def test_a_user_without_a_home_folder_is_told_what_to_set(
    capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    assert main(action) == 50
    assert "Set SDMANAGER_HOME" in capsys.readouterr().err


@pytest.mark.usefixtures("homeless")
def test_with_a_folder_of_its_own_that_user_can_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDMANAGER_HOME", str(tmp_path))
    assert main(["doctor"]) == 0
    assert "Candidates" in capsys.readouterr().out
