"""The choice of an engine: a table of machines, each with the whole order and what is in and out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.binaries import VARIANTS, Capabilities, EngineBinary
from sdmanager.binaries.choosing import Candidate, choose
from sdmanager.binaries.manifest import Manifest, Requirements, load_manifest
from sdmanager.errors import InvalidRequestError
from sdmanager.hardware import Gpu, HardwareSnapshot

MANIFEST = load_manifest()
TAG, SOURCE = "master-929-3f8527a", "pypi-0.4.7"
CPP = ("c++", "g++")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def gpu(vendor: Any, driver: str | None = None, capability: tuple[int, int] | None = None) -> Gpu:
    return Gpu(vendor, "a card", 8 << 30, None, driver, compute_capability=capability)


def machine(platform: str, *gpus: Gpu, glibc: str | None = None) -> HardwareSnapshot:
    return HardwareSnapshot(platform, "a system", "a processor", 8, 16, 32 << 30, None, glibc, gpus, ())


def engine(variant: str, version: str, *, day: int = 0, source: str = "release") -> EngineBinary:
    path = Path("/engines") / f"{variant}-{version}" / "sd-cli"
    return EngineBinary(path, variant, version, source, "0" * 64, Capabilities(), EPOCH + timedelta(days=day))


NVIDIA = gpu("nvidia", "580.65.06", (8, 9))
AMD = gpu("amd", "amdgpu 6.1.0-38-amd64")
INTEL = gpu("intel", "i915 6.1.0-38-amd64")
APPLE = gpu("apple")
DEBIAN, UBUNTU = "2.36", "2.39"


@dataclass
class Case:
    """A machine, and every candidate in its order: + in, - out, * installed already; then a part of the reason."""

    snapshot: HardwareSnapshot
    expected: str
    programs: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "NVIDIA with nvcc on Debian 12": Case(
        machine("linux-x64", NVIDIA, glibc=DEBIAN),
        """
        + cuda/source    an NVIDIA card with driver 580.65.06
        - rocm/source    no AMD graphics processor was found
        - vulkan/release needs glibc 2.38 or newer and this system has 2.36
        - vulkan/source  glslc, the compiler of shaders, is missing
        - cpu/release    needs glibc 2.38 or newer and this system has 2.36
        + cpu/source     a processor
        """,
        programs=("nvcc", *CPP),
    ),
    "NVIDIA with nvcc on Ubuntu 24.04: CUDA from source comes before Vulkan": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        + cuda/source    an NVIDIA card
        - rocm/source    no AMD
        + vulkan/release an NVIDIA card with driver 580.65.06
        + vulkan/source  an NVIDIA card
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("nvcc", "glslc", *CPP),
    ),
    "NVIDIA without nvcc on Ubuntu 24.04": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        - cuda/source    nvcc, the CUDA compiler, is missing
        - rocm/source    no AMD
        + vulkan/release an NVIDIA card
        - vulkan/source  glslc
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=CPP,
    ),
    "NVIDIA without a driver": Case(
        machine("linux-x64", gpu("nvidia"), glibc=UBUNTU),
        """
        - cuda/source    the NVIDIA card has no driver
        - rocm/source    no AMD
        - vulkan/release the graphics card has no driver
        - vulkan/source  the graphics card has no driver
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("nvcc", "glslc", *CPP),
    ),
    "NVIDIA with nouveau": Case(
        machine("linux-x64", gpu("nvidia", "nouveau 6.8.0"), glibc=UBUNTU),
        """
        - cuda/source    nouveau
        - rocm/source    no AMD
        + vulkan/release an NVIDIA card with driver nouveau 6.8.0
        - vulkan/source  glslc
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("nvcc", *CPP),
    ),
    "AMD with ROCm": Case(
        machine("linux-x64", AMD, glibc=UBUNTU),
        """
        - cuda/source    no NVIDIA card was found
        + rocm/source    an AMD graphics processor with driver amdgpu 6.1.0-38-amd64
        + vulkan/release an AMD graphics processor
        - vulkan/source  glslc
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("hipcc", *CPP),
    ),
    "AMD without ROCm and without a compiler": Case(
        machine("linux-x64", AMD, glibc=UBUNTU),
        """
        - cuda/source    no NVIDIA
        - rocm/source    hipcc, the compiler of ROCm, is missing
        + vulkan/release an AMD graphics processor
        - vulkan/source  glslc
        + cpu/release    a processor
        - cpu/source     a C++ compiler is missing
        """,
    ),
    "Intel laptop": Case(
        machine("linux-x64", INTEL, glibc="2.41"),
        """
        - cuda/source    no NVIDIA
        - rocm/source    no AMD
        + vulkan/release an Intel graphics processor with driver i915
        + vulkan/source  an Intel graphics processor
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("glslc", "g++"),
    ),
    "hybrid laptop, whose NVIDIA card has no driver": Case(
        machine("linux-x64", INTEL, gpu("nvidia"), glibc=UBUNTU),
        """
        - cuda/source    the NVIDIA card has no driver
        - rocm/source    no AMD
        + vulkan/release an Intel graphics processor
        - vulkan/source  glslc
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("nvcc", *CPP),
    ),
    "no graphics card": Case(
        machine("linux-x64", glibc=UBUNTU),
        """
        - cuda/source    no NVIDIA
        - rocm/source    no AMD
        - vulkan/release no graphics card was found
        - vulkan/source  no graphics card was found
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("nvcc", "glslc", "hipcc", *CPP),
    ),
    "a card of an unknown maker": Case(
        machine("linux-x64", gpu(None), gpu(None, "xyz 1.0"), glibc=UBUNTU),
        """
        - cuda/source    no NVIDIA
        - rocm/source    no AMD
        + vulkan/release a graphics card with driver xyz 1.0
        - vulkan/source  glslc
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=CPP,
    ),
    "WSL": Case(
        machine("linux-x64", gpu("nvidia", "566.36", (8, 6)), glibc=UBUNTU),
        """
        - cuda/source    nvcc
        - rocm/source    no AMD
        + vulkan/release an NVIDIA card with driver 566.36
        - vulkan/source  glslc
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "musl": Case(
        machine("linux-x64", INTEL),
        """
        - cuda/source    no NVIDIA
        - rocm/source    no AMD
        - vulkan/release needs glibc 2.38 or newer and this system has another C library
        + vulkan/source  an Intel graphics processor
        - cpu/release    needs glibc 2.38 or newer and this system has another C library
        + cpu/source     a processor
        """,
        programs=("glslc", "c++"),
    ),
    "a glibc whose number has more digits": Case(
        machine("linux-x64", glibc="2.100"),
        """
        - cuda/source    no NVIDIA
        - rocm/source    no AMD
        - vulkan/release no graphics card
        - vulkan/source  no graphics card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Jetson": Case(
        machine("linux-arm64", gpu("nvidia", "nvgpu 5.15.148-tegra", (8, 7)), glibc="2.35"),
        """
        + cuda/source    an NVIDIA card with driver nvgpu
        - vulkan/source  glslc
        + cpu/source     a processor
        """,
        programs=("nvcc", *CPP),
    ),
    "Linux on Arm": Case(
        machine("linux-arm64", glibc="2.36"),
        """
        - cuda/source    no NVIDIA
        - vulkan/source  no graphics card
        + cpu/source     a processor
        """,
        programs=("c++",),
    ),
    "Windows with NVIDIA": Case(
        machine("win32-x64", gpu("nvidia", "551.76", (6, 1))),
        """
        + cuda/release   an NVIDIA card with driver 551.76
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler is missing
        """,
    ),
    "Windows with the oldest driver that will do": Case(
        machine("win32-x64", gpu("nvidia", "551.00", (12, 0))),
        """
        + cuda/release   an NVIDIA card
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        + cpu/source     a processor
        """,
        programs=("CL.EXE",),
    ),
    "Windows with an old NVIDIA driver": Case(
        machine("win32-x64", gpu("nvidia", "537.13", (8, 6))),
        """
        - cuda/release   needs NVIDIA driver 551 or newer and this system has 537.13
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows with a driver from before a thousand": Case(
        machine("win32-x64", gpu("nvidia", "99.5", (8, 6))),
        """
        - cuda/release   needs NVIDIA driver 551 or newer and this system has 99.5
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows with a driver as Windows numbers it": Case(
        machine("win32-x64", gpu("nvidia", "32.0.15.5612")),
        """
        + cuda/release   an NVIDIA card with driver 32.0.15.5612
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows with an old driver as Windows numbers it": Case(
        machine("win32-x64", gpu("nvidia", "31.0.15.3713")),
        """
        - cuda/release   needs NVIDIA driver 551 or newer and this system has 31.0.15.3713
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows with an old NVIDIA card": Case(
        machine("win32-x64", gpu("nvidia", "580.65", (5, 2))),
        """
        - cuda/release   needs compute capability 6.1 or newer and the NVIDIA card has 5.2
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows with an old NVIDIA card beside a new one": Case(
        machine("win32-x64", gpu("nvidia", "580.65", (5, 2)), gpu("nvidia", "580.65", (12, 0))),
        """
        + cuda/release   an NVIDIA card with driver 580.65
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        """,
    ),
    "Windows on Arm": Case(
        machine("win32-arm64", gpu(None, "31.0.100.1")),
        """
        + cpu/source     a processor
        """,
        programs=("clang++",),
    ),
    "Mac with Apple silicon": Case(
        machine("darwin-arm64", APPLE),
        """
        + metal/release  an Apple graphics processor
        - metal/source   xcrun
        + cpu/source     a processor
        """,
        programs=("clang++",),
    ),
    "Mac with Apple silicon and Xcode": Case(
        machine("darwin-arm64", APPLE),
        """
        + metal/release  an Apple graphics processor
        + metal/source   an Apple graphics processor
        + cpu/source     a processor
        """,
        programs=("xcrun", "clang++"),
    ),
    "Mac with an Intel processor": Case(
        machine("darwin-x64", INTEL, AMD),
        """
        + cpu/source     a processor
        """,
        programs=("xcrun", "clang++"),
    ),
    "an unknown platform": Case(
        machine("freebsd-amd64", NVIDIA),
        """
        + cpu/source     this package has no archive for freebsd-amd64
        """,
        programs=("nvcc", "c++"),
    ),
    "an unknown platform without a compiler": Case(
        machine("linux-riscv64", glibc=UBUNTU),
        """
        - cpu/source     a C++ compiler is missing
        """,
    ),
    "building is not allowed": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        - cuda/source    building from source was not allowed
        - rocm/source    no AMD
        + vulkan/release an NVIDIA card
        - vulkan/source  building from source was not allowed
        + cpu/release    a processor
        - cpu/source     building from source was not allowed
        """,
        programs=("nvcc", "glslc", *CPP),
        options={"allow_source": False},
    ),
    "offline": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        - cuda/source    nvcc
        - rocm/source    no AMD
        - vulkan/release fetching archives was not allowed
        + vulkan/source  an NVIDIA card
        - cpu/release    fetching archives was not allowed
        + cpu/source     a processor
        """,
        programs=("glslc", *CPP),
        options={"allow_download": False},
    ),
    "offline, with the engines of today installed": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        * cuda/source    it is installed, and there is an NVIDIA card with driver 580.65.06
        - rocm/source    no AMD
        * vulkan/release it is installed, and there is an NVIDIA card
        - vulkan/source  building from source was not allowed
        - cpu/release    fetching archives was not allowed
        * cpu/source     it is installed
        + cpu/installed/master-504-636d3cb it is installed
        """,
        options={
            "allow_download": False,
            "allow_source": False,
            "installed": [
                engine("cpu", SOURCE),
                engine("vulkan", TAG),
                engine("cuda", SOURCE),
                engine("cpu", "master-504-636d3cb"),
            ],
        },
    ),
    "what is installed does not fit the hardware any more": Case(
        machine("linux-x64", glibc=DEBIAN),
        """
        - cuda/source    no NVIDIA card was found
        - cuda/installed/pypi-0.3.0 no NVIDIA card was found
        - rocm/source    no AMD
        - vulkan/release no graphics card was found
        - vulkan/source  no graphics card was found
        - cpu/release    needs glibc 2.38 or newer and this system has 2.36
        + cpu/source     a processor
        """,
        programs=CPP,
        options={
            "installed": [
                engine("cuda", SOURCE),
                engine("cuda", "pypi-0.3.0"),
                engine("vulkan", TAG),
                engine("cpu", TAG),
            ],
        },
    ),
    "older versions are installed: the newest first, after what is offered now": Case(
        machine("win32-x64", gpu("nvidia", "580.65")),
        """
        + cuda/release   an NVIDIA card
        + cuda/installed/master-889-c678dfe it is installed
        + vulkan/release an NVIDIA card
        + cpu/release    a processor
        - cpu/source     a C++ compiler
        + cpu/installed/master-1000-0000000 it is installed
        + cpu/installed/master-999-fffffff  it is installed
        + cpu/installed/master-504-636d3cb  it is installed
        """,
        options={
            "installed": [
                engine("cpu", "master-504-636d3cb", day=1),
                engine("cpu", "master-999-fffffff", day=5),
                engine("cpu", "master-1000-0000000", day=5),
                engine("cuda", "master-889-c678dfe", day=3),
                engine("cuda", "master-889-c678dfe", day=4),
                engine("custom", "unknown"),
            ],
        },
    ),
    "a variant that the platform does not offer is installed": Case(
        machine("darwin-x64", AMD),
        """
        + vulkan/installed/mine-1 it is installed, and there is an AMD graphics processor
        + cpu/source     a processor
        """,
        programs=("clang++",),
        options={"installed": [engine("vulkan", "mine-1")]},
    ),
    "only Vulkan is asked for": Case(
        machine("linux-x64", NVIDIA, glibc=UBUNTU),
        """
        - cuda/source    not asked for
        - rocm/source    not asked for
        + vulkan/release an NVIDIA card
        - vulkan/source  glslc
        - cpu/release    not asked for
        - cpu/source     not asked for
        - cpu/installed/x-1 not asked for
        """,
        programs=("nvcc", *CPP),
        options={"variant": "vulkan", "installed": [engine("cpu", "x-1")]},
    ),
    "what is asked for is ruled out by the hardware": Case(
        machine("linux-x64", INTEL, glibc=UBUNTU),
        """
        - cuda/source    no NVIDIA card was found
        - rocm/source    not asked for
        - vulkan/release not asked for
        - vulkan/source  not asked for
        - cpu/release    not asked for
        - cpu/source     not asked for
        """,
        programs=("nvcc", "glslc", *CPP),
        options={"variant": "cuda"},
    ),
}


