"""The best engine that really works here: at once where that is known, else found out and kept."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.threads import beside, in_thread

from ._manifest_file import manifest_digest
from .installed import wanted_variant
from .marks import looks_unchanged, same_content, take_marks
from .proof import Meaning
from .verdicts import Book, Surroundings, Verdict, read_book, write_book

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.errors import SDManagerError
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

    from .binary import EngineBinary
    from .progress import OnProgress
    from .proof import Proof, Prover

_LOG = logging.getLogger("sdmanager.binaries")

_NOTE_SECONDS: Final = 1.0

AUTOMATIC: Final = "auto"
"""The wish of those who leave the choice to us."""


@dataclass(frozen=True, slots=True)
class Ensured:
    """An engine to use, and what is known about it.

    Attributes:
        engine: The binary.
        key: Its candidate's name, such as ``vulkan/release/master-929-3f8527a``.
        proof: What it drew when it was tested.
    """

    engine: EngineBinary
    key: str
    proof: Proof


async def ensure_binary(
    settings: Settings,
    *,
    prove: Prover,
    variant: str | None = None,
    force_validation: bool = False,
    on_progress: OnProgress | None = None,
    snapshot: HardwareSnapshot | None = None,
) -> Ensured:
    """Find, fetch or build the best engine that works on this machine.

    Candidates are tried in their order until one draws; what was found out is kept, and trusted as long as cards,
    drivers, manifest and the engine's files are the same. The user's own engine is the only candidate where one
    is named. Two callers at once, in whatever processes: the second waits, and uses what the first found.

    Args:
        settings: Folders, the user's own engine, manifest and mirror.
        prove: Draws with an engine and checks the picture.
        variant: Only this one, such as ``cpu``; None: that of the settings, else the best.
        force_validation: Forget what is known: read the engine's files again and draw again.
        on_progress: Called on the event loop with each step.
        snapshot: The hardware to choose for; looked at where it is needed and None.

    Raises:
        InvalidRequestError: There is no such variant.
        NoEngineWorksError: Nothing that could be tried works; the details say why, one by one.
        BinaryError: Likewise, where there was one thing to try: it could not be fetched, built or run.
        GenerationError: Likewise: it ran and did not draw.
        StorageError: A folder cannot be written.

    If cancelled, no process of it is left, and the engine that was used before still works.
    """
    variant = wanted_variant(settings, variant)
    wish = _wish(settings, variant)
    if not force_validation and (ensured := await beside(_trusted, settings, wish)):
        return ensured
    from .chain import Chain  # what only those need who choose

    async with AsyncExitStack() as stack:
        await _lock(settings, stack, on_progress)
        if not force_validation and (ensured := await in_thread(_trusted, settings, wish)):
            return ensured
        around = await in_thread(surroundings, settings)
        book = await in_thread(read_book, settings, around)
        book = Book(around) if book is None else book.in_surroundings(around)
        if force_validation:
            book = _forgetting(book, settings, wish, variant)
        chain = Chain(settings, book, prove, on_progress, snapshot)
        if settings.engine is not None:
            return await chain.own(settings.engine, wish)
        return await chain.choose(wish, variant)


def _forgetting(book: Book, settings: Settings, wish: str, variant: str | None) -> Book:
    """What is known, without what is to be found out anew."""
    if settings.engine is not None:
        return book.forgetting("own", {wish})
    return book.forgetting(f"{variant}/", {wish, AUTOMATIC}) if variant else book.forgetting("")


async def record_success(settings: Settings, ensured: Ensured, proof: Proof) -> None:
    """Note that an engine that was left unproven has drawn a real picture."""

    def proven(known: Verdict) -> Verdict:
        return Verdict(tested_at=now_text(), proof=proof, engine=ensured.engine, marks=known.marks)

    await _note(settings, ensured, proven)


async def record_failure(settings: Settings, ensured: Ensured, error: SDManagerError) -> None:
    """Note that an engine that was left unproven failed on a real picture: the next start tries another."""

    def failed(_: Verdict) -> Verdict:
        return Verdict(tested_at=now_text(), meaning=Meaning.FAILED, code=error.code, reason=error.message)

    await _note(settings, ensured, failed)


async def _note(settings: Settings, ensured: Ensured, change: Callable[[Verdict], Verdict]) -> None:
    async with AsyncExitStack() as stack:
        try:
            # Whoever is choosing may be building for minutes: a picture that is drawn does not wait for that.
            async with asyncio.timeout(_NOTE_SECONDS):
                await _lock(settings, stack, None)
        except TimeoutError:
            return
        book = await in_thread(read_book, settings, await in_thread(surroundings, settings))
        if book is not None and (known := book.verdicts.get(ensured.key)):
            await in_thread(write_book, settings, book.with_verdict(ensured.key, change(known)))


def surroundings(settings: Settings) -> Surroundings:
    """What verdicts depend on, just now. Asks no driver; a few milliseconds."""
    from sdmanager.hardware import hardware_fingerprint

    try:
        engines = str(settings.engines_dir.stat().st_mtime_ns)
    except OSError:
        engines = "none"
    # The user's own engine is not from any list.
    manifest = manifest_digest(settings.manifest) if settings.engine is None else "none"
    return Surroundings(hardware_fingerprint(), manifest, engines)


def now_text() -> str:
    """The time as verdicts have it."""
    return datetime.now(UTC).isoformat()


def in_use(settings: Settings, variant: str | None = None) -> Ensured | None:
    """The engine that would be used without testing anything, or None where something must be found out."""
    return _trusted(settings, _wish(settings, wanted_variant(settings, variant)), remember=False)


def own_failure(settings: Settings) -> Verdict | None:
    """Why the user's own engine did not work when it was last tried, or None where it did or was not."""
    book = read_book(settings, surroundings(settings))
    return book.verdicts.get(_wish(settings, None)) if book else None


