"""The real engine, built and proven once and kept in the user's cache folder, and folders of one test's own."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from demo_hub import fill
from engine_home import engine_home
from hub_server import HubServer, serving_hub
from releases import write_manifest

from sdmanager.binaries import EngineBinary, find_engine
from sdmanager.engine import ensure_binary
from sdmanager.hardware import current_platform
from sdmanager.models import demo_model
from sdmanager.settings import Settings

# The same examples on every run, however slow the machine; HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Tests parse what is nested without end. A collection at the bottom of it runs finalisers of whatever else is around,
# which then fail for want of stack, in a test that has nothing to do with them: so there are few collections.
gc.set_threshold(50_000, 10, 10)

# A shell ignores Ctrl-C for what it starts in the background, and commands heed that: tests send it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def built() -> Settings:
    """Folders with an engine built and proven by this package, and the demo model; minutes the first time.

    The list of engines is one of the tests' own, with the CPU engine from source alone: whatever else this
    machine could use, or fetch, is not what most tests are about.
    """
    home = engine_home()
    home.mkdir(parents=True, exist_ok=True)
    manifest = home / "binaries.json"
    # Several workers do this at once, and one may be reading what another one writes; the build has its own lock.
    written = home / f"binaries.{os.getpid()}.json"
    write_manifest(written, current_platform(), [{"variant": "cpu", "source": True}])
    written.replace(manifest)
    settings = Settings(home / "data", home / "cache", home / "state", manifest=manifest)
    say = lambda p: print(p.phase, p.step, p.total, p.message)  # noqa: E731
    asyncio.run(ensure_binary(settings, on_progress=say))
    return settings


@pytest.fixture(scope="session")
def engine_data(built: Settings) -> Path:
    """The data folder of that engine."""
    return built.data_dir


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Empty folders of the test's own, with no engine."""
    return Settings(tmp_path / "data", tmp_path / "cache", tmp_path / "state", stop_grace=1.0)


@pytest.fixture
def settings(home: Settings, built: Settings) -> Settings:
    """Folders of the test's own, with the real engine, its verdict, and the demo model."""
    _give_verdicts(built, home.state_dir)
    return replace(home, data_dir=built.data_dir, manifest=built.manifest)


@pytest.fixture
async def engine(settings: Settings) -> EngineBinary:
    """The real engine."""
    return await find_engine(settings)


@pytest.fixture
def environment(settings: Settings, built: Settings, tmp_path: Path) -> dict[str, str]:
    """Environment for a child process: an empty home folder, with the real engine and the demo model in it."""
    folder = tmp_path / "home"
    (folder / "data" / "models").mkdir(parents=True)
    (folder / "data" / "engines").symlink_to(settings.engines_dir)
    for made in settings.models_dir.glob("demo-*"):  # models that a test installs are its own
        (folder / "data" / "models" / made.name).symlink_to(made)
    _give_verdicts(built, folder / "state")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SDMANAGER_", "PYTHON", "COLUMNS"))}
    own = {"HOME": str(folder), "SDMANAGER_HOME": str(folder), "SDMANAGER_BINARIES": str(built.manifest)}
    return {**kept, **own}


@pytest.fixture
def demo_hub(built: Settings, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on loopback with the demo model in it, under names of ``demo_hub.NAMES``."""
    with serving_hub() as hub:
        fill(hub, demo_model(built), tmp_path / "catalogue.json")
        yield hub


@pytest.fixture
def hub_environment(environment: dict[str, str], demo_hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """The same for a child process that knows that hub, with an empty cache, and no other."""
    kept = {k: v for k, v in environment.items() if not k.startswith("HF_")}
    own = {
        "HF_ENDPOINT": demo_hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "SDMANAGER_CATALOG": str(tmp_path / "catalogue.json"),
    }
    return {**kept, **own}


def _give_verdicts(built: Settings, state_dir: Path) -> None:
    state_dir.mkdir(parents=True)
    shutil.copy(built.state_dir / "verdicts.json", state_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many bytes."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("needs the mount command")
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def fake_engine(tmp_path: Path) -> Path:
    """A scripted child that answers -h and --version like the engine and misbehaves as FAKE_ENGINE says."""
    script = tmp_path / "sd-cli"
    source = Path(__file__).parent / "fakes" / "fake_engine.py"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{source}' \"$@\"\n")
    script.chmod(0o755)
    return script
