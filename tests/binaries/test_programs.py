"""Which compilers are found, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmanager.binaries import programs_in_path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "kit" / "bin"
    folder.mkdir(parents=True)
    for name in ("nvcc", "hipcc", "glslc", "c++"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_in_path(tools: Path) -> None:
    assert {"nvcc", "hipcc", "glslc", "c++"} <= programs_in_path({"PATH": str(tools)})


def test_nothing_in_an_empty_path(tmp_path: Path) -> None:
    assert not programs_in_path({"PATH": str(tmp_path)}) & {"glslc", "c++", "g++", "xcrun"}


@pytest.mark.parametrize(
    ("variable", "below", "program"),
    [
        ("CUDACXX", "bin/nvcc", "nvcc"),
        ("CUDA_PATH", "", "nvcc"),
        ("CUDA_HOME", "", "nvcc"),
        ("ROCM_PATH", "", "hipcc"),
        ("VULKAN_SDK", "", "glslc"),
        ("CXX", "bin/c++", "c++"),
    ],
)
def test_where_a_variable_says(tools: Path, tmp_path: Path, variable: str, below: str, program: str) -> None:
    place = tools.parent / below if below else tools.parent
    assert program in programs_in_path({"PATH": str(tmp_path), variable: str(place)})


def test_a_compiler_with_options_in_its_variable(tools: Path, tmp_path: Path) -> None:
    assert "c++" in programs_in_path({"PATH": str(tmp_path), "CXX": f"{tools}/c++ -O2"})


def test_a_file_that_cannot_be_executed_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "glslc").write_text("")
    assert "glslc" not in programs_in_path({"PATH": str(tmp_path)})
