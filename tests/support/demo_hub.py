"""A hub on this machine with a catalogue whose models are the demo model: pulled by name, they really draw."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hub_server import HubFile, HubServer, Repo

from sdmanager.models import ModelFiles

REPO = "example/small"
NAMES = ("sd-1.5", "sd-turbo", "sdxl-turbo")


def fill(hub: HubServer, demo: ModelFiles, catalogue: Path) -> None:
    """Put the demo model's files on the hub, and write a catalogue that leads to them.

    Each name has two options of the same files: ``q8_0``, with the digests, and ``f16``, without.
    """
    files = {f"{role}.safetensors": path.read_bytes() for role, path in demo.files.items()}
    hub.repos[REPO] = Repo({name: HubFile(data) for name, data in files.items()})
    hub.repos["example/gated"] = Repo(dict(hub.repos[REPO].files), gated=True)
    entries = [
        {
            "role": str(role),
            "repo": REPO,
            "path": f"{role}.safetensors",
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for role, path in demo.files.items()
    ]
    bare = [{key: value for key, value in entry.items() if key != "sha256"} for entry in entries]
    gated = [{**entry, "repo": "example/gated"} for entry in entries]
    models = {name: _model(name, {"q8_0": entries, "f16": bare}) for name in NAMES}
    models["flux1-dev"] = _model("flux1-dev", {"q2_k": gated}, gated=True)
    huge = [{**entry, "size": 900 * 10**12} for entry in entries]
    models["qwen-image"] = _model("qwen-image", {"q4_k": huge})
    catalogue.write_text(json.dumps({"models": models}))


def _model(
    name: str, options: dict[str, list[dict[str, object]]], *, gated: bool = False
) -> dict[str, object]:
    return {
        "title": name.title(),
        "family": "ovis-image",
        "licence": "MIT",
        "defaults": {"steps": 4, "cfg_scale": 1.0, "width": 128, "height": 128},
        "options": [{"name": option, "files": files, "gated": gated} for option, files in options.items()],
    }
