"""Which engines can work on a machine, the fastest first, and why the others cannot. Pure: no I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .binary import VARIANTS, check_variant
from .manifest import Offer, Requirements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sdmanager.hardware import Gpu, HardwareSnapshot

    from .binary import EngineBinary
    from .manifest import Manifest

_KINDS = {
    "nvidia": "an NVIDIA card",
    "amd": "an AMD graphics processor",
    "intel": "an Intel graphics processor",
    "apple": "an Apple graphics processor",
}
_ORIGINS = {"release": "release archive", "source": "built from source", "installed": "installed before"}
_BUILD_TOOLS = {
    "cuda": ("nvcc", "nvcc, the CUDA compiler, is missing"),
    "rocm": ("hipcc", "hipcc, the compiler of ROCm, is missing"),
    "vulkan": ("glslc", "glslc, the compiler of shaders, is missing"),
    "metal": ("xcrun", "xcrun of the Xcode command line tools is missing"),
}
_CPP_COMPILERS = frozenset({"c++", "g++", "clang++", "cl"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine to try, or one that cannot work here.

    Attributes:
        variant: One of ``VARIANTS``.
        kind: Fetched ready-made, built here, or installed earlier and of another version than is offered now.
        version: The tag of the release, or what the engine says of itself.
        offer: How to get it; None for one that was installed earlier.
        engine: The installed engine, so that there is nothing to get; None where it is not installed.
        usable: Whether it can work here.
        reason: Why, or why not: a clause for people.
        lacks_tools: Whether all that is against it is a tool for building it that is missing.
    """

    variant: str
    kind: Literal["release", "source", "installed"]
    version: str
    offer: Offer | None
    engine: EngineBinary | None
    usable: bool
    reason: str
    lacks_tools: bool = False

    @property
    def key(self) -> str:
        """The same text for the same candidate, such as ``vulkan/release/master-929-3f8527a``."""
        return f"{self.variant}/{self.kind}/{self.version}"

    @property
    def origin(self) -> str:
        """How it is got, in words."""
        return _ORIGINS[self.kind]


@dataclass(frozen=True, slots=True)
class _Case:
    """What all candidates are judged by."""

    snapshot: HardwareSnapshot
    programs: frozenset[str]
    asked_for: str | None
    allow_source: bool
    allow_download: bool


def choose(
    manifest: Manifest,
    snapshot: HardwareSnapshot,
    *,
    programs: Collection[str],
    installed: Sequence[EngineBinary] = (),
    variant: str | None = None,
    allow_source: bool = True,
    allow_download: bool = True,
) -> tuple[Candidate, ...]:
    """Every engine that is offered or installed, in the order in which to try those that can work.

    The order is that of ``VARIANTS``; within one, an archive, then building from source, then what was installed
    earlier in other versions, the newest first. An installed engine of the version that is offered is that
    offer, with nothing left to get. What is not known of the machine rules nothing out, except that archives
    for Linux need a known glibc and a card needs a driver.

    Args:
        manifest: What is offered.
        snapshot: The machine.
        programs: Which of ``nvcc``, ``hipcc``, ``glslc``, ``xcrun``, ``c++``, ``g++``, ``clang++``, ``cl`` are
            there, by name.
        installed: What is installed; engines of no known variant are passed over.
        variant: The only one that is wanted.
        allow_source: Whether something may be built. A build gets its sources through the user's pip.
        allow_download: Whether archives of a release may be fetched.

    Raises:
        InvalidRequestError: There is no such variant.
    """
    check_variant(variant)
    names = frozenset(name.lower().removesuffix(".exe") for name in programs)
    case = _Case(snapshot, names, variant, allow_source, allow_download)
    offers = manifest.offers.get(snapshot.platform) or _fallback(manifest)
    candidates: list[Candidate] = []
    for each in VARIANTS:
        candidates += _of_variant(each, offers, _newest_first(each, installed), case)
    if snapshot.platform in manifest.offers:
        return tuple(candidates)
    return tuple(_on_unknown_platform(candidate, snapshot.platform) for candidate in candidates)


def _of_variant(
    variant: str, offers: Sequence[Offer], engines: dict[str, EngineBinary], case: _Case
) -> Iterator[Candidate]:
    mine = sorted((o for o in offers if o.variant == variant), key=lambda offer: offer.kind == "source")
    for offer in mine:
        engine = engines.get(offer.version)
        usable, reason = _judge(offer.variant, offer.requires, offer, engine, case)
        missing = None
        if usable and offer.kind == "source" and engine is None:
            missing = _missing_tool(variant, case.programs)
        yield Candidate(
            variant, offer.kind, offer.version, offer, engine,
            usable=usable and missing is None, reason=missing or reason, lacks_tools=missing is not None,
        )  # fmt: skip
    current = {offer.version for offer in mine}
    for version, engine in engines.items():
        if version not in current:
            usable, reason = _judge(variant, Requirements(), None, engine, case)
            yield Candidate(variant, "installed", version, None, engine, usable, reason)


def _judge(
    variant: str, requires: Requirements, offer: Offer | None, engine: EngineBinary | None, case: _Case
) -> tuple[bool, str]:
    """Whether it can work, and the reason. The first rule that is against it decides."""
    if case.asked_for not in {None, variant}:
        return False, "not asked for"
    fits, reason = _hardware(variant, requires, case.snapshot)
    if not fits:
        return False, reason
    if against := _system(requires, case.snapshot):
        return False, against
    if offer is None or engine is not None:
        return True, f"it is installed, and there is {reason}"
    if offer.kind == "release":
        return (True, reason) if case.allow_download else (False, "fetching archives was not allowed")
    return (True, reason) if case.allow_source else (False, "building from source was not allowed")


