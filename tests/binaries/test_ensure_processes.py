"""Several processes ensure an engine at once, and are killed at any moment."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from releases import ReleaseHost, pack, release_host, write_manifest

from sdmanager.binaries import list_installed
from sdmanager.binaries.marks import as_installed, take_marks
from sdmanager.hardware import current_platform
from sdmanager.settings import Settings

HELP = Path(__file__).parents[1] / "data" / "help" / "pypi-0.4.7.txt"
CHILD = Path(__file__).parents[1] / "fakes" / "ensure_engine.py"
SCRIPT = f"""#!/bin/sh
case "$1" in -h) cat {HELP} ;; *) echo 'stable-diffusion.cpp version x, commit x' ;; esac
""".encode()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ReleaseHost]:
    with release_host(tmp_path / "host") as running:
        yield running


def offer(host: ReleaseHost, tag: str) -> dict[str, object]:
    library = random.Random(tag).randbytes(8_000_000)
    archive = pack(host, f"{tag}.zip", {"sd-cli": SCRIPT, "libx.so": library})
    return {"variant": "cpu", "archive": archive}


def start(settings: Settings) -> subprocess.Popen[str]:
    argv = [sys.executable, str(CHILD), str(settings.data_dir.parent), str(settings.manifest)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen[str]) -> Path:
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    return Path(out.splitlines()[-1])


@pytest.mark.parametrize(
    "rounds", [pytest.param(2, id="2"), pytest.param(30, id="30", marks=pytest.mark.slow)]
)
def test_four_processes_at_once_fetch_it_once(tmp_path: Path, host: ReleaseHost, rounds: int) -> None:
    manifest = write_manifest(
        tmp_path / "m.json", current_platform(), [offer(host, "master-1-1")], tag="master-1-1"
    )
    for number in range(rounds):
        home = tmp_path / str(number)
        settings = Settings(home / "data", home / "cache", home / "state", manifest=manifest)
        host.requests.clear()
        children = [start(settings) for _ in range(4)]
        assert {finish(child) for child in children} == {settings.engines_dir / "cpu-master-1-1" / "sd-cli"}
        assert host.requests == ["/master-1-1.zip"]


@pytest.mark.parametrize(
    "kills", [pytest.param(6, id="6"), pytest.param(100, id="100", marks=pytest.mark.slow)]
)
def test_a_kill_at_any_moment_leaves_an_engine_that_works(
    tmp_path: Path, host: ReleaseHost, kills: int
) -> None:
    home = tmp_path / "home"
    manifest = tmp_path / "m.json"
    settings = Settings(home / "data", home / "cache", home / "state", manifest=manifest)
    offers = {tag: offer(host, tag) for tag in ("master-1-1", "master-2-2")}
    write_manifest(manifest, current_platform(), [offers["master-1-1"]], tag="master-1-1")
    began = time.monotonic()
    first = finish(start(settings))
    whole = time.monotonic() - began
    rng = random.Random(7)
    outcomes = set()
    for number in range(kills):
        # Each time another version is wanted than the one that is there.
        tag = ("master-2-2", "master-1-1")[number % 2]
        write_manifest(manifest, current_platform(), [offers[tag]], tag=tag)
        for engine in list_installed(settings):
            if engine.version == tag:
                for path in engine.path.parent.iterdir():
                    path.unlink()
                engine.path.parent.rmdir()
        with start(settings) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, whole))
            child.kill()
        installed = list_installed(settings)
        assert installed, "the engine that worked before is gone"
        for engine in installed:
            assert as_installed(engine, take_marks(engine))
            assert os.access(engine.path, os.X_OK)
        outcomes.add(len(installed))
        assert finish(start(settings)) == settings.engines_dir / f"cpu-{tag}" / "sd-cli"
        assert not list(settings.engines_dir.glob(".staging-*"))
    assert first.exists()
    assert 1 in outcomes, "no kill came before the end"
