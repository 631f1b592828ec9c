"""Installed models that the real engine draws with, each with pictures of its own."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from sdmanager.models import InstalledModel, Role, demo_model, import_model
from sdmanager.settings import Settings


def own_models(settings: Settings, folder: Path) -> Settings:
    """The same engine and demo model in a data folder of the test's own, so that what it installs is its own."""
    own = replace(settings, data_dir=folder)
    own.models_dir.mkdir(parents=True)
    own.engines_dir.symlink_to(settings.engines_dir)
    for made in settings.models_dir.glob("demo-*"):
        (own.models_dir / made.name).symlink_to(made)
    return own


async def install(settings: Settings, folder: Path, *names: str) -> list[InstalledModel]:
    """Models like the demo model, whose weights are in another order, by their names: files in ``folder/NAME``."""
    return [
        await import_model(list(weights_of(settings, folder / name, name).values()), settings, name=name)
        for name in names
    ]


def weights_of(settings: Settings, folder: Path, name: str) -> dict[Role, Path]:
    """Files of such a model; the text encoder is that of the demo model."""
    folder.mkdir(parents=True)
    files = dict(demo_model(settings).files)
    for role in (Role.DIFFUSION_MODEL, Role.TAE):
        path = folder / f"{role}.safetensors"
        path.write_bytes(_shuffled(files[role].resolve(), name))
        files[role] = path
    return files


@functools.cache
def _shuffled(path: Path, name: str) -> bytes:
    rng = np.random.default_rng(list(name.encode()))
    return save(
        {key: rng.permuted(value.ravel()).reshape(value.shape) for key, value in load_file(path).items()}
    )
