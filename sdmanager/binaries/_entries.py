"""Which entries of an archive may be unpacked: rules on names, sizes and links, without any I/O."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Kind = Literal["file", "folder", "link"]
Parts = tuple[str, ...]

_NAME_BYTES_MAX = 255
_PATH_BYTES_MAX = 1024
_DEPTH_MAX = 32
_CHAIN_MAX = 8
# An archive that holds nothing but padding shrinks further than any that has content.
_ALWAYS_ALLOWED = 1 << 20
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{device}{number}" for device in ("COM", "LPT") for number in range(10)}
)


class DamagedError(Exception):
    """The archive contradicts itself, or ends too soon."""


class UnsafeError(Exception):
    """Why an archive, or one of its entries, is refused."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an archive says of one of its entries.

    Attributes:
        name: As it stands in the archive.
        kind: Nothing else is ever unpacked.
        size: Of the content; that of a link is its target.
        executable: Whether the archive says that its owner may execute it.
    """

    name: str
    kind: Kind
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        files: Entries.
        total: Unpacked bytes.
        ratio: Unpacked bytes to one of the archive's own.
        packed: Size of the archive.
    """

    files: int
    total: int
    ratio: float
    packed: int

    @property
    def unpacked(self) -> int:
        """Bytes that anything unpacked from the archive may have in all."""
        return max(_ALWAYS_ALLOWED, int(self.ratio * self.packed))

    def check_count(self, count: int) -> None:
        """Refuse too many entries."""
        if count > self.files:
            raise UnsafeError(f"it has more than {self.files} entries")


class Ledger:
    """All entries seen so far; each new one is judged by itself and beside the others."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0
        self._size = 0
        self._seen: dict[Parts, tuple[Parts, bool]] = {}

    def admit(self, entry: Entry) -> Parts:
        """The parts of the entry's path; none for the folder that everything is in.

        Raises:
            UnsafeError: The entry is refused.
        """
        self._count += 1
        self._limits.check_count(self._count)
        if entry.size < 0 or (entry.kind == "folder" and entry.size > 0):
            raise UnsafeError(f"{shown(entry.name)} has an impossible size")
        if entry.kind == "link" and entry.size > _NAME_BYTES_MAX:
            raise UnsafeError(f"the target of {shown(entry.name)} is too long")
        self._size += entry.size
        if self._size > self._limits.total:
            raise UnsafeError(f"it holds more than {self._limits.total} bytes")
        if self._size > self._limits.unpacked:
            raise UnsafeError(f"it unpacks to more than {self._limits.ratio:g} times its size")
        parts = _parts(entry)
        self._place(entry, parts)
        return parts

    def _place(self, entry: Entry, parts: Parts) -> None:
        keys = tuple(map(_key, parts))
        for depth in range(1, len(parts)):
            if self._seen.setdefault(keys[:depth], (parts[:depth], True)) != (parts[:depth], True):
                raise UnsafeError(
                    f"{shown(entry.name)} is below something that is no folder, or named otherwise"
                )
        is_folder = entry.kind == "folder"
        known = self._seen.get(keys)
        # A folder may be there twice: for itself, and as the place of a file.
        if keys and known is not None and (known != (parts, True) or not is_folder):
            raise UnsafeError(f"{shown(entry.name)} is there twice")
        self._seen[keys] = (parts, is_folder)


def check_links(links: Mapping[Parts, str], files: Collection[Parts]) -> None:
    """Refuse links that do not lead to a regular file of the archive, in their own folder.

    Args:
        links: The target of each, by path.
        files: Paths of all regular files.

    Raises:
        UnsafeError: Names the link.
    """
    for path in links:
        place: Parts = path
        for _ in range(_CHAIN_MAX):
            name = links[place]
            if _is_bad(name):
                raise UnsafeError(f"the link {shown('/'.join(path))} leads to {shown(name)}, no sibling")
            place = (*path[:-1], name)
            if place not in links:
                break
        if place not in files:
            raise UnsafeError(f"the link {shown('/'.join(path))} does not lead to a file of the archive")


def shown(name: str) -> str:
    """A name for a message: quoted, escaped, and not endless."""
    return repr(name if len(name) <= 80 else f"{name[:60]}…{name[-15:]}")


def _parts(entry: Entry) -> Parts:
    name = entry.name
    if entry.kind == "folder":
        if name in {".", "./"}:
            return ()
        name = name.removesuffix("/")
    parts = tuple(name.removeprefix("./").split("/"))
    too_long = len(parts) > _DEPTH_MAX or len(name) > _PATH_BYTES_MAX
    if too_long or any(map(_is_bad, parts)) or len(name.encode()) > _PATH_BYTES_MAX:
        raise UnsafeError(f"the name {shown(entry.name)} is not a plain relative one")
    return parts


def _is_bad(part: str) -> bool:
    """Whether a name means something else than one file, on any system, or after normalisation."""
    for form in (part, unicodedata.normalize("NFKC", part)):
        # Printable excludes lone surrogates too, which have no encoding.
        if form in {"", ".", ".."} or not form.isprintable() or any(sign in form for sign in '/\\:*?"<>|'):
            return True
        if form[-1] in " ." or form.partition(".")[0].rstrip().upper() in _RESERVED:
            return True
    return len(part.encode()) > _NAME_BYTES_MAX


def _key(part: str) -> str:
    """Equal for names that some file system takes for the same."""
    folded = unicodedata.normalize("NFKC", part).casefold()
    return unicodedata.normalize("NFKC", folded).casefold()
