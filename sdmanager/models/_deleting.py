"""Deleting a file of ours: a copy in the folder of models, or what was fetched into huggingface_hub's cache."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_REPO: Final = re.compile(r"models--.+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_RECORDS: Final = "installed"
_LINKS_MAX: Final = 40


def places_of(path: Path) -> list[Path]:
    """Where a file is, without links to folders; if that is a link, then where it leads to, and so on."""
    places: list[Path] = []
    for _ in range(_LINKS_MAX):
        path = Path(os.path.normcase(os.path.realpath(path.parent))) / path.name
        places.append(path)
        try:
            path = path.parent / path.readlink()
        except OSError:
            break
    return places


def delete_owned(path: Path, models_dir: Path, needed: Container[Path] = ()) -> int | None:
    """Delete a file, and folders that it leaves empty, where it is in a place of ours.

    Args:
        path: Of the file.
        models_dir: Copies lie in folders in it.
        needed: Places of files that must stay.

    Returns:
        Bytes freed; None where it is not there, is needed, or lies elsewhere: that is left alone, whatever a record
        says.

    Raises:
        OSError: It cannot be deleted.
    """
    path = places_of(path)[0]
    if not os.path.lexists(path) or path.is_dir() or path in needed:
        return None
    snapshot = _snapshot_of(path)
    if snapshot is not None:
        return _delete_pointer(path, snapshot, needed)
    root = Path(os.path.normcase(os.path.realpath(models_dir)))
    if root not in path.parents or path.parent == root or path.relative_to(root).parts[0] == _RECORDS:
        return None
    size = path.lstat().st_size
    path.unlink()
    _prune(path.parent, root)
    return size


def _snapshot_of(path: Path) -> Path | None:
    """The folder ``models--ORG--NAME/snapshots/COMMIT`` that a file is in."""
    for folder in path.parents:
        if (
            _COMMIT.fullmatch(folder.name)
            and folder.parent.name == "snapshots"
            and _REPO.fullmatch(folder.parent.parent.name)
        ):
            return folder
    return None


def _delete_pointer(path: Path, snapshot: Path, needed: Container[Path]) -> int:
    """Delete a file of a snapshot: a link to a blob, or the content itself where there can be no links."""
    repo = snapshot.parent.parent
    blob = _blob_of(path, repo)
    freed = 0 if path.is_symlink() else path.lstat().st_size
    path.unlink()
    if (
        blob is not None
        and blob not in needed
        and not any(_blob_of(other, repo) == blob for other in _links(snapshot.parent))
    ):
        freed += _delete_blob(blob, repo.parent, needed)
    # A program that fetches from the same repository has made the folders that it will need.
    if not any((repo / "blobs").glob("*.incomplete")):
        _prune(path.parent, snapshot.parent)
    if not snapshot.exists():
        _delete_refs(repo, snapshot.name)
    return freed


def _blob_of(link: Path, repo: Path) -> Path | None:
    """The entry of the folder of blobs that a link names; which may be a link in its turn."""
    try:
        target = Path(os.path.normpath(link.parent / link.readlink()))
    except OSError:
        return None
    return target if target.parent == repo / "blobs" else None


def _links(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _delete_blob(blob: Path, cache: Path, needed: Container[Path]) -> int:
    if not blob.is_symlink():
        size = blob.lstat().st_size if blob.exists() else 0
        blob.unlink(missing_ok=True)
        return size
    # It leads to a store that several repositories share, and only the library knows who else does.
    content = places_of(blob)[-1]
    if content in needed:
        blob.unlink()
        return 0
    from huggingface_hub import DeleteCacheStrategy

    size = content.stat().st_size if content.exists() else 0
    what: dict[str, Any] = dict.fromkeys(("refs", "repos", "snapshots"), frozenset())
    if "cache_dir" in {
        each.name for each in fields(DeleteCacheStrategy)
    }:  # older releases have no such store
        what["cache_dir"] = cache
    DeleteCacheStrategy(expected_freed_size=size, blobs=frozenset({blob}), **what).execute()
    return 0 if content.exists() else size


def _delete_refs(repo: Path, commit: str) -> None:
    """Delete the names of a commit that is gone, which the library would take for damage of its cache."""
    for ref in list(_links(repo / "refs")):
        with contextlib.suppress(OSError):
            if ref.read_bytes().strip() == commit.encode():
                ref.unlink()


def _prune(folder: Path, root: Path) -> None:
    """Remove a folder and its parents, as far as they are empty, up to a root that stays."""
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
