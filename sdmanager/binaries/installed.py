"""The engines that are installed, and which one to use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdmanager.errors import EngineNotFoundError
from sdmanager.files import read_json, write_json

from .binary import VARIANTS, EngineBinary
from .inspection import inspect_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdmanager.settings import Settings

RECORD = "engine.json"
PREVIOUS = ".previous-"
"""Begins the name of an engine that is just being replaced: it counts until its successor is in place."""

_FORMAT = 1


def list_installed(settings: Settings) -> list[EngineBinary]:
    """The engines in the data folder, the fastest variant first, then the newest.

    Unfinished and broken folders are left out. Runs nothing.
    """
    found = [engine for folder in _folders(settings.engines_dir) if (engine := read_record(folder))]
    found.sort(key=lambda engine: engine.installed_at, reverse=True)
    found.sort(
        key=lambda engine: VARIANTS.index(engine.variant) if engine.variant in VARIANTS else len(VARIANTS)
    )
    return found


async def find_engine(settings: Settings) -> EngineBinary:
    """The engine to use: the user's own where one is named, else the best installed one.

    Raises:
        EngineNotFoundError: None is installed, or the user's own is not there.
        EngineNotRunnableError: The user's own cannot be executed here.
        BinaryError: The user's own is not stable-diffusion.cpp.
    """
    if settings.engine is not None:
        return await inspect_engine(settings.engine, settings=settings)
    for engine in list_installed(settings):
        return engine
    raise EngineNotFoundError("No engine is installed.", details={"engines_dir": str(settings.engines_dir)})


def write_record(folder: Path, engine: EngineBinary) -> None:
    """Describe the engine in a folder, in that folder.

    Raises:
        StorageError: It cannot be written.
    """
    record = {"format": _FORMAT, "size": engine.path.stat().st_size, "engine": engine.to_json(folder)}
    write_json(folder / RECORD, record)


def read_record(folder: Path) -> EngineBinary | None:
    """The engine in a folder, or None where it is broken: no record, or not the executable of the record."""
    data = read_json(folder / RECORD)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        return None
    engine = EngineBinary.from_json(data.get("engine"), relative_to=folder)
    try:
        if engine is None or not engine.path.is_file() or engine.path.stat().st_size != data.get("size"):
            return None
    except OSError:
        return None
    return engine if os.access(engine.path, os.X_OK) else None


def _folders(engines_dir: Path) -> Iterator[Path]:
    try:
        names = {entry.name for entry in engines_dir.iterdir()}
    except OSError:
        return
    for name in sorted(names):
        replaced = name.removeprefix(PREVIOUS) if name.startswith(PREVIOUS) else None
        if (replaced is None and not name.startswith(".")) or (replaced and replaced not in names):
            yield engines_dir / name