def _trusted(settings: Settings, wish: str, *, remember: bool = True) -> Ensured | None:
    around = surroundings(settings)
    book = read_book(settings, around)
    found = book.in_use(wish, time.time()) if book is not None and book.surroundings == around else None
    if book is None or found is None:
        return None
    key, verdict = found
    assert verdict.engine is not None  # noqa: S101 - usable
    if looks_unchanged(verdict.engine, verdict.marks):
        return _ensured(key, verdict)
    # Touched, copied or moved to another disk: its content decides.
    try:
        marks = take_marks(verdict.engine)
    except OSError:
        return None
    if not same_content(marks, verdict.marks):
        return None
    verdict = Verdict(verdict.tested_at, verdict.proof, verdict.engine, marks)
    if remember:
        write_book(settings, book.with_verdict(key, verdict))
    return _ensured(key, verdict)


def _ensured(key: str, verdict: Verdict) -> Ensured:
    assert verdict.engine is not None and verdict.proof is not None  # noqa: S101, PT018 - usable
    return Ensured(verdict.engine, key, verdict.proof)


def _wish(settings: Settings, variant: str | None) -> str:
    if settings.engine is not None:
        return f"own:{hashlib.sha256(str(settings.engine).encode('utf-8', 'replace')).hexdigest()[:16]}"
    return variant or AUTOMATIC


async def _lock(settings: Settings, stack: AsyncExitStack, on_progress: OnProgress | None) -> None:
    """One at a time chooses; where the state folder cannot be written, everyone for himself."""
    from ._staging import engines_lock
    from .progress import EngineProgress

    def on_wait() -> None:
        if on_progress is not None:
            on_progress(EngineProgress("waiting", 0, 0, "another process is choosing an engine"))

    try:
        await stack.enter_async_context(engines_lock(settings.state_dir, on_wait))
    except StorageError as exc:
        _LOG.warning("What is found out about engines cannot be kept: %s", exc.__cause__ or exc)