def lines(candidates: tuple[Candidate, ...]) -> list[str]:
    """As the table has it: the mark, and the key, where the current versions go without saying."""
    marks = {(True, True): "*", (True, False): "+", (False, True): "-", (False, False): "-"}
    found = []
    for candidate in candidates:
        key = candidate.key.removesuffix(f"/{TAG}").removesuffix(f"/{SOURCE}")
        installed_now = candidate.engine is not None and candidate.kind != "installed"
        found.append(f"{marks[candidate.usable, installed_now]} {key}")
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_order_and_the_reasons(name: str) -> None:
    case = CASES[name]
    expected = [line.split(maxsplit=2) for line in case.expected.strip().splitlines()]
    candidates = choose(MANIFEST, case.snapshot, programs=case.programs, **case.options)
    assert lines(candidates) == [f"{mark} {key}" for mark, key, _ in expected]
    for candidate, (_, _, reason) in zip(candidates, expected, strict=True):
        assert reason in candidate.reason


def by_key(candidates: tuple[Candidate, ...]) -> dict[str, Candidate]:
    return {candidate.key: candidate for candidate in candidates}


def test_a_candidate_carries_its_offer_and_what_is_installed_of_it() -> None:
    of_today, older = engine("vulkan", TAG), engine("vulkan", "master-1-a")
    found = by_key(
        choose(MANIFEST, machine("linux-x64", AMD, glibc=UBUNTU), programs=(), installed=[older, of_today])
    )
    release = found[f"vulkan/release/{TAG}"]
    assert release.engine is of_today
    assert release.offer is MANIFEST.offers["linux-x64"][2]
    assert found[f"cpu/release/{TAG}"].engine is None
    assert found["vulkan/installed/master-1-a"].engine is older
    assert found["vulkan/installed/master-1-a"].offer is None


