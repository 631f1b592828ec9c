"""Programs of others, fetched from their registries once and kept in the user's cache folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def need(program: str) -> None:
    """Fail where a program is missing: left out, these tests would say that all clients work."""
    if shutil.which(program) is None:
        pytest.fail(f"{program} is missing. Install Node.js 18 or newer with npm, or run without -m clients.")


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is there whole or not at all; made where it is not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdmanager-tests" / "clients"
    folder = cache / name
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        try:
            make(fresh)
            fresh.rename(folder)
        except OSError:
            if not folder.exists():  # else another one was quicker
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def node_sdk() -> Callable[[str], Path]:
    """Gives a folder with a version of the Node SDK in it."""
    need("node")
    need("npm")

    def make(version: str) -> Path:
        def install(folder: Path) -> None:
            (folder / "package.json").write_text('{"private": true, "type": "module"}')
            command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", f"openai@{version}"]
            subprocess.run(command, cwd=folder, check=True, timeout=280)

        return kept(f"openai-node-{version}", install)

    return make


@pytest.fixture(scope="session")
def python_sdk() -> Callable[[str], Path]:
    """Gives a folder with a version of the Python SDK in it, for ``PYTHONPATH``."""
    if importlib.util.find_spec("pip") is None:
        pytest.fail("pip is missing in this environment. Install it with: python -m ensurepip")

    def make(version: str) -> Path:
        def install(folder: Path) -> None:
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(folder)]
            subprocess.run([*command, f"openai=={version}"], check=True, timeout=280)

        return kept(f"openai-python-{version}-{sys.version_info[0]}.{sys.version_info[1]}", install)

    return make


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which judges whether a page is for everybody."""
    need("npm")

    def install(folder: Path) -> None:
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "axe-core@4.10.3"]
        (folder / "package.json").write_text('{"private": true}')
        subprocess.run(command, cwd=folder, check=True, timeout=280)

    folder = kept("axe-core-4.10.3", install)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
