"""The real engine, built once and kept in the user's cache folder, and folders of one test's own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engine_home import engine_home

from sdmanager.binaries import EngineBinary, build_engine, find_engine
from sdmanager.errors import EngineNotFoundError
from sdmanager.models import demo_model
from sdmanager.settings import Settings


@pytest.fixture(scope="session")
def engine_data() -> Path:
    """A data folder with an engine built by this package and the demo model; minutes the first time."""
    home = engine_home()
    settings = Settings(home / "data", home / "cache", home / "state")

    async def ensure() -> None:
        try:
            await find_engine(settings)
        except EngineNotFoundError:
            await build_engine(settings, on_progress=lambda p: print(p.phase, p.step, p.total, p.message))

    asyncio.run(ensure())
    demo_model(settings)
    return settings.data_dir


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Empty folders of the test's own, with no engine."""
    return Settings(tmp_path / "data", tmp_path / "cache", tmp_path / "state", stop_grace=1.0)


@pytest.fixture
def settings(home: Settings, engine_data: Path) -> Settings:
    """Folders of the test's own, with the real engine and the demo model."""
    return replace(home, data_dir=engine_data)


@pytest.fixture
async def engine(settings: Settings) -> EngineBinary:
    """The real engine."""
    return await find_engine(settings)


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """Environment for a child process: an empty home folder, with the real engine and the demo model in it."""
    folder = tmp_path / "home"
    (folder / "data").mkdir(parents=True)
    for name in ("engines", "models"):
        (folder / "data" / name).symlink_to(settings.data_dir / name)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SDMANAGER_", "PYTHON", "COLUMNS"))}
    return {**kept, "HOME": str(folder), "SDMANAGER_HOME": str(folder)}


@pytest.fixture
def fake_engine(tmp_path: Path) -> Path:
    """A scripted child that answers -h and --version like the engine and misbehaves as FAKE_ENGINE says."""
    script = tmp_path / "sd-cli"
    source = Path(__file__).parent / "fakes" / "fake_engine.py"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{source}' \"$@\"\n")
    script.chmod(0o755)
    return script
