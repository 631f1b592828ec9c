"""The machine as the Windows registry describes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from ._pci import NVIDIA, VENDORS, is_virtual_vendor
from ._reading import Reading
from ._values import believable_bytes, clean_text
from .snapshot import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

DISPLAY_CLASS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_PROCESSORS = r"HARDWARE\DESCRIPTION\System\CentralProcessor"
_WINDOWS = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"
_FIRST_WINDOWS_11 = 22000


class Registry(Protocol):
    """What is asked of HKEY_LOCAL_MACHINE."""

    def names(self, key: str) -> list[str]:
        """The keys below a key; none where it cannot be read."""

    def value(self, key: str, name: str) -> object:
        """One value, or None where it cannot be read."""


def read_windows(
    registry: Registry, *, memory: tuple[int | None, int | None], cores: int | None, release: str
) -> Reading:
    """Everything that needs no driver.

    Args:
        registry: Of the machine.
        memory: Total and available bytes.
        cores: Physical cores.
        release: Version of the system, such as ``10.0.22631``.
    """
    gpus = tuple(_gpus(registry))
    nvidia = any(gpu.vendor == "nvidia" for gpu in gpus)
    return Reading(
        system=_system(registry, release),
        cpu=clean_text(registry.value(rf"{_PROCESSORS}\0", "ProcessorNameString")),
        cores=cores,
        threads=len(registry.names(_PROCESSORS)) or None,
        ram_total=memory[0],
        ram_available=memory[1],
        gpus=gpus,
        ask_nvidia=nvidia,
        expect_nvidia=nvidia,
    )


def driver_facts(registry: Registry) -> list[list[str | None]]:
    """What tells one set of cards, drivers and processor from another."""
    facts = [
        [
            clean_text(registry.value(key, name))
            for name in ("MatchingDeviceId", "DriverDesc", "DriverVersion")
        ]
        for key in _display_keys(registry)
    ]
    processor = [
        clean_text(registry.value(rf"{_PROCESSORS}\0", name))
        for name in ("ProcessorNameString", "Identifier")
    ]
    return [*sorted(facts, key=str), processor]


def nvidia_version(version: str) -> str:
    """NVIDIA's own number of a driver, which is in the last five digits of the one that Windows gives it."""
    match = re.fullmatch(r"\d+\.\d+\.(\d+)\.(\d{4})", version)
    digits = (match[1] + match[2])[-5:] if match else ""
    return f"{digits[:3]}.{digits[3:]}" if len(digits) == 5 else version


def _display_keys(registry: Registry) -> list[str]:
    return [
        rf"{DISPLAY_CLASS}\{name}" for name in registry.names(DISPLAY_CLASS) if re.fullmatch(r"\d{4}", name)
    ]


def _gpus(registry: Registry) -> Iterator[Gpu]:
    for key in _display_keys(registry):
        hardware = (clean_text(registry.value(key, "MatchingDeviceId")) or "").lower()
        match = re.match(r"pci\\ven_([0-9a-f]{4})", hardware)
        vendor = int(match[1], 16) if match else None
        # What is neither on the PCI bus nor part of a chip shows pictures of somebody else.
        if is_virtual_vendor(vendor) or not (match or hardware.startswith(r"acpi\qcom")):
            continue
        driver = clean_text(registry.value(key, "DriverVersion"))
        yield Gpu(
            vendor=VENDORS.get(vendor) if vendor is not None else None,
            name=clean_text(registry.value(key, "DriverDesc")),
            total_vram=_size(registry.value(key, "HardwareInformation.qwMemorySize")),
            free_vram=None,
            driver=nvidia_version(driver) if driver and vendor == NVIDIA else driver,
        )


def _size(value: object) -> int | None:
    # A number, or its eight bytes where the driver wrote it as binary.
    return believable_bytes(int.from_bytes(value, "little") if isinstance(value, bytes) else value)


def _system(registry: Registry, release: str) -> str:
    name = clean_text(registry.value(_WINDOWS, "ProductName")) or "Windows"
    build = clean_text(registry.value(_WINDOWS, "CurrentBuildNumber")) or ""
    # The registry of Windows 11 still says 10.
    if build.isdecimal() and int(build) >= _FIRST_WINDOWS_11:
        name = name.replace("Windows 10", "Windows 11")
    return f"{name}, {release}" if release else name
