"""Engines for accelerators, really built and really proven: ``pytest -m vulkan``, ``pytest -m cuda``.

Vulkan needs headers of 1.3.268 or newer (``VULKAN_SDK``), glslc, and any device, of which Mesa's llvmpipe is one.
CUDA needs nvcc and a card.
"""

from __future__ import annotations

import pytest

from sdmanager.binaries import EngineBinary, Proof, build_engine
from sdmanager.engine import prove_engine
from sdmanager.errors import BuildToolsMissingError
from sdmanager.hardware import take_snapshot
from sdmanager.settings import Settings


async def build_and_prove(settings: Settings, variant: str) -> Proof:
    proofs = []

    async def prove(engine: EngineBinary) -> Proof:
        proofs.append(await prove_engine(engine, settings))
        return proofs[-1]

    try:
        engine = await build_engine(settings, variant, prove=prove)
    except BuildToolsMissingError as exc:
        pytest.skip(exc.message)
    assert engine.variant == variant
    return proofs[0]


@pytest.mark.vulkan
@pytest.mark.timeout(3600)
async def test_vulkan(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (await take_snapshot(home)).gpus:
        # Otherwise the engine passes over devices that are processors, such as llvmpipe, and draws without Vulkan.
        monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    proof = await build_and_prove(home, "vulkan")
    assert proof.proven
    assert (proof.device or "").startswith("Vulkan")


@pytest.mark.cuda
@pytest.mark.timeout(7200)
async def test_cuda(home: Settings) -> None:
    if not any(gpu.vendor == "nvidia" for gpu in (await take_snapshot(home)).gpus):
        pytest.skip("there is no NVIDIA card here")
    proof = await build_and_prove(home, "cuda")
    assert proof.proven
    assert (proof.device or "").startswith("CUDA")
