"""The part of the preflight that differs between variants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ._checks import older, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._checks import Findings, Platform, ToolProbe

_CUDA_PROGRAM = """\
#include <cublas_v2.h>
#include <cuda_runtime.h>
__global__ void nothing() {}
int main() { cublasHandle_t handle; nothing<<<1, 1>>>(); return cublasCreate(&handle) == 0 ? 0 : 1; }
"""
_VULKAN_PROGRAM = """\
#include <vulkan/vulkan.hpp>
int main() { return vk::enumerateInstanceVersion() == 0; }
"""
_VULKAN_SDK = "Or unpack the Vulkan SDK of LunarG and set VULKAN_SDK to its folder."


async def check_accelerator(
    variant: str, findings: Findings, probe: ToolProbe, platform: Platform, minimum: Mapping[str, str]
) -> None:
    """Check what a variant needs besides what every build needs."""
    match variant:
        case "cuda":
            await _check_cuda(findings, probe, platform, minimum["nvcc"])
        case "vulkan":
            await _check_vulkan(findings, probe, platform, minimum["vulkan-headers"])
        case "rocm":
            await _check_rocm(findings, probe, platform, minimum["hip"])
        case "metal":
            _check_metal(findings, probe, platform)
        case _:
            return


async def _check_cuda(findings: Findings, probe: ToolProbe, platform: Platform, minimum: str) -> None:
    env = platform.environ
    toolkits = [Path(env[name], "bin", "nvcc") for name in ("CUDA_PATH", "CUDA_HOME") if env.get(name)]
    candidates = [env.get("CUDACXX") or "nvcc", *map(str, toolkits), "/usr/local/cuda/bin/nvcc"]
    nvcc = next((found for name in candidates if (found := probe.find(name))), None)
    if nvcc is None:
        advice = "If the CUDA toolkit is installed, set CUDACXX to its nvcc."
        findings.miss("nvcc, the CUDA compiler, is missing", "nvidia-cuda-toolkit", advice=advice)
        return
    match = re.search(r"release (\d+\.\d+)", await probe.output([nvcc, "--version"]) or "")
    version = match[1] if match else None
    if version is None:
        findings.miss(f"{nvcc} does not tell its version", advice="Install the CUDA toolkit again.")
    elif older(version, minimum):
        advice = f"Install CUDA toolkit {minimum} or newer."
        findings.miss(f"nvcc {version} is too old ({minimum} or newer is needed)", advice=advice)
    elif reason := await probe.compile([nvcc, "-std=c++17", "-lcublas"], ".cu", _CUDA_PROGRAM):
        findings.miss(
            f"nvcc {version} cannot build a small program with cuBLAS ({reason})",
            advice="Install cuBLAS of the same toolkit, and set CUDAHOSTCXX to a C++ compiler that it accepts.",
        )
    else:
        findings.notes.append(f"nvcc {version}")
        # CMake looks in fewer places than were looked at here.
        findings.environment["CUDACXX"] = str(nvcc)


async def _check_vulkan(findings: Findings, probe: ToolProbe, platform: Platform, minimum: str) -> None:
    sdk = Path(platform.environ["VULKAN_SDK"]) if platform.environ.get("VULKAN_SDK") else None
    in_sdk = probe.find(str(sdk / "bin" / "glslc")) if sdk else None
    glslc = in_sdk or probe.find("glslc")
    if glslc is None:
        findings.miss("glslc, the compiler of shaders, is missing", "glslc", advice=_VULKAN_SDK)
    else:
        findings.options["Vulkan_GLSLC_EXECUTABLE"] = str(glslc)
    folders = [sdk / "include"] if sdk else []
    if listed := (await probe.output(["pkg-config", "--variable=includedir", "vulkan"]) or "").strip():
        folders.append(Path(listed))
    folders += [Path("/usr/local/include"), Path("/usr/include")]
    for folder in folders:
        if header := probe.read(folder / "vulkan" / "vulkan_core.h"):
            break
    else:
        findings.miss("the headers of Vulkan are missing", "libvulkan-dev", advice=_VULKAN_SDK)
        return
    version = vulkan_header_version(header)
    if version is None or older(version, minimum):
        findings.miss(
            f"the headers of Vulkan in {folder} are too old"
            f" ({version or 'version unknown'}; {minimum} or newer is needed for VK_EXT_layer_settings)",
            advice="Take libvulkan-dev of Debian 13 or newer, or set VULKAN_SDK to LunarG's SDK.",
        )
        return
    findings.options["Vulkan_INCLUDE_DIR"] = str(folder)
    findings.notes.append(f"Vulkan headers {version}")
    compiler = probe.find("c++") or probe.find("g++") or probe.find("clang++")
    if compiler is not None:
        search = [f"-L{sdk / 'lib'}"] if sdk else []
        flags = ["-std=c++17", f"-I{folder}", *search, "-lvulkan"]
        if reason := await probe.compile([compiler, *flags], ".cpp", _VULKAN_PROGRAM):
            findings.miss(f"no program can be linked with the Vulkan loader ({reason})", "libvulkan-dev")


def vulkan_header_version(header: str) -> str | None:
    """The version in a ``vulkan_core.h``, such as ``1.3.239``."""
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", header)
    whole = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_\w*VERSION\(([^)]*)\)", header)
    if patch is None or whole is None:
        return None
    # Either (variant, major, minor, patch) or, in older headers, (major, minor, patch).
    numbers = [part.strip() for part in whole[1].split(",")][-3:-1]
    return ".".join([*numbers, patch[1]])


async def _check_rocm(findings: Findings, probe: ToolProbe, platform: Platform, minimum: str) -> None:
    root = Path(platform.environ.get("ROCM_PATH") or "/opt/rocm")
    tools: dict[str, Path] = {}
    for name in ("hipcc", "hipconfig"):
        found = probe.find(name) or probe.find(str(root / "bin" / name))
        if found is None:
            findings.miss(f"{name} of ROCm is missing", "hipcc")
        else:
            tools[name] = found
    for library in ("hipblas", "rocblas"):
        headers = [base / "include" / library / f"{library}.h" for base in (root, Path("/usr"))]
        if all(probe.read(header) is None for header in headers):
            findings.miss(f"the headers of {library} are missing", f"lib{library}-dev")
    if "hipconfig" not in tools:
        return
    version = version_of(await probe.output([tools["hipconfig"], "--version"]))
    if version is None or older(version, minimum):
        advice = f"Install ROCm {minimum} or newer."
        found_version = version or "of unknown version"
        findings.miss(f"HIP {found_version} is too old ({minimum} or newer is needed)", advice=advice)
        return
    findings.notes.append(f"HIP {version}")
    clang = (await probe.output([tools["hipconfig"], "-l"]) or "").strip()
    home = (await probe.output([tools["hipconfig"], "-R"]) or "").strip()
    if clang and (compiler := probe.find(str(Path(clang, "clang")))):
        findings.environment["HIPCXX"] = str(compiler)
    if home:
        findings.environment["HIP_PATH"] = home


def _check_metal(findings: Findings, probe: ToolProbe, platform: Platform) -> None:
    if platform.system != "darwin":
        findings.miss("Metal is there on macOS only", advice="Build another variant, such as cpu.")
    elif probe.find("xcrun") is None:
        findings.miss("xcrun is missing", advice="Run 'xcode-select --install'.")
