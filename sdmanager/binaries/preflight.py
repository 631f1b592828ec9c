"""Is everything there that a build needs? Decided before it starts, from what a probe finds. No I/O here."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from sdmanager.errors import BuildToolsMissingError

from ._accelerators import check_accelerator
from ._checks import BuildTools, Findings, older, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ._checks import Platform, Shortcoming, ToolProbe
    from .pins import Sources

CXX_PROGRAM = """\
#include <filesystem>
#include <string>
template <typename T> int size(T t) { if constexpr (sizeof(T) > 1) return sizeof t; else return 1; }
int main() { return std::filesystem::path(std::string("/")).is_absolute() ? 0 : size(1); }
"""
C_PROGRAM = '#include <stdio.h>\nint main(void) { return puts("") == EOF; }\n'


async def check_tools(
    variant: str, *, probe: ToolProbe, platform: Platform, sources: Sources, folders: Sequence[Path]
) -> BuildTools:
    """Find every tool that a build needs.

    Args:
        variant: What to build for.
        probe: Looks at the machine.
        platform: What is known of it already.
        sources: Minimum versions and sizes.
        folders: Where the build writes.

    Raises:
        BuildToolsMissingError: Names everything that is missing or too old, and how to get it.
    """
    findings = Findings()
    await _check_compilers(findings, probe, platform, sources.minimum)
    bundled_pip = await _check_pip(findings, probe, platform)
    cmake = await _find_recent("cmake", probe, sources.minimum, findings)
    ninja = await _find_recent("ninja", probe, sources.minimum, findings)
    _check_space(findings, probe, folders, sources.recipe(variant).disk_bytes)
    await check_accelerator(variant, findings, probe, platform, sources.minimum)
    if findings.shortcomings or platform.python is None:
        raise _missing(variant, findings.shortcomings, debian=probe.find("apt-get") is not None)
    return BuildTools(
        python=platform.python,
        bundled_pip=bundled_pip,
        cmake=cmake,
        ninja=ninja,
        options=findings.options,
        environment=findings.environment,
        notes=tuple(findings.notes),
    )


async def _check_compilers(
    findings: Findings, probe: ToolProbe, platform: Platform, minimum: Mapping[str, str]
) -> None:
    oldest = f"g++ {minimum['gcc']} or newer, or clang++ {minimum['clang']} or newer"
    for language, variable, names, suffix, program, flags, package in (
        ("C", "CC", ("cc", "gcc", "clang"), ".c", C_PROGRAM, (), "gcc"),
        ("C++17", "CXX", ("c++", "g++", "clang++"), ".cpp", CXX_PROGRAM, ("-std=c++17",), "g++"),
    ):
        named = shlex.split(platform.environ.get(variable, ""))
        found = next((path for name in (named[:1] or names) if (path := probe.find(name))), None)
        if found is None:
            where = f" ({variable}={named[0]} is not there)" if named else ""
            kind = f"a {language} compiler" + (f" ({oldest})" if language != "C" else "")
            findings.miss(f"{kind} is missing{where}", package)
            continue
        text = await probe.output([found, *named[1:], "--version"])
        version = version_of(text)
        needed = minimum["clang" if "clang" in (text or "").lower() else "gcc"]
        if version and older(version, needed):
            findings.miss(f"{found.name} {version} is too old ({needed} or newer is needed)", package)
        elif reason := await probe.compile([found, *named[1:], *flags], suffix, program):
            findings.miss(f"{found.name} cannot build a small {language} program ({reason})", package)
        else:
            findings.notes.append(f"{found.name} {version or '(version unknown)'}")


async def _check_pip(findings: Findings, probe: ToolProbe, platform: Platform) -> Path | None:
    if platform.python is None:
        findings.miss("the path of the Python interpreter is unknown", advice="Run sdmanager with python3.")
    elif await probe.output([platform.python, "-m", "pip", "--version"]) is None:
        if platform.bundled_pip is None:
            findings.miss(
                f"pip for {platform.python} is missing",
                "python3-pip",
                advice="In a virtual environment made by uv, run 'uv pip install pip' instead.",
            )
        return platform.bundled_pip
    return None


async def _find_recent(
    tool: str, probe: ToolProbe, minimum: Mapping[str, str], findings: Findings
) -> Path | None:
    """The tool in PATH if it is new enough; otherwise it will be fetched, which is nothing to complain of."""
    found = probe.find(tool)
    version = version_of(await probe.output([found, "--version"])) if found else None
    if found is None or version is None or older(version, minimum[tool]):
        findings.notes.append(f"{tool} from the package index")
        return None
    findings.notes.append(f"{tool} {version}")
    return found


def _check_space(findings: Findings, probe: ToolProbe, folders: Sequence[Path], needed: int) -> None:
    for folder in folders:
        free = probe.free_bytes(folder)
        if free is not None and free < needed:
            findings.miss(
                f"{needed / 1e9:.1f} GB of free space in {folder} is needed and {free / 1e9:.1f} GB is there",
                advice="Free some space, or set SDMANAGER_HOME to a folder on another disk.",
            )


def _missing(variant: str, shortcomings: Sequence[Shortcoming], *, debian: bool) -> BuildToolsMissingError:
    packages = list(dict.fromkeys(name for item in shortcomings for name in item.packages))
    hints = [f"Run 'sudo apt-get install {' '.join(packages)}'."] if packages and debian else []
    if packages and not debian:
        hints.append(f"Install what your system has for Debian's {', '.join(packages)}.")
    hints += dict.fromkeys(item.advice for item in shortcomings if item.advice)
    return BuildToolsMissingError(
        f"The {variant} engine cannot be built: {'; '.join(item.what for item in shortcomings)}.",
        hint=" ".join(hints) or None,
        details={"variant": variant, "missing": [item.what for item in shortcomings], "packages": packages},
    )
