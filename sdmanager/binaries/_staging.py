"""Making an engine beside the installed ones and putting it in place whole; one builder at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sdmanager.errors import EngineNotRunnableError, StorageError
from sdmanager.threads import beside, in_thread

from .installed import PREVIOUS, read_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sdmanager.settings import Settings

    from .binary import EngineBinary

_LOG = logging.getLogger("sdmanager.binaries")

_STAGING = ".staging-"
_POLL = 0.25


@asynccontextmanager
async def engines_lock(engines_dir: Path, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold the right to change the installed engines.

    Args:
        engines_dir: Made where it is missing.
        on_wait: Called once if another process, or another task, has it.

    Raises:
        StorageError: The folder cannot be made or written.
    """
    lock = await beside(_make_lock, engines_dir)
    waiting = False
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if not waiting:
                on_wait()
            waiting = True
            await asyncio.sleep(_POLL)
        except (OSError, NotImplementedError) as exc:  # the latter: a file system without locks
            raise _not_writable(engines_dir, exc) from exc
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def staging_folder(engines_dir: Path) -> AsyncIterator[Path]:
    """A folder on the same file system as the engines, gone afterwards whatever happens.

    Call with the lock held: that tells the staging folders of dead builders, which are removed first.

    Raises:
        StorageError: It cannot be made.
    """
    folder = engines_dir / f"{_STAGING}{secrets.token_hex(6)}"
    try:
        await in_thread(clear_remains, engines_dir)
        await in_thread(folder.mkdir)
    except OSError as exc:
        raise _not_writable(engines_dir, exc) from exc
    try:
        yield folder
    finally:
        await in_thread(shutil.rmtree, folder, ignore_errors=True)


async def use_or_make(
    settings: Settings,
    installed: Callable[[], EngineBinary | None],
    make: Callable[[Path], Awaitable[EngineBinary]],
    *,
    force: bool,
    on_wait: Callable[[], None],
    trouble: str,
) -> EngineBinary:
    """The installed engine, else one that is made in a staging folder; of two makers the second uses the first's.

    Args:
        settings: Folders.
        installed: Looks for it.
        make: Makes and installs it, given the staging folder.
        force: Make it also where it is installed.
        on_wait: Called once if another process is at work.
        trouble: Begins the sentence about a file that cannot be written: "The build cannot write its files".

    Raises:
        StorageError: A folder or file cannot be written.
        Exception: Whatever ``make`` raised.
    """
    if not force and (engine := installed()):
        return engine
    async with engines_lock(settings.engines_dir, on_wait):
        if not force and (engine := installed()):
            _LOG.info("using the engine that another process has made")
            return engine
        async with staging_folder(settings.engines_dir) as staging:
            try:
                return await make(staging)
            except StorageError:
                raise
            except OSError as exc:
                raise StorageError(
                    f"{trouble}: {exc.strerror or exc}.",
                    hint="Check the free space, or set SDMANAGER_HOME to a folder on another disk.",
                ) from exc


def install(finished: Path, target: Path) -> EngineBinary:
    """Put a finished folder in place of an installed one, which stays until then.

    At every moment, and so after a kill at any moment, either the old or the new engine is found.

    Raises:
        StorageError: It cannot be done; the old engine is where it was.
        EngineNotRunnableError: What was put in place is not usable; the old engine is where it was.
    """
    previous = target.with_name(f"{PREVIOUS}{target.name}")
    try:
        _sync_tree(finished)
        replacing = target.exists()
        if replacing:
            target.rename(previous)
        try:
            finished.rename(target)
            engine = read_record(target)
            if engine is None:
                raise EngineNotRunnableError("The engine cannot be read where it was just installed.")
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            if replacing:
                previous.rename(target)
            raise
        _sync_folder(target.parent)
    except OSError as exc:
        raise _not_writable(target.parent, exc) from exc
    shutil.rmtree(previous, ignore_errors=True)
    return engine


async def sweep_remains(engines_dir: Path) -> None:
    """Remove what killed builders left, if there is anything and nobody is at work there; nothing is waited for."""
    if not await in_thread(_has_remains, engines_dir):
        return
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(_POLL):
                await stack.enter_async_context(engines_lock(engines_dir, lambda: None))
        except (TimeoutError, StorageError):
            return
        with suppress(OSError):
            await in_thread(clear_remains, engines_dir)


def clear_remains(engines_dir: Path) -> None:
    """Remove what killed builders left; a replaced engine whose successor never came is put back.

    Call with the lock held.

    Raises:
        OSError: The folder cannot be read.
    """
    for entry in list(engines_dir.iterdir()):
        if entry.name.startswith(_STAGING):
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name.startswith(PREVIOUS):
            target = entry.with_name(entry.name.removeprefix(PREVIOUS))
            if target.exists():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.rename(target)


def _has_remains(engines_dir: Path) -> bool:
    try:
        return any(entry.name.startswith((_STAGING, PREVIOUS)) for entry in engines_dir.iterdir())
    except OSError:
        return False


def _make_lock(engines_dir: Path) -> FileLock:
    try:
        engines_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise _not_writable(engines_dir, exc) from exc
    return FileLock(engines_dir / ".lock", thread_local=False)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_writable(folder: Path, exc: OSError | NotImplementedError) -> StorageError:
    reason = getattr(exc, "strerror", None) or exc
    return StorageError(
        f"The folder {folder.name!r} cannot be written: {reason}.",
        hint="Check that it is writable and has free space, or set SDMANAGER_HOME to another folder.",
        details={"path": str(folder), "errno": getattr(exc, "errno", None)},
    )
