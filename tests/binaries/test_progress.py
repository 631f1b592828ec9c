"""Reading what the tools of a build print."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.binaries import EngineProgress
from sdmanager.binaries._jobs import available_memory, available_processors, jobs
from sdmanager.binaries.progress import LineReader, compile_step, first_error, ran_out_of_memory

TEXT = b"[1/57] Building CXX object a.o\n[2/57] Building CXX object b.o\r\nwarning: x\n\n[57/57] Linking bin/sd-cli\n"


def steps(*chunks: bytes) -> list[tuple[int, int]]:
    reader = LineReader()
    lines = [line for chunk in chunks for line in reader.feed(chunk)] + reader.close()
    return [(found.step, found.total) for line in lines if (found := compile_step(line))]


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_progress_does_not_depend_on_the_chunks(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[start:end] for start, end in itertools.pairwise(edges)]
    assert steps(*chunks) == [(1, 57), (2, 57), (57, 57)]


def test_a_step_is_told_in_the_tools_words() -> None:
    assert compile_step("[3/57] Building CXX object x.o") == EngineProgress(
        "compiling", 3, 57, "Building CXX object x.o"
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[3/57",
        "3/57] x",
        "x [3/57] y",
        "[a/b] c",
        "[0/2] Re-checking globbed directories...",
        "[1/2] Re-running CMake...",
    ],
)
def test_what_is_no_step(line: str) -> None:
    assert compile_step(line) is None


def test_escape_codes_are_dropped() -> None:
    assert LineReader().feed(b"\x1b[31m[1/2]\x1b[0m x\n") == ["[1/2] x"]


def test_a_line_without_end_is_bounded() -> None:
    reader = LineReader()
    lines = [line for _ in range(100) for line in reader.feed(b"x" * 4096)]
    assert max(map(len, lines)) < 200_000
    assert sum(map(len, lines + reader.close())) == 409_600


def test_bytes_that_are_no_text() -> None:
    assert LineReader().feed(b"\xff\xfe\n") == ["\ufffd\ufffd"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["ok", "a.cpp:3:1: error: 'x' was not declared", "b.cpp:1: error: later"],
            "a.cpp:3:1: error: 'x' was not declared",
        ),
        (
            ["[9/57] Building CXX object error: handler.cpp.o", "m.cpp:1:10: fatal error: a.h: No such file"],
            "m.cpp:1:10: fatal error: a.h: No such file",
        ),
        (
            ["/usr/bin/ld: x.o: undefined reference to `f()'"],
            "/usr/bin/ld: x.o: undefined reference to `f()'",
        ),
        (
            ["-Werror -Wall -o error.o", "nvcc fatal   : Unsupported gpu architecture 'compute_120a'"],
            "nvcc fatal   : Unsupported gpu architecture 'compute_120a'",
        ),
        (
            [
                "CMake Error at CMakeLists.txt:3 (message):",
                "  Vulkan is missing",
                "",
                "",
                "-- Configuring incomplete",
            ],
            "CMake Error at CMakeLists.txt:3 (message): Vulkan is missing -- Configuring incomplete",
        ),
        (
            ["x.s: Fatal error: can't write 8 bytes: No space left on device"],
            "x.s: Fatal error: can't write 8 bytes: No space left on device",
        ),
        (
            ["a.cpp(3): error C2065: 'x': undeclared identifier"],
            "a.cpp(3): error C2065: 'x': undeclared identifier",
        ),
        (["all is well", "errors: none"], None),
        ([], None),
    ],
)
def test_the_first_error_is_found(lines: list[str], expected: str | None) -> None:
    assert first_error(lines) == expected


def test_a_killed_compiler_is_told_apart() -> None:
    assert ran_out_of_memory(["g++: fatal error: Killed signal terminated program cc1plus"])
    assert ran_out_of_memory(["x", "cc1plus: out of memory allocating 65536 bytes"])
    assert not ran_out_of_memory(["a.cpp:1: error: no", "Skilled"])


@pytest.mark.parametrize(
    ("processors", "memory", "job", "expected"),
    [
        (2, 16e9, 1e9, 2),
        (16, 4.5e9, 1e9, 4),
        (8, 1e8, 1e9, 1),
        (1.5, 8e9, 1e9, 2),
        (0.2, 8e9, 1e9, 1),
        (4, 0, 1e9, 1),
    ],
)
def test_jobs_fit_processors_and_memory(processors: float, memory: float, job: float, expected: int) -> None:
    assert jobs(processors, int(memory), int(job)) == expected


def test_limits_of_a_container_count(tmp_path: Path) -> None:
    assert available_processors(tmp_path) >= 1
    assert available_memory(tmp_path) > 0
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_processors(tmp_path) == 0.5
    assert available_memory(tmp_path) == 2000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_processors(tmp_path) >= 1
    assert available_memory(tmp_path) > 2000