def test_an_offer_is_out_for_want_of_a_compiler_unless_it_is_installed() -> None:
    snapshot, key = machine("linux-x64", NVIDIA, glibc=DEBIAN), f"cuda/source/{SOURCE}"
    assert not by_key(choose(MANIFEST, snapshot, programs=()))[key].usable
    assert by_key(choose(MANIFEST, snapshot, programs=(), installed=[engine("cuda", SOURCE)]))[key].usable


def test_the_order_does_not_depend_on_that_of_the_manifest() -> None:
    offers = {name: tuple(reversed(offers)) for name, offers in MANIFEST.offers.items()}
    snapshot = machine("linux-x64", NVIDIA, glibc=UBUNTU)
    expected = choose(MANIFEST, snapshot, programs=CPP)
    assert choose(replace(MANIFEST, offers=offers), snapshot, programs=CPP) == expected


def test_an_unknown_variant_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequestError, match="'opencl'") as caught:
        choose(MANIFEST, machine("linux-x64"), programs=(), variant="opencl")
    assert "vulkan" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("driver", "needed", "usable"),
    [
        ("551", "551", True),
        ("551", "551.0", True),
        ("551.0.0", "551", True),
        ("550.999", "551", False),
        ("1000.1", "551", True),
        ("580.65.06", "580.65.7", False),
        ("580.65.06", "580.65.5", True),
        ("NVIDIA 550.54", "551", False),
        ("nvidia", "551", True),
        ("", "551", True),
        ("9" * 5000, "551", True),
    ],
)
def test_drivers_are_compared_number_by_number(driver: str, needed: str, *, usable: bool) -> None:
    offer = replace(MANIFEST.offers["win32-x64"][0], requires=Requirements(nvidia_driver=needed))
    manifest = replace(MANIFEST, offers={"win32-x64": (offer,)})
    (candidate,) = choose(manifest, machine("win32-x64", gpu("nvidia", driver)), programs=())
    assert candidate.usable is usable


