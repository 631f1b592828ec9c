"""Graphics cards on Linux, from sysfs alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._pci import AMD, INTEL, NVIDIA, VENDORS, VIRTUAL_DRIVERS, Display, display_devices
from ._values import believable_bytes, believable_vram, clean_text
from .snapshot import Gpu, Vendor

if TYPE_CHECKING:
    from ._tree import Tree

_PCI_NAMES = ("/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids")
WSL_DEVICE = "/dev/dxg"
_DRM = "/sys/class/drm"
_SOC_VENDORS: dict[str, Vendor] = {
    "asahi": "apple",
    "nouveau": "nvidia",
    "nvgpu": "nvidia",
    "tegra": "nvidia",
}
# The driver shows these files for discrete cards only.
_DISCRETE_ONLY = ("mem_busy_percent", "pcie_bw")
_LARGEST_CARVE_OUT = 4 << 30
_NVIDIA_MODULE = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")


@dataclass(frozen=True, slots=True)
class Cards:
    """What sysfs has of graphics cards.

    Attributes:
        gpus: Every real one.
        problems: What is wrong with them.
        ask_nvidia: Whether NVIDIA's library may know more.
        expect_nvidia: Whether it must, because one of their cards is there to be used.
    """

    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...]
    ask_nvidia: bool
    expect_nvidia: bool


def read_gpus(tree: Tree) -> Cards:
    """Every real graphics card, and what is wrong with them."""
    cards = [card for card in display_devices(tree) if not card.is_virtual]
    names = _look_up_names(tree, cards)
    gpus = [_describe(tree, card, names.get((card.vendor, card.device))) for card in cards]
    gpus += _read_soc_gpus(tree)
    # A card without a driver counts: the first use of the library may load the kernel module.
    usable = any(card.vendor == NVIDIA and card.bound in {None, "nvidia"} for card in cards)
    loaded = tree.exists("/dev/nvidiactl") or nvidia_driver(tree) is not None
    soc = any(gpu.vendor == "nvidia" and gpu.pci is None for gpu in gpus)
    return Cards(
        gpus=tuple(gpus),
        problems=tuple(
            f"the graphics card at {card.address} is kept for virtual machines by {card.kept_for}"
            for card in cards
            if card.kept_for
        ),
        ask_nvidia=usable or loaded or soc or tree.exists(WSL_DEVICE),
        expect_nvidia=usable or loaded,
    )


def kernel_release(tree: Tree) -> str | None:
    """The version of the running kernel."""
    return tree.text("/proc/sys/kernel/osrelease")


def nvidia_driver(tree: Tree) -> str | None:
    """The version of NVIDIA's kernel module that is loaded."""
    if version := tree.text("/sys/module/nvidia/version"):
        return version
    match = _NVIDIA_MODULE.search("\n".join(tree.lines("/proc/driver/nvidia/version", 4096)))
    return match[1] if match else None


def driver_version(tree: Tree, module: str) -> str | None:
    """The version of a kernel module: its own, or that of the kernel it came with."""
    if module == "nvidia":
        return nvidia_driver(tree)
    return tree.text(f"/sys/module/{module}/version") or kernel_release(tree)


def _describe(tree: Tree, card: Display, name: str | None) -> Gpu:
    total, free, unified = None, None, None
    if card.vendor == AMD:
        total, free, unified = _amd_memory(tree, card)
        name = tree.text(f"{card.path}/product_name") or name
    elif card.vendor == INTEL:
        total, unified = _intel_memory(tree, card)
    return Gpu(
        vendor=VENDORS.get(card.vendor) if card.vendor is not None else None,
        name=name,
        total_vram=total,
        free_vram=free,
        driver=_driver(tree, None if card.kept_for else card.bound),
        unified_memory=unified,
        pci=card.address.lower(),
    )


def _driver(tree: Tree, module: str | None) -> str | None:
    if module is None:
        return None
    version = driver_version(tree, module)
    if module == "nvidia":
        return version or module
    return f"{module} {version}" if version else module


def _amd_memory(tree: Tree, card: Display) -> tuple[int | None, int | None, bool | None]:
    total = tree.number(f"{card.path}/mem_info_vram_total")
    used = tree.number(f"{card.path}/mem_info_vram_used")
    # More in use than there is makes less than nothing free, which is not believed.
    whole, free = believable_vram(total, None if total is None or used is None else total - used)
    if any(tree.exists(f"{card.path}/{name}") for name in _DISCRETE_ONLY):
        return whole, free, False
    shared = believable_bytes(tree.number(f"{card.path}/mem_info_gtt_total"))
    carved_out = whole is not None and shared is not None and whole <= _LARGEST_CARVE_OUT and shared > whole
    return whole, free, True if carved_out else None


def _intel_memory(tree: Tree, card: Display) -> tuple[int | None, bool | None]:
    if card.address.endswith(":00:02.0"):  # where every processor with graphics has them
        return None, True
    names = tree.names(card.path)
    sizes = [
        *(f"{name}/physical_vram_size_bytes" for name in names if re.fullmatch(r"tile\d+", name)),
        *(
            f"drm/{name}/lmem_total_bytes"
            for name in tree.names(f"{card.path}/drm")
            if re.fullmatch(r"card\d+", name)
        ),
    ]
    found = [size for name in sizes if (size := believable_bytes(tree.number(f"{card.path}/{name}")))]
    return believable_bytes(sum(found)), False if found else None


def _read_soc_gpus(tree: Tree) -> list[Gpu]:
    """Graphics that are no PCI device; what only shows a picture has no node for rendering."""
    found: dict[str, Gpu] = {}
    for name in tree.names(_DRM):
        device = f"{_DRM}/{name}/device"
        driver = tree.target(f"{device}/driver")
        if not re.fullmatch(r"renderD\d+", name) or driver is None or driver in VIRTUAL_DRIVERS:
            continue
        if tree.target(f"{device}/subsystem") in {None, "pci", "virtio"}:
            continue
        vendor = _SOC_VENDORS.get(driver)
        key = tree.target(device) or name
        found[key] = Gpu(vendor, None, None, None, _driver(tree, driver), unified_memory=True)
    return list(found.values())


def _look_up_names(tree: Tree, cards: list[Display]) -> dict[tuple[int | None, int | None], str]:
    """Names from the system's list of PCI devices, which has them by numbers."""
    wanted = {(card.vendor, card.device) for card in cards}
    if not wanted:
        return {}
    data = next((data for path in _PCI_NAMES if (data := tree.read(path, 8 << 20))), b"")
    names: dict[tuple[int | None, int | None], str] = {}
    for vendor, device in wanted:
        if vendor is None or device is None:
            continue
        start = re.search(rb"^%04x\s" % vendor, data, re.MULTILINE)
        line = start and re.compile(rb"^(?:[^\t#\n]|\t%04x\s+(.*)$)" % device, re.MULTILINE).search(
            data, start.end()
        )
        if line and line[1] and (name := clean_text(line[1])):
            names[vendor, device] = name
    return names
