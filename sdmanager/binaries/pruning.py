"""Removing engines that nothing needs any more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmanager.errors import StorageError
from sdmanager.threads import in_thread

from ._staging import clear_remains, engines_lock
from .ensure import surroundings
from .installed import list_installed
from .manifest import load_manifest
from .marks import as_installed, take_marks
from .verdicts import all_books, read_book

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.settings import Settings

    from .binary import EngineBinary
    from .verdicts import Book


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed.

    Attributes:
        engines: The engines.
        freed_bytes: What they and unfinished downloads took.
    """

    engines: tuple[EngineBinary, ...]
    freed_bytes: int


async def prune(settings: Settings, *, variant: str | None = None, unused: bool = False) -> Pruned:
    """Remove engines of other versions than the pinned ones, altered ones, and what downloads and builds left.

    What is in use with these settings stays, whatever its version; where nothing was chosen yet, what was in use
    before or is known to work. An application with other pins gets its engine again when it needs it.

    Args:
        settings: Folders.
        variant: Only engines of this variant; None: of all.
        unused: Remove those of the pinned versions as well that are not in use.

    Raises:
        StorageError: They cannot be removed.
    """

    def waiting() -> None:
        return None

    async with engines_lock(settings.engines_dir, waiting):
        return await in_thread(_prune, settings, variant, unused)


def _prune(settings: Settings, variant: str | None, unused: bool) -> Pruned:
    before = _size(settings.engines_dir) + _size(settings.downloads_dir)
    manifest = load_manifest(settings.manifest)
    clear_remains(settings.engines_dir)
    everything = list_installed(settings)
    installed = [engine for engine in everything if as_installed(engine, take_marks(engine))]
    needed = _needed(settings, installed)
    pinned = {(o.variant, o.version) for offers in manifest.offers.values() for o in offers}
    removed = [
        engine
        for engine in everything
        if engine.path not in needed
        and (variant is None or engine.variant == variant)
        and (unused or engine not in installed or (engine.variant, engine.version) not in pinned)
    ]
    try:
        for engine in removed:
            # Out of sight at once: a kill midway leaves no engine that looks whole.
            hidden = engine.path.parent.with_name(f".staging-pruned-{engine.path.parent.name}")
            engine.path.parent.rename(hidden)
            shutil.rmtree(hidden)
        if variant is None and settings.downloads_dir.is_dir():
            shutil.rmtree(settings.downloads_dir)
    except OSError as exc:
        raise StorageError(
            f"An engine cannot be removed: {exc.strerror or exc}.", details={"errno": exc.errno}
        ) from exc
    after = _size(settings.engines_dir) + _size(settings.downloads_dir)
    return Pruned(tuple(removed), max(before - after, 0))


def _needed(settings: Settings, installed: list[EngineBinary]) -> set[Path]:
    """What is in use with this manifest; where nothing was chosen yet, whatever was in use or works."""
    book = read_book(settings, surroundings(settings))
    books = [book] if book and book.chosen else all_books(settings)
    chosen = {_engine_of(each, choice.key) for each in books for choice in each.chosen.values()}
    proven = {_engine_of(each, key) for each in books for key in each.verdicts}
    for known in (chosen, proven):
        if found := {engine.path for engine in installed if engine.path in known}:
            return found
    return {engine.path for engine in installed[:1]}


def _engine_of(book: Book, key: str) -> Path | None:
    verdict = book.verdicts.get(key)
    return verdict.engine.path if verdict and verdict.usable and verdict.engine else None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
