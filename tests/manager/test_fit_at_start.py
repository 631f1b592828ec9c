"""A model that does not fit this machine keeps the server from starting, unless somebody insists."""

from __future__ import annotations

from pathlib import Path

import pytest
import weights

from sdmanager import DiffusionServerManager
from sdmanager.errors import InsufficientResourcesError, InvalidRequestError, ModelUnsupportedError
from sdmanager.manager import ServerState
from sdmanager.models import ModelFiles, Role


@pytest.fixture
def huge(tmp_path: Path) -> ModelFiles:
    """900 GB that nobody knows, and that take no room."""
    header = weights.safetensors_header({"nobody.knows": ("U8", (900 * 10**9,))})
    return ModelFiles("huge", {Role.MODEL: weights.write(tmp_path / "huge.safetensors", header)})


async def test_a_start_is_refused_and_leaves_nothing(
    manager: DiffusionServerManager, huge: ModelFiles
) -> None:
    with pytest.raises(InsufficientResourcesError, match="'huge' needs"):
        await manager.start(huge, port="auto")
    assert manager.status is ServerState.CRASHED
    assert any("the start failed" in line and "'huge'" in line for line in manager.logs())
    await manager.start(port="auto")
    assert manager.status is ServerState.RUNNING


async def test_who_insists_gets_the_engines_own_answer(
    manager: DiffusionServerManager, huge: ModelFiles
) -> None:
    await manager.start(huge, port="auto", ignore_fit=True)
    with pytest.raises(ModelUnsupportedError):
        await manager.generate_image("x", width=64, height=64, steps=1)


@pytest.mark.parametrize("value", [1, "yes", None])
async def test_it_is_true_or_false(manager: DiffusionServerManager, value: object) -> None:
    with pytest.raises(InvalidRequestError, match="ignore_fit must be True or False"):
        await manager.start(port="auto", ignore_fit=value)


@pytest.mark.parametrize(("value", "fine"), [(None, True), (True, True), (False, True), (1, False)])
async def test_flash_attention_is_yes_no_or_left_to_the_model(
    manager: DiffusionServerManager, value: object, fine: bool
) -> None:
    if fine:
        await manager.start(port="auto", diffusion_flash_attention=value)
        await manager.generate_image("x", width=64, height=64, steps=1)
    else:
        with pytest.raises(InvalidRequestError, match="diffusion_flash_attention"):
            await manager.start(port="auto", diffusion_flash_attention=value)