def _hardware(variant: str, requires: Requirements, snapshot: HardwareSnapshot) -> tuple[bool, str]:
    match variant:
        case "cuda":
            return _cuda(requires, snapshot)
        case "rocm":
            found = [gpu for gpu in snapshot.gpus if gpu.vendor == "amd"]
            return (True, _described(found[0])) if found else (False, "no AMD graphics processor was found")
        case "vulkan":
            return _vulkan(snapshot)
        case "metal":
            found = [gpu for gpu in snapshot.gpus if gpu.vendor == "apple"]
            if not snapshot.platform.startswith("darwin-"):
                return False, "Metal is there on macOS only"
            return (True, _described(found[0])) if found else (False, "no Apple graphics processor was found")
        case _:
            return True, "a processor, which is all it needs"


def _cuda(requires: Requirements, snapshot: HardwareSnapshot) -> tuple[bool, str]:
    cards = [gpu for gpu in snapshot.gpus if gpu.vendor == "nvidia"]
    if not cards:
        return False, "no NVIDIA card was found"
    # One card that will do is enough: the engine uses the best one.
    against = [_against_card(card, requires) for card in cards]
    if None in against:
        return True, _described(cards[against.index(None)])
    return False, str(against[0])


def _against_card(card: Gpu, requires: Requirements) -> str | None:
    if card.driver is None:
        return "the NVIDIA card has no driver"
    if "nouveau" in card.driver.lower():
        return "the NVIDIA card runs with the driver nouveau, and CUDA needs NVIDIA's own"
    if requires.nvidia_driver:
        driver = _driver_version(card.driver)
        if driver and driver < _numbers(requires.nvidia_driver):
            return f"needs NVIDIA driver {requires.nvidia_driver} or newer and this system has {card.driver}"
    needed, found = requires.compute_capability, card.compute_capability
    if needed and found and _trimmed(found) < _numbers(needed):
        return f"needs compute capability {needed} or newer and the NVIDIA card has {found[0]}.{found[1]}"
    return None


def _vulkan(snapshot: HardwareSnapshot) -> tuple[bool, str]:
    for gpu in snapshot.gpus:
        # The drivers of these two are part of the system wherever Vulkan is.
        if gpu.driver is not None or gpu.vendor in {"amd", "intel"}:
            return True, _described(gpu)
    return False, "the graphics card has no driver" if snapshot.gpus else "no graphics card was found"


def _system(requires: Requirements, snapshot: HardwareSnapshot) -> str | None:
    if requires.glibc is None or not snapshot.platform.startswith("linux-"):
        return None
    found = _numbers(snapshot.glibc or "")
    if not found:
        return f"needs glibc {requires.glibc} or newer and this system has another C library"
    if found < _numbers(requires.glibc):
        return f"needs glibc {requires.glibc} or newer and this system has {snapshot.glibc}"
    return None


def _missing_tool(variant: str, programs: frozenset[str]) -> str | None:
    if variant in _BUILD_TOOLS:
        program, missing = _BUILD_TOOLS[variant]
        if program not in programs:
            return missing
    return None if programs & _CPP_COMPILERS else "a C++ compiler is missing"


def _newest_first(variant: str, installed: Sequence[EngineBinary]) -> dict[str, EngineBinary]:
    """The engines of a variant by version; of two with the same one, the newer."""
    mine = [engine for engine in installed if engine.variant == variant]
    mine.sort(key=lambda e: (e.installed_at.timestamp(), _numbers(e.version), e.version), reverse=True)
    engines: dict[str, EngineBinary] = {}
    for engine in mine:
        engines.setdefault(engine.version, engine)
    return engines


def _fallback(manifest: Manifest) -> tuple[Offer, ...]:
    """What is left where no platform of that name is known: building for the processor."""
    if "cpu" not in manifest.sources.variants:
        return ()
    return (Offer("cpu", "source", (), Requirements(), manifest.sources.package.engine_version),)


def _on_unknown_platform(candidate: Candidate, platform: str) -> Candidate:
    if candidate.kind != "source" or candidate.engine is not None or not candidate.usable:
        return candidate
    reason = f"this package has no archive for {platform}"
    return Candidate(
        candidate.variant, candidate.kind, candidate.version, candidate.offer, None, True, reason
    )


def _described(gpu: Gpu) -> str:
    kind = _KINDS.get(gpu.vendor or "", "a graphics card")
    return f"{kind} with driver {gpu.driver}" if gpu.driver else kind


def _driver_version(driver: str) -> tuple[int, ...]:
    """The number of NVIDIA's driver, or nothing where the text holds another one."""
    windows = re.fullmatch(r"[0-9]+\.[0-9]+\.([0-9]{1,5})\.([0-9]{1,4})", driver.strip())
    if windows:
        # Windows writes 556.12 as 32.0.15.5612: the last five digits count.
        digits = (windows[1] + windows[2].zfill(4))[-5:]
        return _trimmed((int(digits[:-2]), int(digits[-2:])))
    own = re.match(r"\s*(?:nvidia\s+)?([0-9]+(?:\.[0-9]+)*)", driver, re.IGNORECASE)
    return _numbers(own[1]) if own else ()


def _numbers(version: str) -> tuple[int, ...]:
    return _trimmed(tuple(int(part) for part in re.findall(r"[0-9]{1,18}", version)))


def _trimmed(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Without zeros at the end, so that 551 and 551.0 are the same."""
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    return numbers
