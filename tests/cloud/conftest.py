"""The services of these tests, on loopback; the client is huggingface_hub's own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from inference_server import InferenceServer, inference_server


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InferenceServer]:
    """The hub, its router, its providers and an endpoint; this process is led there."""
    with inference_server() as server:
        for name, value in server.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        huggingface_hub.close_session()  # made with another environment
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def model() -> str:
    """A model's name that huggingface_hub has not kept any answer about."""
    return f"org/model-{secrets.token_hex(4)}"
