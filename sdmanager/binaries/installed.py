"""The engines that are installed, and which one to use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdmanager.errors import BinaryError, EngineNotFoundError
from sdmanager.files import read_json, write_json

from .binary import VARIANTS, EngineBinary, check_variant
from .inspection import file_sha256, inspect_engine

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


def find_installed(settings: Settings, variant: str, source: str, version: str) -> EngineBinary | None:
    """The installed engine that is exactly this one, or None."""
    for engine in list_installed(settings):
        if (engine.variant, engine.source, engine.version) == (variant, source, version):
            return engine
    return None


def wanted_variant(settings: Settings, variant: str | None = None) -> str | None:
    """The variant that is asked for, here or by the settings; None where any will do.

    Raises:
        InvalidRequestError: There is no such variant.
    """
    variant = variant or settings.variant
    check_variant(variant)
    return variant


async def inspect_own(path: Path, settings: Settings) -> EngineBinary:
    """Describe the user's own engine.

    Raises:
        BinaryError: It is not there, cannot be executed, or is no engine.
    """
    try:
        return await inspect_engine(path, settings=settings)
    except BinaryError as exc:
        leave = "leave SDMANAGER_ENGINE unset, and sdmanager gets one itself"
        is_general = exc.hint is None or exc.hint == exc.default_hint
        exc.hint = f"Name a working sd-cli, or {leave}." if is_general else f"{exc.hint} Or {leave}."
        raise


async def find_engine(settings: Settings, variant: str | None = None) -> EngineBinary:
    """An engine that is there: the user's own where one is named, else the best installed one. Tests nothing.

    Args:
        settings: Folders, and the user's own engine.
        variant: Only an installed one of this variant; None: that of the settings, else any.

    Raises:
        InvalidRequestError: There is no such variant.
        EngineNotFoundError: None is installed, or the user's own is not there.
        EngineNotRunnableError: The user's own cannot be executed here.
        BinaryError: The user's own is not stable-diffusion.cpp.
    """
    if settings.engine is not None:
        return await inspect_own(settings.engine, settings)
    variant = wanted_variant(settings, variant)
    for engine in list_installed(settings):
        if variant in {None, engine.variant}:
            return engine
    what = f"No {variant} engine" if variant else "No engine"
    hint = f"Run 'sdmanager engine install --variant {variant}'." if variant else None
    raise EngineNotFoundError(
        f"{what} is installed.", hint=hint, details={"engines_dir": str(settings.engines_dir)}
    )


def write_record(folder: Path, engine: EngineBinary) -> None:
    """Describe the engine in a folder, in that folder, with the digest of every file that came with it.

    Raises:
        StorageError: It cannot be written.
        OSError: A file cannot be read.
    """
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RECORD
    }
    record = {
        "format": _FORMAT,
        "size": engine.path.stat().st_size,
        "engine": engine.to_json(folder),
        "files": files,
    }
    write_json(folder / RECORD, record)


def recorded_digests(engine: EngineBinary) -> dict[str, str]:
    """The sha256 that each file of an installed engine had when it was installed, by its name in the folder."""
    data = read_json(engine.path.parent / RECORD)
    files = data.get("files") if isinstance(data, dict) else None
    # Records of the first releases know of the executable alone, which was all there was.
    return dict(files) if isinstance(files, dict) else {engine.path.name: engine.sha256}


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
