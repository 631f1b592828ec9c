"""Display devices on the PCI bus, as the kernel lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._values import pci_address

if TYPE_CHECKING:
    from ._tree import Tree
    from .snapshot import Vendor

DEVICES = "/sys/bus/pci/devices"
NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
VENDORS: dict[int, Vendor] = {NVIDIA: "nvidia", AMD: "amd", INTEL: "intel"}
# Adapters that only show a picture: of emulators, and of management chips on server boards.
_VIRTUAL_VENDORS = frozenset(
    {
        0x1013,  # Cirrus
        0x102B,  # Matrox
        0x1234,  # Bochs
        0x1414,  # Microsoft
        0x15AD,  # VMware
        0x19E5,  # HiSilicon
        0x1A03,  # ASPEED
        0x1AB8,  # Parallels
        0x1AF4,  # virtio
        0x1B36,  # QXL
        0x5853,  # Xen
        0x80EE,  # VirtualBox
    }
)
VIRTUAL_DRIVERS = frozenset(
    {
        "ast", "bochs", "bochs-drm", "cirrus", "cirrus-qemu", "efi-framebuffer", "hibmc-drm", "hyperv_drm",
        "mgag200", "ofdrm", "qxl", "simple-framebuffer", "simpledrm", "vboxvideo", "vesa-framebuffer", "vgem",
        "virtio-pci", "virtio_gpu", "vkms", "vmwgfx", "xen-pci",
    }
)  # fmt: skip
# Drivers that hold a card for somebody else.
_KEEPERS = frozenset({"vfio-pci", "pci-stub", "pciback", "xen-pciback"})


@dataclass(frozen=True, slots=True)
class Display:
    """A display device.

    Attributes:
        address: Where it is, such as ``0000:01:00.0``.
        vendor: PCI number of its maker.
        device: PCI number of its kind.
        bound: The kernel driver that has it.
    """

    address: str
    vendor: int | None
    device: int | None
    bound: str | None

    @property
    def path(self) -> str:
        """Its folder."""
        return f"{DEVICES}/{self.address}"

    @property
    def is_virtual(self) -> bool:
        """Whether it can only show a picture."""
        return is_virtual_vendor(self.vendor) or self.bound in VIRTUAL_DRIVERS

    @property
    def kept_for(self) -> str | None:
        """The driver that keeps it for somebody else, if one does."""
        return self.bound if self.bound in _KEEPERS else None


def display_devices(tree: Tree) -> list[Display]:
    """All display devices, virtual ones too, in the order of their addresses."""
    found = []
    for name in tree.names(DEVICES):
        folder = f"{DEVICES}/{name}"
        kind = tree.number(f"{folder}/class", 16)
        if pci_address(name) != name.lower() or kind is None:
            continue
        display = Display(
            name,
            tree.number(f"{folder}/vendor", 16),
            tree.number(f"{folder}/device", 16),
            tree.target(f"{folder}/driver"),
        )
        # AMD's accelerators for data centres are no display devices by their class.
        if kind >> 16 == 0x03 or (kind >> 16 == 0x12 and display.bound == "amdgpu"):
            found.append(display)
    return sorted(found, key=lambda display: tuple(int(part, 16) for part in _parts(display.address)))


def is_virtual_vendor(vendor: int | None) -> bool:
    """Whether this maker's display devices can only show a picture."""
    return vendor in _VIRTUAL_VENDORS


def _parts(address: str) -> list[str]:
    return address.replace(".", ":").split(":")
