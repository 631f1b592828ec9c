"""Getting the build's tools and the pinned sources through the user's own pip, index and certificates."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING

from sdmanager.errors import DownloadError
from sdmanager.threads import in_thread

from .inspection import file_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._checks import BuildTools
    from ._steps import Steps
    from .pins import SourcePackage, Sources

# The user's pip may be told to install for the user only, or to refuse work outside a virtual environment:
# right for their packages, fatal for a private folder of tools.
PIP_ENVIRONMENT = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_REQUIRE_HASHES": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_USER": "0",
}

_UNREACHABLE = (
    "connection broken", "NewConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError",
    "Max retries exceeded", "Name or service not known", "name resolution", "Network is unreachable",
)  # fmt: skip


async def fetch_tools(steps: Steps, tools: BuildTools, sources: Sources, staging: Path) -> Path:
    """Install what the build needs from the index into a private folder, and make the steps find it.

    Returns:
        The folder.

    Raises:
        DownloadError: The index cannot be reached, or does not have it.
    """
    folder = staging / "tools"
    python_path = [folder]
    if tools.bundled_pip is not None:
        python_path.append(staging / "pip")
        await in_thread(_unzip, tools.bundled_pip, python_path[-1])
    # An absolute path: with a relative one pip does not find the build backend.
    steps.environ["PYTHONPATH"] = os.pathsep.join(map(str, python_path))
    missing = [name for name, found in (("cmake", tools.cmake), ("ninja", tools.ninja)) if found is None]
    wanted = [*sources.build_requirements, *(sources.tool_requirements[name] for name in missing)]
    if wanted:
        done = await steps.run([tools.python, "-m", "pip", "install", "--target", folder, *wanted])
        if not done.ok:
            raise _download_error(f"the build tools ({', '.join(wanted)})", done.lines)
    return folder


async def fetch_sources(steps: Steps, tools: BuildTools, package: SourcePackage, staging: Path) -> Path:
    """Download the pinned source distribution.

    Returns:
        The archive; its digest is the pinned one.

    Raises:
        DownloadError: The index cannot be reached, does not have it, or has something else under its name.
    """
    folder = staging / "sdist"
    requirements = staging / "requirements.txt"
    pinned = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    await in_thread(requirements.write_text, pinned, "utf-8")
    done = await steps.run(
        [
            *(tools.python, "-m", "pip", "download", "--no-deps", "--no-build-isolation"),
            *("--no-binary", ":all:", "--require-hashes", "-r", requirements, "-d", folder),
        ]
    )
    what = f"{package.name} {package.version}"
    if not done.ok:
        raise _download_error(what, done.lines)
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise DownloadError(f"The package index gave {len(archives)} files for {what}, not one.")
    if await in_thread(file_sha256, archives[0]) != package.sha256:
        raise _mismatch(what)
    return archives[0]


def find_tool(name: str, in_path: Path | None, tools: Path) -> Path | None:
    """The tool in PATH, or where its package from the index puts the program itself."""
    fetched = (tools / name / "data" / "bin" / name, tools / "bin" / name)
    return in_path or next((path for path in fetched if path.is_file()), None)


def _unzip(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)


def _mismatch(what: str) -> DownloadError:
    return DownloadError(
        f"The package index gave a file for {what} that is not the pinned one.",
        hint="Nothing of it was used. Run the command again; if pip uses a mirror, ask its owner.",
        details={"reason": "mismatch"},
    )


def _download_error(what: str, lines: Sequence[str]) -> DownloadError:
    text = "\n".join(lines)
    if "DO NOT MATCH THE HASHES" in text:
        return _mismatch(what)
    if any(sign in text for sign in _UNREACHABLE):
        return DownloadError(
            f"pip cannot reach the package index to get {what}.", details={"reason": "unreachable"}
        )
    if "No matching distribution" in text:
        return DownloadError(
            f"pip found no {what} on the package index that it uses.",
            hint="Check the connection, and the index in pip's configuration ('pip config list').",
            details={"reason": "not found"},
        )
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR: ")]
    return DownloadError(
        f"pip could not get {what}: {errors[0][:300] if errors else 'it gave no reason'}.",
        hint="Run the same with pip by hand to see why.",
        details={"reason": "pip"},
    )
