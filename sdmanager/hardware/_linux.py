"""The machine as Linux describes it in its own files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ._linux_gpus import kernel_release, read_gpus
from ._linux_memory import read_memory
from ._reading import Reading
from ._values import clean_text

if TYPE_CHECKING:
    from ._tree import Tree

_CPUS = "/sys/devices/system/cpu"
_CPUINFO = "/proc/cpuinfo"
_MOST_CPUS = 1 << 16


def read_linux(tree: Tree) -> Reading:
    """Everything that needs no driver."""
    cards = read_gpus(tree)
    cores, threads = _count_cpus(tree)
    ram_total, ram_available = read_memory(tree)
    problems = list(cards.problems)
    if ram_total is None:
        problems.append("the system does not tell how much memory it has")
    return Reading(
        system=_system(tree),
        cpu=_cpu_name(tree),
        cores=cores,
        threads=threads,
        ram_total=ram_total,
        ram_available=ram_available,
        gpus=cards.gpus,
        problems=tuple(problems),
        ask_nvidia=cards.ask_nvidia,
        expect_nvidia=cards.expect_nvidia,
    )


def cpu_flags(tree: Tree) -> list[str]:
    """What the first processor can do."""
    for key, value in _first_cpu(tree):
        if key in {"flags", "Features"}:
            return sorted(set(value.split()))
    return []


def _system(tree: Tree) -> str:
    lines = tree.lines("/etc/os-release") or tree.lines("/usr/lib/os-release")
    facts = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    name = " ".join(part for key in ("NAME", "VERSION_ID") if (part := clean_text(facts.get(key))))
    kernel = " ".join(part for part in ("Linux", kernel_release(tree)) if part)
    return f"{name}, {kernel}" if name else kernel


def _cpu_name(tree: Tree) -> str | None:
    facts = _first_cpu(tree)
    for wanted in ("model name", "Model", "Hardware", "cpu model", "cpu"):
        for key, value in facts:
            if key == wanted and (name := clean_text(value)):
                return name
    # Arm boards name themselves here, with a zero byte at the end.
    return clean_text((tree.read("/proc/device-tree/model", 256) or b"").rstrip(b"\0"))


def _first_cpu(tree: Tree) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for line in tree.lines(_CPUINFO):
        key, separator, value = line.partition(":")
        if key.strip() == "processor" and any(known == "flags" for known, _ in facts):
            break
        if separator:
            facts.append((key.strip(), value.strip()))
    return facts


def _count_cpus(tree: Tree) -> tuple[int | None, int | None]:
    """Cores and threads."""
    numbers = _parse_ranges(tree.text(f"{_CPUS}/online"))
    if not numbers:
        lines = tree.lines(_CPUINFO, 8 << 20)
        return None, sum(line.partition(":")[0].strip() == "processor" for line in lines) or None
    siblings = [tree.text(f"{_CPUS}/cpu{number}/topology/thread_siblings_list") for number in numbers]
    return None if None in siblings else len(set(siblings)), len(numbers)


def _parse_ranges(text: str | None) -> list[int]:
    """The numbers in ``0-3,8``; none where that is no such list."""
    numbers: list[int] = []
    for part in (text or "").split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match is None or len(numbers) > _MOST_CPUS:
            return []
        first, last = int(match[1]), int(match[2] or match[1])
        numbers += range(first, min(last, _MOST_CPUS) + 1)
    return numbers