TEXT = st.none() | st.text(max_size=12) | st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,4}){0,3}\Z")
GPUS = st.builds(
    Gpu,
    vendor=st.sampled_from(["nvidia", "amd", "intel", "apple", None]),
    name=TEXT,
    total_vram=st.none() | st.integers(0, 1 << 44),
    free_vram=st.none(),
    driver=TEXT,
    compute_capability=st.none() | st.tuples(st.integers(0, 99), st.integers(0, 9)),
    unified_memory=st.none() | st.booleans(),
    mig=st.booleans(),
)
SNAPSHOTS = st.builds(
    lambda platform, glibc, gpus: machine(platform, *gpus, glibc=glibc),
    st.sampled_from([*MANIFEST.offers, "linux-riscv64", "freebsd-amd64", ""]),
    TEXT,
    st.lists(GPUS, max_size=3),
)
ENGINES = st.lists(
    st.builds(
        engine,
        st.sampled_from([*VARIANTS, "custom", "opencl"]),
        st.sampled_from([TAG, SOURCE, "master-1-a", ""]) | st.text(max_size=8),
        day=st.integers(0, 3),
    ),
    max_size=5,
)
PROGRAMS = st.sets(st.sampled_from(["nvcc", "hipcc", "glslc", "xcrun", "c++", "cl.exe"]))


