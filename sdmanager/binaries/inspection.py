"""Asking an executable what it is, and remembering the answer for as long as the file stays the same."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sdmanager import process
from sdmanager.errors import BinaryError, EngineNotFoundError, EngineNotRunnableError, StorageError
from sdmanager.files import read_json, write_json
from sdmanager.threads import beside

from .binary import CUSTOM, EngineBinary
from .capabilities import Capabilities, parse_help
from .loader_errors import explain_crash, explain_loader, explain_refusal, explain_signal

if TYPE_CHECKING:
    from pathlib import Path

    from sdmanager.settings import Settings

    from .loader_errors import LoaderError

_LOG = logging.getLogger("sdmanager.binaries")
_FORMAT = 1
_TIME_LIMIT = 30.0
_VERSION = re.compile(r"^stable-diffusion\.cpp version ([^\s,]+)", re.MULTILINE)
_ENGINE_FLAGS = frozenset({"--model", "--prompt", "--output", "--steps"})


async def inspect_engine(
    path: Path,
    *,
    settings: Settings,
    variant: str = CUSTOM,
    source: str = "user",
    remember: bool = True,
    time_limit: float = _TIME_LIMIT,
) -> EngineBinary:
    """Run ``--version`` and ``-h`` of an engine and describe it.

    Nothing is run where the same file (path, size, time of change, inode) was described before.

    Args:
        path: The executable.
        settings: Folders; the answer is kept in the state folder.
        variant: What it was built for.
        source: How it came here.
        remember: Whether to read and write the remembered answer.
        time_limit: Seconds that each of the two calls may take.

    Raises:
        EngineNotFoundError: There is no such file.
        EngineNotRunnableError: The file cannot be executed here: no permission, another format, a missing
            library, ended by a signal, or no answer in time.
        BinaryError: It runs and is not stable-diffusion.cpp.

    If cancelled, the child is dead when the exception arrives.
    """
    path = _absolute(path)
    identity = _identify(path)
    memory = _memory_file(path, settings)
    if (
        remember
        and (known := _recall(memory, identity))
        and (known.variant, known.source) == (variant, source)
    ):
        return known
    help_text = await _ask(path, "-h", settings, time_limit)
    capabilities = parse_help(help_text)
    _require_engine(path, capabilities)
    version = _VERSION.search(await _ask(path, "--version", settings, time_limit)) or _VERSION.search(
        help_text
    )
    engine = EngineBinary(
        path=path,
        variant=variant,
        version=version[1] if version else "unknown",
        source=source,
        sha256=await beside(_digest, path),
        capabilities=capabilities,
        installed_at=datetime.now(UTC),
    )
    # A file that was replaced while it was being asked must not be remembered under the new file's identity.
    if remember and _identify(path) == identity:
        _remember(memory, identity, engine)
    return engine


def file_sha256(path: Path) -> str:
    """The digest of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as exc:
        raise _not_runnable(path, f"cannot be read: {exc.strerror or exc}") from exc


def _identify(path: Path) -> list[int]:
    """What tells this file from any other that was ever at this path."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise EngineNotFoundError(f"There is no engine at {path}.", details={"path": str(path)}) from None
    except OSError as exc:
        raise _not_runnable(path, f"cannot be read: {exc.strerror or exc}") from exc
    if path.is_dir():
        inside = path / "sd-cli"
        hint = f"Name the file itself: {inside}." if inside.is_file() else None
        raise _not_runnable(path, "is a folder, not a program", hint=hint)
    if not os.access(path, os.X_OK):
        if found.st_mode & stat.S_IXUSR:  # its own mode allows it: a disk mounted with noexec does not
            raise _refused(path, explain_refusal("Permission denied"))
        raise _not_runnable(path, "is not executable", hint=f"Run 'chmod +x {path}' if you trust this file.")
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev]


async def _ask(path: Path, flag: str, settings: Settings, time_limit: float) -> str:
    """What the program prints on stdout for one flag."""
    try:
        done = await process.run([path, flag], timeout=time_limit, guard=settings.guard)
    except TimeoutError:
        # It may be the disk: a proof of nothing.
        error = _not_runnable(path, f"did not answer '{flag}' within {time_limit:g} s")
        error.details["passing"] = True
        raise error from None
    except OSError as exc:
        raise _refused(path, explain_refusal(exc.strerror or str(exc))) from exc
    stderr = done.stderr.decode("utf-8", "replace")
    status = done.status
    if not status.ok and (reason := explain_loader(stderr, status.code)):
        raise _refused(path, reason)
    if status.signal is not None:
        raise _refused(path, explain_signal(status.signal, stderr))
    if status.code is not None and (reason := explain_crash(status.code)):
        raise _refused(path, reason)
    return done.stdout.decode("utf-8", "replace")


def _require_engine(path: Path, capabilities: Capabilities) -> None:
    if capabilities.flags >= _ENGINE_FLAGS:
        return
    if capabilities.supports("--listen-port"):
        raise BinaryError(
            f"The program at {path} is sd-server; sdmanager runs sd-cli.",
            hint="Name the sd-cli that came with it, usually in the same folder.",
            details={"path": str(path)},
        )
    raise BinaryError(f"The program at {path} is not stable-diffusion.cpp.", details={"path": str(path)})


def _not_runnable(
    path: Path, what: str, *, hint: str | None = None, missing: str | None = None
) -> BinaryError:
    details = {"path": str(path)} | ({"missing": missing} if missing else {})
    return EngineNotRunnableError(f"The engine at {path} {what}.", hint=hint, details=details)


def _refused(path: Path, reason: LoaderError) -> BinaryError:
    return _not_runnable(path, reason.clause, hint=reason.hint, missing=reason.missing)


def _absolute(path: Path) -> Path:
    return path.absolute()


def _memory_file(path: Path, settings: Settings) -> Path:
    return settings.state_dir / "engines" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"


def _recall(memory: Path, identity: list[int]) -> EngineBinary | None:
    data = read_json(memory)
    if isinstance(data, dict) and data.get("format") == _FORMAT and data.get("identity") == identity:
        return EngineBinary.from_json(data.get("engine"))
    return None


def _remember(memory: Path, identity: list[int], engine: EngineBinary) -> None:
    try:
        write_json(
            memory, {"format": _FORMAT, "identity": identity, "engine": engine.to_json()}, durable=False
        )
    except StorageError as exc:
        _LOG.warning("What the engine can do is not remembered: %s", exc)
