"""What NVIDIA's library and tool answer. No I/O here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ._values import (
    believable_capability,
    believable_vram,
    clean_text,
    parse_number,
    pci_address,
    whole_number,
)
from .snapshot import Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_SUPPORTED, NOT_LOADED, NO_LIBRARY, LOST, MISMATCH = 3, 9, 12, 15, 18
SMI_FIELDS = (
    "pci.bus_id",
    "memory.total",
    "memory.free",
    "driver_version",
    "mig.mode.current",
    "compute_cap",
    "name",
)
SMI_OLD_FIELDS = ("pci.bus_id", "memory.total", "memory.free", "driver_version", "name")
_REASONS = {
    4: "this user may not use the NVIDIA driver",
    NOT_LOADED: "the NVIDIA driver is not loaded",
    NO_LIBRARY: "the library of the NVIDIA driver was not found",
    LOST: "an NVIDIA card has stopped answering: restart the machine",
    MISMATCH: "the NVIDIA driver was updated: restart the machine",
}
# Chips with a processor beside the graphics, which share its RAM.
_SHARING = ("gb10", "orin", "xavier", "thor", "tegra", "jetson", "n1x")


@dataclass(frozen=True, slots=True)
class NvidiaAnswer:
    """What was learned of NVIDIA's cards.

    Attributes:
        gpus: Cards and MIG instances.
        driver: Version of the driver.
        complete: Whether every card that the driver offers is among them.
        absent: Whether there is nothing here to ask: no library, no tool, or no driver.
        problems: What could not be found out and why.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    complete: bool = False
    absent: bool = False
    problems: tuple[str, ...] = ()


def reason_for(error: object) -> str:
    """What a number of NVIDIA's means, as a clause."""
    number = whole_number(error)
    if number in _REASONS:
        return _REASONS[number]
    return (
        f"the NVIDIA driver could not be asked (error {number})"
        if number
        else "the NVIDIA driver could not be asked"
    )


def parse_library(output: bytes) -> NvidiaAnswer | None:
    """What the script wrote, or None where it had no library to ask."""
    gpus: list[Gpu] = []
    problems: list[str] = []
    answer = NvidiaAnswer()
    for line in output.splitlines():
        match _parse_line(line):
            case {"kind": "missing"} | {"kind": "init", "error": 12}:
                return None
            case {"kind": "init", "error": error}:
                problems.append(reason_for(error))
                answer = replace(answer, absent=error == NOT_LOADED)
            case {"kind": "driver", "version": version}:
                answer = replace(answer, driver=clean_text(version))
            case {"kind": "lost", "error": error}:
                problems.append(reason_for(error))
            case dict() as facts if facts.get("kind") == "gpu":
                gpus.append(_library_gpu(facts, answer.driver))
                problems += _gpu_problems(facts, gpus[-1])
            case {"kind": "end"}:
                answer = replace(answer, complete=True)
            case _:  # something that the script did not write
                pass
    return replace(answer, gpus=tuple(gpus), problems=tuple(dict.fromkeys(problems)))


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _library_gpu(facts: Mapping[Any, Any], driver: str | None) -> Gpu:
    name, mig = clean_text(facts.get("name")), facts.get("mig") is True
    profile = clean_text(facts.get("profile"))
    if mig and profile and "mig" not in (name or "").lower():
        name = f"{name or 'NVIDIA'} MIG {profile}"
    total, free = believable_vram(facts.get("total"), facts.get("free"))
    return Gpu(
        vendor="nvidia",
        name=name,
        total_vram=total,
        free_vram=free,
        driver=driver,
        compute_capability=believable_capability(facts.get("capability")),
        unified_memory=_is_unified(name, total),
        mig=mig,
        pci=pci_address(facts.get("pci")),
    )


def _gpu_problems(facts: Mapping[Any, Any], gpu: Gpu) -> list[str]:
    if facts.get("empty") is True:
        return ["an NVIDIA card is in MIG mode and has no instance"]
    error = whole_number(facts.get("memory_error"))
    if error not in {None, NOT_SUPPORTED}:
        return [reason_for(error)]
    # None at all is what some chips say that share the RAM.
    if gpu.free_vram is None and error is None and facts.get("total"):
        return ["the NVIDIA driver gives numbers for memory that cannot be true"]
    return []


def _is_unified(name: str | None, total: int | None) -> bool | None:
    if name and any(word in _SHARING for word in name.lower().replace("-", " ").split()):
        return True
    return False if total is not None else None


def parse_smi(output: bytes, fields: Sequence[str] = SMI_FIELDS) -> tuple[Gpu, ...]:
    """The cards in what ``nvidia-smi`` printed for these fields, of which the last is the name."""
    gpus = []
    for line in output.decode("utf-8", "replace").splitlines()[:256]:
        parts = line.split(",", len(fields) - 1)
        if len(parts) != len(fields) or pci_address(parts[0].strip()) is None:
            continue
        gpus.append(_smi_gpu(dict(zip(fields, map(str.strip, parts), strict=True))))
    return tuple(gpus)


def _smi_gpu(facts: Mapping[str, str]) -> Gpu:
    name, mig = clean_text(facts["name"]), facts.get("mig.mode.current") == "Enabled"
    # The memory of a card in MIG mode belongs to its instances, which this tool does not list.
    total, free = (None, None) if mig else (_mebibytes(facts[f"memory.{kind}"]) for kind in ("total", "free"))
    whole, rest = believable_vram(total, free)
    numbers = [parse_number(part) for part in facts.get("compute_cap", "").split(".")]
    return Gpu(
        vendor="nvidia",
        name=name,
        total_vram=whole,
        free_vram=rest,
        driver=clean_text(facts["driver_version"]),
        compute_capability=believable_capability(numbers),
        unified_memory=_is_unified(name, whole),
        mig=mig,
        pci=pci_address(facts["pci.bus_id"]),
    )


def _mebibytes(text: str) -> int | None:
    number = parse_number(text)
    return None if number is None else number << 20


def merge(seen: Sequence[Gpu], answer: NvidiaAnswer) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """Put what NVIDIA's library knows in the place of the cards that the system listed.

    Args:
        seen: Every card that the system listed.
        answer: What the library knows.

    Returns:
        All cards, and what is wrong with them.
    """
    known: dict[str | None, list[Gpu]] = {}
    for gpu in answer.gpus:
        known.setdefault(gpu.pci, []).append(gpu)
    # Cards on no bus that is visible here, and those whose address could not be had.
    addresses = {gpu.pci for gpu in seen if gpu.vendor == "nvidia" and gpu.pci}
    loose = [gpu for address, gpus in known.items() if address not in addresses for gpu in gpus]
    merged: list[Gpu] = []
    problems: list[str] = []
    for gpu in seen:
        if gpu.vendor != "nvidia":
            merged.append(gpu)
        elif gpu.pci is not None and gpu.pci in known:
            merged += known[gpu.pci]
        elif loose:
            found = loose.pop(0)
            merged.append(replace(found, pci=gpu.pci or found.pci))
        elif gpu.pci is not None:
            merged.append(gpu)
            if answer.complete and gpu.driver is not None:
                problems.append(f"the NVIDIA driver does not offer the card at {gpu.pci}")
        elif not answer.complete or gpu.unified_memory:
            merged.append(gpu)
        # Else it is one that the Windows registry remembers and the driver does not have any more.
    return tuple(merged + loose), tuple(problems)