@given(
    snapshot=SNAPSHOTS,
    programs=PROGRAMS,
    installed=ENGINES,
    variant=st.none() | st.sampled_from(VARIANTS),
    allow_source=st.booleans(),
    allow_download=st.booleans(),
)
def test_every_machine_gets_an_ordered_list_with_reasons(
    snapshot: HardwareSnapshot, installed: list[EngineBinary], **options: Any
) -> None:
    candidates = choose(MANIFEST, snapshot, installed=installed, **options)
    assert all(candidate.reason for candidate in candidates)
    assert len({candidate.key for candidate in candidates}) == len(candidates)
    rank = ("release", "source", "installed")
    order = [(VARIANTS.index(c.variant), rank.index(c.kind)) for c in candidates]
    assert order == sorted(order)
    last = [candidate for candidate in candidates if candidate.offer is not None][-1]
    assert (last.variant, last.kind) == ("cpu", "source")
    for engine_ in installed:
        if engine_.variant in VARIANTS:
            same = [c for c in candidates if (c.variant, c.version) == (engine_.variant, engine_.version)]
            assert any(c.engine is not None for c in same)
    for candidate in candidates:
        assert (candidate.offer is None) == (candidate.kind == "installed")
        assert candidate.offer is not None or candidate.engine is not None
        if candidate.usable:
            assert options["variant"] in {None, candidate.variant}
            assert candidate.engine or options["allow_source"] or candidate.kind == "release"
            assert candidate.engine or options["allow_download"] or candidate.kind == "source"


@given(snapshot=SNAPSHOTS, programs=PROGRAMS)
def test_a_compiler_is_enough_on_every_machine(snapshot: HardwareSnapshot, programs: set[str]) -> None:
    assert choose(MANIFEST, snapshot, programs={*programs, "c++"})[-1].usable


@given(snapshot=SNAPSHOTS, programs=PROGRAMS)
def test_what_is_unknown_rules_nothing_out(snapshot: HardwareSnapshot, programs: set[str]) -> None:
    """Of a card whose driver does not say its number, or its capability, the proof has to tell."""
    known = by_key(choose(MANIFEST, snapshot, programs=programs))
    vague = tuple(
        replace(g, compute_capability=None, driver=g.driver and "some driver") for g in snapshot.gpus
    )
    for key, candidate in by_key(choose(MANIFEST, replace(snapshot, gpus=vague), programs=programs)).items():
        assert candidate.usable or not known[key].usable


def test_a_manifest_without_a_recipe_for_the_processor_leaves_nothing_on_unknown_platforms() -> None:
    sources = replace(MANIFEST.sources, variants={})
    manifest: Manifest = replace(MANIFEST, sources=sources)
    assert choose(manifest, machine("freebsd-amd64"), programs=CPP) == ()
