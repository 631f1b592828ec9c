"""Did an accelerator draw? Read from what the engine says with ``-v``."""

from __future__ import annotations

import pytest

from sdmanager.engine.devices import DeviceWitness

OLDER = "[DEBUG] util.cpp:713  - {}\n"
NEWER = "[DEBUG] ggml_extend_backend.cpp:545  - {}\n"


def seen(*messages: str, line: str = OLDER, parts_on_cpu: bool = False) -> tuple[str | None, bool]:
    witness = DeviceWitness()
    for message in messages:
        for byte in line.format(message).encode():
            witness.feed("stdout", bytes([byte]))
    return witness.accelerator(parts_on_cpu=parts_on_cpu)


@pytest.mark.parametrize("line", [OLDER, NEWER])
def test_only_the_cpu_is_no_accelerator(line: str) -> None:
    assert seen("Found 1 backend devices:", "#0: CPU", "Using CPU backend", line=line) == (None, False)


@pytest.mark.parametrize("name", ["CUDA0", "Vulkan0", "ROCm0", "Metal", "MTL0"])
def test_a_device_is_named(name: str) -> None:
    assert seen("Found 2 backend devices:", f"#0: {name}", "#1: CPU") == (name, True)


def test_a_device_that_is_found_and_cannot_be_started_is_none() -> None:
    assert seen("Found 2 backend devices:", "#0: CUDA0", "#1: CPU", "Using CPU backend") == (None, False)


def test_the_newer_build_says_what_it_starts() -> None:
    found = ("Found 2 backend devices:", "#0: Vulkan0", "#1: CPU")
    assert seen(*found, "Initializing backend: CPU", line=NEWER) == (None, False)
    assert seen(*found, "Initializing backend: Vulkan0", line=NEWER) == ("Vulkan0", True)


def test_parts_that_were_sent_to_the_cpu_do_not_count_against_the_accelerator() -> None:
    said = ("#0: CUDA0", "Initializing backend: CUDA0", "Initializing backend: CPU", "Using CPU backend")
    assert seen(*said, line=NEWER, parts_on_cpu=True) == ("CUDA0", True)
    assert seen(*said, line=NEWER) == (None, False)


def test_silence_is_no_evidence_against_it() -> None:
    assert seen() == (None, True)
    assert seen("something else") == (None, True)


def test_a_blas_library_is_no_accelerator() -> None:
    assert seen("#0: BLAS", "#1: CPU") == (None, False)


def test_colours_and_stderr_do_not_confuse_it() -> None:
    witness = DeviceWitness()
    witness.feed("stdout", b"\x1b[36m[DEBUG]\x1b[0m util.cpp:1   - #0: CUDA0\n")
    witness.feed("stderr", b"CUDA error: none\n")
    assert witness.accelerator(parts_on_cpu=False) == ("CUDA0", True)
    assert "CUDA error: none" in witness.said()


def test_a_flood_is_not_kept() -> None:
    witness = DeviceWitness()
    for _ in range(100):
        witness.feed("stdout", b"x" * 65536)
    assert len(witness.said()) < 1 << 20
