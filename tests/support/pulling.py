"""A hub on this machine, and models in it that are small and real enough to be told apart."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import HubFile, HubServer
from model_parts import KINDS
from weights import safetensors_header, typed

from sdmanager.models import CatalogFile, Family, ModelDefaults, PullProgress, Role
from sdmanager.models.pull import pull_files
from sdmanager.settings import Settings

WHOLE = "org/whole"
PARTS = "org/parts"
SIZE = 1_000_000


def weights_of(kind: str, size: int = SIZE, seed: int = 1) -> bytes:
    """A safetensors file with the tensors of this kind, and one that fills it up with noise."""
    tensors = typed("F16", KINDS[kind])
    header, bare = safetensors_header(tensors)
    filled = {**tensors, "filler": ("U8", (max(size - bare, 1),))}
    header, whole = safetensors_header(filled)
    return header + random.Random(seed).randbytes(whole - len(header))


@dataclass
class Pulling:
    """Pulls from the local hub into folders of the test's own."""

    hub: HubServer
    settings: Settings
    cache: Path
    told: list[PullProgress] = field(default_factory=list)

    def file(self, role: Role = Role.MODEL, repo: str = WHOLE, path: str = "model.safetensors", **facts):
        return CatalogFile(role, repo, path, **facts)

    def knobs(self, repo: str = WHOLE, path: str = "model.safetensors") -> HubFile:
        return self.hub.repos[repo].files[path]

    async def pull(self, *files: CatalogFile, name: str = "whole", **options):
        options = {"on_progress": self.told.append, "family": Family.SD1, **options}
        return await pull_files(
            name, files or (self.file(),), self.settings, defaults=ModelDefaults(steps=9), **options
        )

    def parts(self, **facts) -> tuple[CatalogFile, ...]:
        roles = (Role.DIFFUSION_MODEL, Role.LLM, Role.VAE, Role.TAE)
        return tuple(self.file(role, PARTS, f"{role}.safetensors", **facts) for role in roles)

    def left(self) -> list[str]:
        """Names of all files of the cache but those that the library keeps beside them."""
        kept = (".lock", "CACHEDIR.TAG")
        # Folders may go while they are looked at.
        return sorted(
            name
            for folder, _, names in os.walk(self.cache)
            for name in names
            if not name.endswith(kept) and Path(folder).name != "refs"
        )

    def records(self) -> list[str]:
        return sorted(path.name for path in (self.settings.models_dir / "installed").glob("*.json"))
