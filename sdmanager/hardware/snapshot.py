"""Values: one graphics card, and one look at the machine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

Vendor: TypeAlias = Literal["nvidia", "amd", "intel", "apple"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card, or one slice of a card that is partitioned.

    Attributes:
        vendor: Who made it; None for any other maker.
        name: What its driver, or else the system's list of devices, calls it.
        total_vram: Bytes of its own memory. Of a card that shares the RAM, only what is set aside for it.
        free_vram: Bytes of that which nobody used at the time.
        driver: As the driver says it: ``580.65.06``, ``amdgpu 6.1.0-38-amd64``. None where no driver has it.
        compute_capability: Of an NVIDIA card.
        unified_memory: Whether its memory is the machine's RAM.
        mig: Whether this is a MIG instance, or a card in MIG mode without any.
        pci: Its PCI address.
    """

    vendor: Vendor | None
    name: str | None
    total_vram: int | None
    free_vram: int | None
    driver: str | None
    compute_capability: tuple[int, int] | None = None
    unified_memory: bool | None = None
    mig: bool = False
    pci: str | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data for programs."""
        data: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.compute_capability is not None:
            data["compute_capability"] = list(self.compute_capability)
        return data


@dataclass(frozen=True, slots=True)
class HardwareSnapshot:
    """The machine as it was at one moment; whatever is not known is None.

    Attributes:
        platform: ``linux-x64``, ``win32-arm64``, ``darwin-arm64`` and so on.
        system: For people: ``Debian GNU/Linux 12, Linux 6.1.0-38-amd64``.
        cpu: The processor's name.
        cores: Physical cores.
        threads: Logical processors.
        ram_total: Bytes; the smaller of the machine's and what the control groups allow.
        ram_available: Bytes that can be had without swapping, by the same rule.
        glibc: Version of the C library, such as ``2.36``; None on musl and on other systems.
        gpus: Graphics cards, in the order of their PCI addresses.
        problems: What could not be found out and why, one clause each.
    """

    platform: str
    system: str
    cpu: str | None
    cores: int | None
    threads: int | None
    ram_total: int | None
    ram_available: int | None
    glibc: str | None
    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain data for programs."""
        data: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {"gpus": [gpu.to_json() for gpu in self.gpus], "problems": list(self.problems)}
