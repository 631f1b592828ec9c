"""Deleting a file of ours: a copy in the folder of models, or what was fetched into huggingface_hub's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from .installed import InstalledFile

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


class Named:
    """Places of files that other models name, or may name.

    Args:
        files: Of the records that can be read.
        unread: Records that cannot, such as those of a newer release. One that is no JSON may name any file.
        pulled: What pulls use, or will make: the folders that it will be in stay, too.
    """

    def __init__(self, files: Iterable[Path], unread: Iterable[Path], pulled: Iterable[Path] = ()) -> None:
        self._places = {place for path in files for place in places_of(path)}
        for place in (place for path in pulled for place in places_of(path)):
            self._places.update((place, *place.parents))
        self._names: set[str] = set()
        self._all = False
        for record in unread:
            try:
                texts = list(_texts_in(json.loads(record.read_bytes())))
            except (OSError, ValueError, RecursionError):
                self._all = True  # nobody knows what it names
                continue
            for text in texts:
                if os.path.isabs(text):  # noqa: PTH117
                    with contextlib.suppress(OSError, ValueError):  # no path after all
                        self._places.update(places_of(Path(text)))
                else:  # from a folder that we do not know
                    self._names.add(re.split(r"[/\\]", text)[-1].casefold())

    def __contains__(self, place: object) -> bool:
        if self._all or place in self._places:
            return True
        return isinstance(place, Path) and place.name.casefold() in self._names


def _texts_in(value: object) -> Iterator[str]:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each


def is_ours_still(file: InstalledFile) -> bool:
    """Whether a file that was copied by us is still that copy, and not one that the user has put there.

    Raises:
        OSError: It cannot be read.
    """
    found = file.path.stat()
    if found.st_size != file.size:
        return False
    if found.st_mtime_ns == file.mtime_ns:
        return True
    if file.sha256 is None:
        return False
    with file.path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


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
    _prune(path.parent, root, needed)
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
        _prune(path.parent, snapshot.parent, needed)
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


def _prune(folder: Path, root: Path, needed: Container[Path]) -> None:
    """Remove a folder and its parents, as far as they are empty and not needed, up to a root that stays."""
    while folder != root and root in folder.parents and folder not in needed:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
