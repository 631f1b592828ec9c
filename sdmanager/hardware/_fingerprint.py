"""What decides whether an engine works here, as one digest: it changes when a card, a driver or the like does.

Everything in it must read the same after a restart of the machine, and nothing in it may ask a driver.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._linux import cpu_flags
from ._linux_gpus import driver_version, nvidia_driver
from ._pci import display_devices
from ._system import current_platform, glibc_version
from ._tree import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
)
_LIBRARIES = ("libvulkan.so.1", "libcuda.so.1")
_LIBRARY_FOLDERS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/wsl/lib",
    *(f"{top}/{machine}-linux-gnu" for top in ("/lib", "/usr/lib") for machine in ("x86_64", "aarch64")),
    "/run/opengl-driver/lib",
)  # fmt: skip
_VULKAN_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")
_DEVICE_NODES = re.compile(r"renderD\d+|kfd|dxg|nvidia\d+")
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")


def hardware_fingerprint() -> str:
    """A digest of what decides whether an engine works here: cards, drivers, libraries, processor.

    Only small files are read: no driver is asked and nothing is run. The digest stays the same while none of
    these changes, also when the machine restarts.

    Returns:
        64 hex digits.
    """
    return fingerprint_of(facts_of(Tree(), os.environ, _home()))


def fingerprint_of(facts: Mapping[str, object]) -> str:
    """The digest of facts, whatever the order of their names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def facts_of(tree: Tree, environ: Mapping[str, str], home: Path | None) -> dict[str, object]:
    """What goes into the digest.

    Args:
        tree: The files of the machine.
        environ: The variables that engines see.
        home: The user's folder, below `tree`'s root or not.
    """
    facts: dict[str, object] = {
        "platform": current_platform(),
        "glibc": glibc_version(),
        "variables": {name: environ[name] for name in _VARIABLES if name in environ},
    }
    if sys.platform == "win32":
        from ._windows import driver_facts
        from ._windows_registry import SystemRegistry

        return facts | {"drivers": driver_facts(SystemRegistry())}
    if sys.platform == "darwin":
        from ._macos import sysctl, system_facts

        return facts | {"system": system_facts(sysctl)}
    return facts | _linux_facts(tree, environ, home)


def _linux_facts(tree: Tree, environ: Mapping[str, str], home: Path | None) -> dict[str, object]:
    displays = display_devices(tree)
    drivers = sorted({card.bound for card in displays if card.bound and not card.is_virtual})
    return {
        # By what they are and not by where: addresses may change when any other card is put in.
        "cards": sorted([card.vendor or 0, card.device or 0, card.bound or ""] for card in displays),
        "drivers": [[name, driver_version(tree, name)] for name in drivers],
        "nvidia": nvidia_driver(tree),
        "vulkan": _vulkan_drivers(tree, home),
        "libraries": _libraries(tree),
        "nodes": _device_nodes(tree, environ),
        "flags": cpu_flags(tree),
    }


def _vulkan_drivers(tree: Tree, home: Path | None) -> list[list[object]]:
    folders = [tree.path(folder) for folder in _VULKAN_FOLDERS]
    if home is not None:
        folders.append(home / ".local/share/vulkan/icd.d")
    return [
        [number, entry.name, _modified(entry)]
        for number, folder in enumerate(folders)
        for entry in _entries(folder)
        if entry.suffix == ".json"
    ]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _libraries(tree: Tree) -> list[list[str]]:
    """Where the libraries of drivers are, and the file that each stands for, which has the version in its name."""
    cache = tree.read("/etc/ld.so.cache", 8 << 20) or b""
    found = set()
    for library in _LIBRARIES:
        listed = re.findall(rb"(/[^\0]{1,4000}/%s)\0" % re.escape(library.encode()), cache)
        paths = {os.fsdecode(path) for path in listed} | {
            f"{folder}/{library}" for folder in _LIBRARY_FOLDERS
        }
        found |= {(path, tree.target(path) or "") for path in paths if tree.exists(path)}
    return [list(pair) for pair in sorted(found)]


def _device_nodes(tree: Tree, environ: Mapping[str, str]) -> list[list[object]]:
    """Which devices can be opened: a container is given some, and a user may lack the group."""
    contained = "container" in environ or any(map(tree.exists, _CONTAINER_FILES))
    return [
        [name, os.access(tree.path(f"{folder}/{name}"), os.R_OK | os.W_OK)]
        for folder in ("/dev", "/dev/dri")
        for name in tree.names(folder)
        # Outside of containers NVIDIA's nodes come and go: the first use after a start makes them.
        if _DEVICE_NODES.fullmatch(name) and (contained or not name.startswith("nvidia"))
    ]


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None
