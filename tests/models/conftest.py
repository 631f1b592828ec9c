"""A hub on this machine, with models that are small and real enough to be told apart."""

from __future__ import annotations

import pytest
from hub_server import HubFile, Repo, serving_hub
from pulling import PARTS, WHOLE, Pulling, weights_of


@pytest.fixture
def hub():
    with serving_hub() as server:
        server.repos[WHOLE] = Repo({"model.safetensors": HubFile(weights_of("sd1"))})
        kinds = {"diffusion_model": "z-image", "llm": "llm", "vae": "vae", "tae": "tae"}
        server.repos[PARTS] = Repo(
            {
                f"{role}.safetensors": HubFile(weights_of(kind, seed=n))
                for n, (role, kind) in enumerate(kinds.items())
            }
        )
        yield server


@pytest.fixture
def hub_environment(hub, tmp_path, monkeypatch):
    """Variables of a user whose hub is the local one."""
    for name in (
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HF_XET_CACHE",
        "HF_TOKEN_PATH",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    own = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return own


@pytest.fixture
def pulling(hub, hub_environment, home, tmp_path) -> Pulling:
    return Pulling(hub, home, tmp_path / "hf" / "hub")
