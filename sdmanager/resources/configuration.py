"""What is to be put aside, from a settings file."""

from __future__ import annotations

import os
import stat
import tomllib
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from ._table import FaultError, Table
from .hooks import HookOffloadable
from .llama_swap import LlamaSwap
from .offloading import DEFAULT_LINGER, DEFAULT_THRESHOLD, LINGER_MAX, OffloadingConfig, refuse_doubles
from .ollama import Ollama

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sdmanager.settings import Settings

    from .offloadable import Offloadable

_FILE_MAX: Final = 1 << 20
_HINT: Final = "docs/memory.md shows what such a file can say."


def load_offloading(
    path: Path, settings: Settings, *, environ: Mapping[str, str] | None = None
) -> OffloadingConfig:
    """Read a settings file: TOML with ``threshold``, ``linger`` and any number of ``[[offload]]``.

    Args:
        path: Of the file.
        settings: For programs that are started.
        environ: Where ``OLLAMA_HOST`` and the variables that ``api_key_env`` names are; the process's own when None.

    Raises:
        InvalidRequestError: The file cannot be read, or something in it cannot be used; it says where.
    """
    env = os.environ if environ is None else environ
    try:
        return _config_of(Table(_read(path), "", ("threshold", "linger", "offload"), env), settings)
    except FaultError as exc:
        place = f", {exc.place}" if exc.place else ""
        raise InvalidRequestError(
            f"In {path.name!r}{place}: {exc.message}.",
            hint=exc.hint or _HINT,
            details={"path": str(path), "place": exc.place},
        ) from exc


def _read(path: Path) -> dict[str, object]:
    try:
        # Looked at first: to open a pipe waits for whoever writes into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise FaultError("it is not a file")
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "the name cannot be used"
        raise FaultError(f"it cannot be read: {reason}") from exc
    if len(data) > _FILE_MAX:
        raise FaultError(f"it has more than {_FILE_MAX >> 20} MiB")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as exc:
        raise FaultError("it is not text in UTF-8") from exc
    except ValueError as exc:
        raise FaultError(f"it is not TOML: {str(exc)[:200].rstrip('.')}") from exc
    except RecursionError as exc:
        raise FaultError("it is nested too deeply") from exc


def _config_of(table: Table, settings: Settings) -> OffloadingConfig:
    threshold = table.number("threshold")
    if threshold is not None and not 0 < threshold <= 1:
        raise FaultError("'threshold' must be above 0 and at most 1", "threshold", "0.75 is 75 %.")
    linger = table.number("linger")
    if linger is not None and not 0 <= linger <= LINGER_MAX:
        raise FaultError("'linger' must be a number of seconds from 0 to a day", "linger")
    made = tuple(_made(each, settings) for each in table.tables("offload", _known_keys))
    try:
        refuse_doubles(made)
    except InvalidRequestError as exc:
        raise FaultError(exc.message.rstrip("."), "[[offload]]", exc.hint) from exc
    return OffloadingConfig(
        made,
        DEFAULT_THRESHOLD if threshold is None else float(threshold),
        DEFAULT_LINGER if linger is None else float(linger),
    )


def _made(table: Table, settings: Settings) -> Offloadable:
    _, make = _KINDS[table.text("kind", needed=True)]
    try:
        return make(table, settings)
    except InvalidRequestError as exc:
        raise FaultError(exc.message.rstrip("."), table.place, exc.hint) from exc


def _known_keys(kind: object, place: str) -> tuple[str, ...]:
    """The keys that an entry of this kind may have."""
    if isinstance(kind, str) and kind in _KINDS:
        return ("kind", "name", *_KINDS[kind][0])
    if kind is None:
        raise FaultError("'kind' is missing", place, f"It is one of {', '.join(_KINDS)}.")
    raise Table.unknown(str(kind), _KINDS, place, "kind")


def _ollama(table: Table, _: Settings) -> Offloadable:
    return Ollama(table.text("url"), name=table.text("name"), environ=table.environ)


def _llama_swap(table: Table, _: Settings) -> Offloadable:
    return LlamaSwap(
        table.text("url", needed=True),
        api_key=table.secret("api_key_env"),
        name=table.text("name"),
        vram_bytes=table.size("vram"),
        ram_bytes=table.size("ram"),
    )


def _hooks(table: Table, _: Settings) -> Offloadable:
    timeout = table.number("timeout")
    return HookOffloadable(
        table.text("name", needed=True),
        table.command("put_aside", needed=True),
        table.command("restore", needed=True),
        holds=table.command("holds"),
        vram_bytes=table.size("vram"),
        ram_bytes=table.size("ram"),
        timeout=60.0 if timeout is None else timeout,
    )


def _llama_server(table: Table, settings: Settings) -> Offloadable:
    from .llama_server import LlamaServer

    ready_timeout = table.number("ready_timeout")
    return LlamaServer(
        table.command("command", needed=True),
        name=table.text("name") or "llama-server",
        host=table.text("host"),
        port=table.port("port"),
        api_key=table.secret("api_key_env"),
        settings=settings,
        ready_timeout=120.0 if ready_timeout is None else ready_timeout,
        vram_bytes=table.size("vram"),
        ram_bytes=table.size("ram"),
    )


_KINDS: Final[dict[str, tuple[tuple[str, ...], Callable[[Table, Settings], Offloadable]]]] = {
    "ollama": (("url",), _ollama),
    "llama-swap": (("url", "api_key_env", "vram", "ram"), _llama_swap),
    "llama-server": (
        ("command", "host", "port", "api_key_env", "vram", "ram", "ready_timeout"),
        _llama_server,
    ),
    "hooks": (("put_aside", "restore", "holds", "vram", "ram", "timeout"), _hooks),
}
