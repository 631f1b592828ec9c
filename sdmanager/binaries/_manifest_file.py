"""Reading ``binaries.json``: the one of this package, or a user's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmanager.errors import BinaryError

from ._fields import FieldError, mapping, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1

# In an installed package it lies beside the modules; in a checkout, at the top.
_PLACES = (Path(__file__).with_name("binaries.json"), Path(__file__).parents[2] / "binaries.json")
_SIZE_MAX = 4 << 20


def manifest_bytes(path: Path | None) -> bytes:
    """The file as it is, unchecked.

    Raises:
        BinaryError: It cannot be read.
    """
    for place in _PLACES if path is None else (path,):
        try:
            with place.open("rb") as file:
                raw = file.read(_SIZE_MAX + 1)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "its name is not a path"
            raise refusal(path, f"it cannot be read ({reason})") from exc
        if len(raw) > _SIZE_MAX:
            raise refusal(path, "it is too large")
        return raw
    raise refusal(path, "there is no such file")


def read_manifest(path: Path | None) -> tuple[bytes, Mapping[str, Any]]:
    """The bytes of the file and the object in it, whose schema is right; nothing else has been checked.

    Args:
        path: The user's own file; the one of this package when None.

    Raises:
        BinaryError: It cannot be read, or is no JSON object of this schema.
    """
    raw = manifest_bytes(path)
    try:
        data = mapping(json.loads(raw, object_pairs_hook=_without_repetition), "")
    except FieldError as fault:
        raise refusal(path, str(fault)) from fault
    except (ValueError, RecursionError) as exc:
        raise refusal(path, "it is not JSON") from exc
    schema = data.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise refusal(path, f"schema is not {SCHEMA}")
    return raw, data


def manifest_digest(path: Path | None) -> str:
    """SHA-256 of the file, whatever is in it: whether what was once found out still holds.

    Raises:
        BinaryError: It cannot be read.
    """
    return hashlib.sha256(manifest_bytes(path)).hexdigest()


def refusal(path: Path | None, reason: str) -> BinaryError:
    """The error for a file that cannot be used; the reason is a clause."""
    if path is None:
        return BinaryError(
            f"The list of engines that belongs to this package cannot be used: {reason}.",
            hint="Install sdmanager again.",
            details={"reason": reason},
        )
    return BinaryError(
        f"The list of engines {path.name!r} cannot be used: {reason}.",
        hint="Correct the file, or take SDMANAGER_BINARIES out of the environment to use the package's own.",
        details={"path": str(path), "reason": reason},
    )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        raise FieldError(
            f"the field {shown(next(name for name in names if names.count(name) > 1))} is there twice"
        )
    return data
