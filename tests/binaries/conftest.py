"""What the tests of the binaries share: folders, small real executables, and a tiny source distribution."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sdmanager.binaries import pins, source
from sdmanager.binaries._checks import BuildTools
from sdmanager.settings import Settings

HELP = Path(__file__).parents[1] / "data" / "help" / "pypi-0.4.7.txt"

CMAKE = """\
cmake_minimum_required(VERSION 3.12)
project(tiny CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(sd-cli main.cpp other.cpp)
"""
MAIN = """\
#include <cstdio>
#include <cstring>
int main(int argc, char** argv) {
    if (argc > 1 && !strcmp(argv[1], "--version")) return puts("stable-diffusion.cpp version tiny, commit x") < 0;
    puts("Options:\\n  -m, --model <string>  x\\n  -p, --prompt <string>  x\\n  -o, --output <string>  x");
    puts("  --steps <int>  x\\n  --sampling-method  one of [euler, heun]");
    return 0;
}
"""
BACKEND = """\
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "tiny_engine-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny-engine\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*args, **kwargs):
    raise SystemExit("not for building")
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny-engine"
version = "1.0"
"""

FAKE_CMAKE = """\
case "$1" in
  --version) echo 'cmake version 3.30.0' ;;
  -G) for word; do [ "$last" = -B ] && mkdir -p "$word/bin"; last=$word; done ;;
  --build) cd "$2" || exit 1
    {body} ;;
esac
"""
FAKE_ENGINE = f"""\
#!/bin/sh
case "$1" in -h) cat {HELP} ;; *) echo 'stable-diffusion.cpp version x, commit x' ;; esac
"""
FAKE_BUILD = f"""\
printf '[1/2] Building x.o\\n[2/2] Linking bin/sd-cli\\n'
cat > bin/sd-cli <<'END'
{FAKE_ENGINE}END
chmod +x bin/sd-cli"""

Script = Callable[..., Path]
Tiny = Callable[..., pins.Sources]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SDMANAGER_HOME": str(tmp_path / "home")})


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable shell script."""

    def make(body: str, name: str = "sd-cli", folder: Path | None = None) -> Path:
        path = (folder or tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def good_engine(script: Script) -> Path:
    """Answers ``-h`` and ``--version`` as a real engine does, and counts how often it is run."""
    return script(
        f'echo run >> "$0.runs"\n'
        f'case "$1" in -h) cat {HELP} ;;'
        " --version) echo 'stable-diffusion.cpp version master-1-abc, commit abc' ;; esac"
    )


@pytest.fixture(scope="session")
def build_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with cmake and ninja, fetched once where the machine has none."""
    path = os.environ.get("PATH", os.defpath)
    missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
    if not missing:
        return path
    folder = tmp_path_factory.mktemp("tools")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *missing]
    subprocess.run(pip, check=True)
    places = [folder / tool / "data" / "bin" for tool in missing] + [folder / "bin"]
    return os.pathsep.join([*map(str, places), path])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_path: str) -> Tiny:
    """Makes a source distribution that builds in a second, served to pip from a folder, and its pins."""
    links = tmp_path / "links"
    links.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", build_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))

    def make(*, sha256: str | None = None, **changed: str) -> pins.Sources:
        files = {
            "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-engine\nVersion: 1.0\n",
            "backend.py": BACKEND,
            "pyproject.toml": PYPROJECT,
            "vendor/engine/CMakeLists.txt": changed.get("cmake", CMAKE),
            "vendor/engine/main.cpp": changed.get("main", MAIN),
            "vendor/engine/other.cpp": changed.get("other", "int other() { return 0; }\n"),
        }
        archive = links / "tiny_engine-1.0.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"tiny_engine-1.0/{name}")
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        package = pins.SourcePackage(
            name="tiny-engine",
            version="1.0",
            sha256=sha256 or hashlib.sha256(archive.read_bytes()).hexdigest(),
            folder="vendor/engine",
            engine_version=changed.get("engine_version", "tiny-1.0"),
            max_files=100,
            max_bytes=1_000_000,
        )
        recipe = pins.Recipe(options={}, disk_bytes=1_000_000, job_bytes=1_000_000)
        return dataclasses.replace(
            pins.load_sources(),
            package=package,
            build_requirements=(),
            options={},
            variants={"cpu": recipe, "vulkan": recipe},
        )

    return make


@pytest.fixture
def quick(
    tmp_path: Path, tiny: Tiny, script: Script, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pins.Sources]:
    """Sources whose tools are given, whose archive is at hand, and whose build step is a line of shell.

    For tests of what is around pip and the compiler: with them, each would take seconds.
    """

    def make(body: str = FAKE_BUILD, **changed: str) -> pins.Sources:
        sources = tiny(**changed)
        cmake = script(FAKE_CMAKE.format(body=body), "cmake", tmp_path / "fake")
        tools = BuildTools(
            python=Path(sys.executable),
            bundled_pip=None,
            cmake=cmake,
            ninja=script("", "ninja", tmp_path / "fake"),
            options={},
            environment={},
            notes=("fake tools",),
        )

        async def check_tools(*args: object, **kwargs: object) -> BuildTools:
            return tools

        async def fetch_sources(*args: object) -> Path:
            return tmp_path / "links" / "tiny_engine-1.0.tar.gz"

        monkeypatch.setattr(source, "check_tools", check_tools)
        monkeypatch.setattr(source, "fetch_sources", fetch_sources)
        return sources

    return make
