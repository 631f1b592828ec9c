"""Models by the names that clients of this API know them by. Pure but for the last function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdmanager.server.face import ModelEntry, Models

_HASH_LENGTH: Final = 10


def short_hash(entry: ModelEntry) -> str | None:
    """The first letters of its digest; None where that is not known."""
    return entry.sha256[:_HASH_LENGTH] if entry.sha256 is not None else None


def title(entry: ModelEntry) -> str:
    """What a list of models shows: the name, and the hash in brackets where it is known."""
    digest = short_hash(entry)
    return entry.name if digest is None else f"{entry.name} [{digest}]"


def row(entry: ModelEntry) -> dict[str, object]:
    """One of ``sd-models``; the file by its name alone, because where it lies is nobody's business."""
    return {
        "title": title(entry),
        "model_name": entry.name,
        "hash": short_hash(entry),
        "sha256": entry.sha256,
        "filename": entry.path.name,
        "config": None,
    }


def match(wanted: str, entries: Iterable[ModelEntry]) -> ModelEntry | None:
    """The model that is meant: by name, title, hash, or name of its file if no other has that.

    Args:
        wanted: In the client's words.
        entries: All models.
    """
    known = list(entries)
    plain = wanted.strip()
    for entry in known:
        if plain in (entry.name, title(entry)):
            return entry
    lowered = plain.lower()
    for entry in known:
        if entry.sha256 is not None and lowered in (entry.sha256, short_hash(entry)):
            return entry
    # A title that was remembered with another hash, or none.
    bare = lowered.partition(" [")[0]
    for entry in known:
        if bare == entry.name.lower():
            return entry
    files = [entry for entry in known if bare in (entry.path.name.lower(), entry.path.stem.lower())]
    return files[0] if len(files) == 1 else None


async def resolve(wanted: str, models: Models) -> str:
    """Name of the model that is meant.

    Raises:
        ModelNotFoundError: There is none.
    """
    if wanted == models.current:
        return wanted
    found = match(wanted, await models.list())
    if found is None:
        raise ModelNotFoundError(
            "There is no model of this name.", hint="GET /sdapi/v1/sd-models lists what there is."
        )
    return found.name
