"""Machines that are not here: folders in the place of /, and a library in the place of NVIDIA's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sdmanager.hardware._machine import Machine
from sdmanager.hardware._tree import Tree


class Files:
    """A folder in the place of /, filled by a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Tree(root)
        self.write("/proc/sys/kernel/osrelease", "6.1.0-38-amd64\n")
        self.write("/proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\n")
        self.write("/etc/os-release", 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
        flags = "flags\t\t: fpu avx avx2\n"
        self.write(
            "/proc/cpuinfo", "".join(f"processor\t: {n}\nmodel name\t: A CPU\n{flags}\n" for n in (0, 1))
        )

    def write(self, path: str, content: str | bytes = "") -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    def card(self, address, vendor, device, driver=None, kind="0x030000", **files) -> None:
        """A PCI device; more of its files by name, and for a driver the link that binds it."""
        folder = f"/sys/bus/pci/devices/{address}"
        for name, value in {"class": kind, "vendor": vendor, "device": device, **files}.items():
            self.write(f"{folder}/{name}", value if isinstance(value, bytes) else f"{value}\n")
        if driver:
            (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{folder}/driver", f"../../drivers/{driver}")

    def nvidia(self, address="0000:01:00.0", driver="nvidia") -> None:
        """An NVIDIA card, and what its kernel module shows."""
        self.card(address, "0x10de", "0x2684", driver)
        if driver == "nvidia":
            self.write("/sys/module/nvidia/version", "580.65.06\n")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path / "root")


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory):
    """The folder with a libnvidia-ml.so.1 that does what FAKE_NVML says."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    command = [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def bindings():
    """The folder with the real pynvml."""
    return Path(importlib.util.find_spec("pynvml").origin).parent


@pytest.fixture
def machine(files, fake_library, bindings, tmp_path):
    """A machine with the fake library, which behaves as the words say."""

    def machine(words="", *, python=Path(sys.executable), with_bindings=True, guard=None):
        environ = {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.defpath}",
            "LD_LIBRARY_PATH": str(fake_library),
            "FAKE_NVML": words,
            "FAKE_NVML_PID": str(tmp_path / "pid"),
            "FAKE_NVML_USE": str(tmp_path / "use"),
        }
        return Machine(files.tree, environ, python, bindings if with_bindings else None, guard)

    return machine


@pytest.fixture
def machine_with_nvidia(files, machine):
    """The same with a card."""
    files.nvidia()
    return machine


@pytest.fixture
def nvidia_smi(tmp_path):
    """Puts an nvidia-smi into the PATH of the machine."""

    def nvidia_smi(script):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return nvidia_smi


@pytest.fixture
def believe():
    """Fails where a snapshot holds something that no machine has, or something of its probe is left."""

    def believe(snapshot):
        for gpu in snapshot.gpus:
            assert gpu.total_vram is None or 0 < gpu.total_vram <= 16 << 40
            assert gpu.free_vram is None or 0 <= gpu.free_vram <= gpu.total_vram
            assert all(text is None or text.isprintable() for text in (gpu.name, gpu.driver))
            assert len(gpu.name or "") <= 120
        assert snapshot.ram_total is None or snapshot.ram_total > 0
        assert snapshot.ram_available is None or 0 <= snapshot.ram_available <= snapshot.ram_total
        for problem in snapshot.problems:
            assert problem.isprintable()
            assert not problem.endswith(".")
            assert str(Path.home()) not in problem
        assert json.loads(json.dumps(snapshot.to_json())) == snapshot.to_json()
        assert not psutil.Process().children(recursive=True)

    return believe
