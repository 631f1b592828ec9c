"""What a build needs, checked against machines that are tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sdmanager.binaries._accelerators import vulkan_header_version
from sdmanager.binaries._checks import BuildTools, Platform, older, version_of
from sdmanager.binaries._probe import MachineProbe, this_platform
from sdmanager.binaries.pins import load_sources
from sdmanager.binaries.preflight import check_tools
from sdmanager.errors import BuildToolsMissingError

HEADER = """\
#define VK_HEADER_VERSION {}
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)
"""
VULKAN = Path("/usr/include/vulkan/vulkan_core.h")

GOOD_PROGRAMS = {
    "apt-get": "apt 2.6.1",
    "cc": "cc (Debian 12.2.0-14+deb12u1) 12.2.0",
    "c++": "c++ (Debian 12.2.0-14+deb12u1) 12.2.0",
    "cmake": "cmake version 3.25.1",
    "ninja": "1.11.1",
    "python3": "pip 23.2.1 from /usr/lib/python3 (python 3.11)",
    "nvcc": "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.4, V12.4.131",
    "glslc": "shaderc v2023.2",
    "hipcc": "HIP version: 6.2.41133",
    "hipconfig": "6.2.41133-dd7f95766",
    "xcrun": "xcrun version 70.",
}
GOOD_FILES = {
    VULKAN: HEADER.format(290),
    Path("/opt/rocm/include/hipblas/hipblas.h"): "",
    Path("/opt/rocm/include/rocblas/rocblas.h"): "",
}


@dataclass
class TableProbe:
    """A machine that has the programs and files of its tables."""

    programs: dict[str, str | None] = field(default_factory=lambda: dict(GOOD_PROGRAMS))
    files: dict[Path, str] = field(default_factory=lambda: dict(GOOD_FILES))
    broken: dict[str, str] = field(default_factory=dict)
    free: int | None = 10**12

    def find(self, program: str) -> Path | None:
        name = Path(program).name
        where = Path("/usr/bin", name)
        return where if name in self.programs and program in {name, str(where)} else None

    def read(self, path: Path) -> str | None:
        return self.files.get(path)

    def free_bytes(self, folder: Path) -> int | None:
        return self.free

    async def output(self, argv: Sequence[str | Path]) -> str | None:
        return self.programs.get(Path(argv[0]).name)

    async def compile(self, argv: Sequence[str | Path], suffix: str, program: str) -> str | None:
        return self.broken.get("loader" if "-lvulkan" in argv else Path(argv[0]).name)


async def check(
    variant: str = "cpu",
    *,
    without: Sequence[str] = (),
    programs: dict[str, str | None] | None = None,
    environ: dict[str, str] | None = None,
    system: str = "linux",
    bundled_pip: Path | None = None,
    probe: TableProbe | None = None,
) -> BuildTools:
    probe = probe or TableProbe()
    probe.programs |= programs or {}
    for name in without:
        del probe.programs[name]
    return await check_tools(
        variant,
        probe=probe,
        platform=Platform(system, environ or {}, Path("/usr/bin/python3"), bundled_pip),
        sources=load_sources(),
        folders=[Path("/data")],
    )


async def refused(variant: str = "cpu", **machine: object) -> BuildToolsMissingError:
    with pytest.raises(BuildToolsMissingError) as caught:
        await check(variant, **machine)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("variant", ["cpu", "cuda", "vulkan", "rocm"])
async def test_a_complete_machine_passes(variant: str) -> None:
    tools = await check(variant)
    assert tools.cmake == Path("/usr/bin/cmake")
    assert tools.ninja == Path("/usr/bin/ninja")
    assert tools.bundled_pip is None


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("cpu", ["C compiler", "C++17 compiler", "pip for", "free space"]),
        ("cuda", ["C compiler", "C++17 compiler", "pip for", "free space", "nvcc"]),
        ("vulkan", ["C compiler", "C++17 compiler", "pip for", "free space", "glslc", "headers of Vulkan"]),
        ("rocm", ["C++17 compiler", "pip for", "hipcc", "hipconfig", "hipblas", "rocblas"]),
        ("metal", ["C++17 compiler", "pip for", "free space", "macOS only"]),
    ],
)
async def test_everything_missing_is_named_at_once(variant: str, names: list[str]) -> None:
    error = await refused(variant, probe=TableProbe(programs={}, files={}, free=10**6))
    assert [name for name in names if name not in error.message] == []
    assert error.message.count(".") == error.message.rstrip(".").count(".") + 1
    assert "\n" not in error.message
    assert error.exit_code == 33
    assert len(error.details["missing"]) >= len(names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "without", "message", "package"),
    [
        ("cpu", ["cc"], "a C compiler is missing", "gcc"),
        ("cpu", ["c++"], "a C++17 compiler (g++ 9 or newer, or clang++ 10 or newer) is missing", "g++"),
        ("cpu", ["python3"], "pip for /usr/bin/python3 is missing", "python3-pip"),
        ("cuda", ["nvcc"], "nvcc, the CUDA compiler, is missing", "nvidia-cuda-toolkit"),
        ("vulkan", ["glslc"], "glslc, the compiler of shaders, is missing", "glslc"),
        ("rocm", ["hipcc"], "hipcc of ROCm is missing", "hipcc"),
        ("rocm", ["hipconfig"], "hipconfig of ROCm is missing", "hipcc"),
    ],
)
async def test_one_missing_program(variant: str, without: list[str], message: str, package: str) -> None:
    error = await refused(variant, without=without)
    assert error.message == f"The {variant} engine cannot be built: {message}."
    assert (error.hint or "").startswith(f"Run 'sudo apt-get install {package}'.")


@pytest.mark.parametrize(
    ("variant", "programs", "message"),
    [
        ("cpu", {"c++": "c++ (Debian 8.3.0-6) 8.3.0"}, "c++ 8.3.0 is too old (9 or newer is needed)"),
        ("cpu", {"c++": "Debian clang version 9.0.1"}, "c++ 9.0.1 is too old (10 or newer is needed)"),
        ("cpu", {"cc": "cc (GCC) 4.8.5 20150623 (Red Hat 4.8.5-44)"}, "cc 4.8.5 is too old"),
        (
            "cuda",
            {"nvcc": "Cuda compilation tools, release 11.2, V11.2.1"},
            "nvcc 11.2 is too old (11.7 or newer",
        ),
        ("cuda", {"nvcc": "what?"}, "/usr/bin/nvcc does not tell its version"),
        ("cuda", {"nvcc": None}, "/usr/bin/nvcc does not tell its version"),
        ("rocm", {"hipconfig": "5.7.31921"}, "HIP 5.7.31921 is too old (6.1 or newer is needed)"),
    ],
)
async def test_a_program_that_is_too_old(variant: str, programs: dict[str, str | None], message: str) -> None:
    assert message in (await refused(variant, programs=programs)).message


async def test_a_compiler_that_does_not_work() -> None:
    error = await refused(probe=TableProbe(broken={"c++": "fatal error: filesystem: No such file"}))
    assert "c++ cannot build a small C++17 program (fatal error: filesystem: No such file)" in error.message


async def test_cuda_whose_compiler_is_refused() -> None:
    error = await refused("cuda", probe=TableProbe(broken={"nvcc": "unsupported GNU version!"}))
    assert "nvcc 12.4 cannot build a small program with cuBLAS (unsupported GNU version!)" in error.message
    assert "CUDAHOSTCXX" in (error.hint or "")


async def test_headers_of_vulkan_that_are_too_old() -> None:
    error = await refused("vulkan", probe=TableProbe(files={VULKAN: HEADER.format(239)}))
    assert "(1.3.239; 1.3.268 or newer is needed for VK_EXT_layer_settings)" in error.message
    assert "VULKAN_SDK" in (error.hint or "")


async def test_a_loader_of_vulkan_that_is_missing() -> None:
    error = await refused("vulkan", probe=TableProbe(broken={"loader": "cannot find -lvulkan"}))
    assert "Vulkan loader (cannot find -lvulkan)" in error.message


async def test_the_sdk_of_vulkan_comes_first() -> None:
    probe = TableProbe()
    probe.files[VULKAN] = HEADER.format(239)
    probe.files[Path("/sdk/include/vulkan/vulkan_core.h")] = HEADER.format(296)
    tools = await check("vulkan", probe=probe, environ={"VULKAN_SDK": "/sdk"})
    assert tools.options["Vulkan_INCLUDE_DIR"] == "/sdk/include"


async def test_the_nvcc_that_was_checked_is_the_one_that_builds() -> None:
    assert (await check("cuda")).environment["CUDACXX"] == "/usr/bin/nvcc"


@pytest.mark.parametrize("tool", ["cmake", "ninja"])
@pytest.mark.parametrize("version", [None, "", "1.0", "0.9.9"])
async def test_cmake_and_ninja_are_fetched_at_need(tool: str, version: str | None) -> None:
    assert getattr(await check(programs={tool: version}), tool) is None
    assert getattr(await check(without=[tool]), tool) is None


async def test_a_compiler_that_the_user_named_is_used() -> None:
    tools = await check(programs={"g++-13": "g++-13 (GCC) 13.2.0"}, environ={"CXX": "/usr/bin/g++-13 -m64"})
    assert "g++-13 13.2.0" in tools.notes
    error = await refused(environ={"CXX": "/opt/none/g++"})
    assert "(CXX=/opt/none/g++ is not there)" in error.message


async def test_an_interpreter_without_pip_uses_the_one_it_carries() -> None:
    wheel = Path("/usr/lib/python3/ensurepip/_bundled/pip-24.0-py3-none-any.whl")
    assert (await check(without=["python3"], bundled_pip=wheel)).bundled_pip == wheel
    assert (await check(bundled_pip=wheel)).bundled_pip is None


async def test_too_little_space() -> None:
    error = await refused(probe=TableProbe(free=200_000_000))
    assert "0.7 GB of free space in /data is needed and 0.2 GB is there" in error.message
    await check(probe=TableProbe(free=None))


async def test_other_systems_get_a_general_hint() -> None:
    error = await refused(without=["apt-get", "c++"])
    assert error.hint == "Install what your system has for Debian's g++."


async def test_metal_needs_macos() -> None:
    await check("metal", system="darwin")
    assert "xcrun is missing" in (await refused("metal", system="darwin", without=["xcrun"])).message


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("g++ (Ubuntu 9.4.0-1ubuntu1~20.04.2) 9.4.0", "9.4.0"),
        ("g++ (SUSE Linux) 13.2.1 20230912 [revision b96e66fd4ef3e36983969fb8cdd1956f551a074b]", "13.2.1"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "15.0.0"),
        ("cmake version 4.1.0-rc2", "4.1.0"),
        ("1.11.1.git.kitware.jobserver-1", "1.11.1"),
        ("", None),
        (None, None),
        ("no digits", None),
    ],
)
def test_versions_are_read(text: str | None, version: str | None) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("3.9", "3.21", True),
        ("3.21", "3.21", False),
        ("3.21.0", "3.21", False),
        ("10", "9", False),
        ("1.3.9", "1.3.268", True),
        ("2.0", "1.3.268", False),
    ],
)
def test_versions_compare_by_number(version: str, minimum: str, expected: bool) -> None:
    assert older(version, minimum) is expected


def test_versions_of_vulkan_headers() -> None:
    assert vulkan_header_version(HEADER.format(268)) == "1.3.268"
    old = "#define VK_HEADER_VERSION 131\n#define VK_HEADER_VERSION_COMPLETE VK_MAKE_VERSION(1, 2, VK_HEADER_VERSION)\n"
    assert vulkan_header_version(old) == "1.2.131"
    assert vulkan_header_version("") is None


async def test_the_real_probe_reads_this_machine(tmp_path: Path) -> None:
    probe = MachineProbe(dict(os.environ))
    assert probe.find("sh") is not None
    assert probe.find("no-such-program-here") is None
    assert probe.read(tmp_path / "nothing") is None
    assert (probe.free_bytes(tmp_path / "not" / "yet" / "there") or 0) > 0
    assert await probe.output(["sh", "-c", "echo hello"]) == "hello\n"
    assert await probe.output(["sh", "-c", "exit 1"]) is None
    assert await probe.output(["no-such-program-here"]) is None
    assert await probe.compile(["no-such-program-here"], ".c", "") == "it cannot be run"
    assert this_platform({}).python is not None


async def test_the_real_probe_tells_why_a_program_does_not_compile() -> None:
    probe = MachineProbe(dict(os.environ))
    if probe.find("c++") is None:
        pytest.skip("no C++ compiler")
    assert await probe.compile(["c++"], ".cpp", "int main() {}") is None
    reason = await probe.compile(["c++"], ".cpp", "#include <no/such/header>\nint main() {}")
    assert reason is not None
    assert "no/such/header" in reason
    assert await probe.compile(["c++", "-lno-such-library"], ".cpp", "int main() {}") is not None
