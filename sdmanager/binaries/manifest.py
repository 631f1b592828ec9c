"""Which engines there are for which platform, pinned by digest: ``binaries.json``, typed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

from sdmanager.errors import InvalidRequestError

from ._fields import DIGEST, NAME, VERSION, FieldError, count, fields, mapping, sequence, shown, text, texts
from ._manifest_file import read_manifest, refusal
from .binary import VARIANTS
from .pins import parse_sources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .pins import Sources

_PLATFORM = re.compile(r"[a-z0-9]{1,40}-[a-z0-9_]{1,40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_ROOT = re.compile(rf"(({NAME.pattern})(/({NAME.pattern}))*)?")
_NOTE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1000}")
_URL = re.compile(r"[!-~]{1,2000}")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")


@dataclass(frozen=True, slots=True)
class Archive:
    """A file to fetch and unpack.

    Attributes:
        url: Where it is.
        sha256: Of the whole file.
        size: In bytes.
        root: The folder inside it whose content is wanted; empty for all of it.
        files: Names that must be there after unpacking.
        executables: Names that must be executable; the first one of a main archive is the engine.
    """

    url: str
    sha256: str
    size: int
    root: str
    files: tuple[str, ...]
    executables: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's own name, without what a server may want to know besides."""
        return urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Requirements:
    """The oldest system that an engine runs on; None where nothing is required.

    Attributes:
        glibc: The C library of Linux.
        nvidia_driver: NVIDIA's driver.
        compute_capability: Of an NVIDIA card.
    """

    glibc: str | None = None
    nvidia_driver: str | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One engine for one platform.

    Attributes:
        variant: One of ``VARIANTS``.
        kind: Whether it is fetched ready-made or built here.
        archives: What is fetched, the main one first; none for a build.
        requires: The oldest system that it runs on.
        version: The tag of the release, or what an engine built from the pinned sources says of itself.
    """

    variant: str
    kind: Literal["release", "source"]
    archives: tuple[Archive, ...]
    requires: Requirements
    version: str

    @property
    def size(self) -> int:
        """Bytes to fetch for all archives."""
        return sum(archive.size for archive in self.archives)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every engine that is known.

    Attributes:
        tag: The pinned release.
        offers: By platform, the engines in order of preference.
        notes: By platform, what is to say about what it lacks.
        sources: How engines are built.
        digest: SHA-256 of the file, which tells whether it is still the same.
    """

    tag: str
    offers: Mapping[str, tuple[Offer, ...]]
    notes: Mapping[str, str]
    sources: Sources
    digest: str


def load_manifest(path: Path | None = None) -> Manifest:
    """Read and check a list of engines.

    Args:
        path: The user's own; the one of this package when None.

    Raises:
        BinaryError: It is missing, cannot be read, or something in it is not as it must be.
    """
    raw, data = read_manifest(path)
    try:
        return _manifest(data, hashlib.sha256(raw).hexdigest())
    except FieldError as fault:
        raise refusal(path, str(fault)) from fault


def mirrored(url: str, mirror: str | None) -> str:
    """The same file on a mirror: its base takes the place of scheme and host.

    Args:
        url: The address of an archive.
        mirror: Base URL, such as ``https://mirror.example/github``; None changes nothing.

    Raises:
        InvalidRequestError: The mirror is no http or https URL, or has a query.
    """
    if mirror is None:
        return url
    base = _split(mirror)
    if base is None or base.query or base.fragment:
        # It may hold a password, so it is not repeated.
        raise InvalidRequestError(
            "The mirror for engine archives is not an http or https URL without a query.",
            hint="Set SDMANAGER_MIRROR to something like https://mirror.example/github.",
        )
    parts = urlsplit(url)
    return parts._replace(
        scheme=base.scheme, netloc=base.netloc, path=f"{base.path.rstrip('/')}/{parts.path.lstrip('/')}"
    ).geturl()


def _manifest(data: Mapping[str, object], digest: str) -> Manifest:
    fields(data, "", ("schema", "release", "platforms", "source"))
    release = fields(data["release"], "release", ("repository", "tag"), ("digests", "left_out"))
    text(release["repository"], "release.repository", _REPOSITORY, "a repository, as owner/name")
    tag = text(release["tag"], "release.tag", NAME, "a name")
    sources = parse_sources(data["source"])
    offers: dict[str, tuple[Offer, ...]] = {}
    notes: dict[str, str] = {}
    for platform, value in mapping(data["platforms"], "platforms").items():
        place = f"platforms.{shown(platform)}"
        text(platform, place, _PLATFORM, "the name of a platform")
        entry = fields(value, place, ("variants",), ("note",))
        if "note" in entry:
            notes[platform] = text(entry["note"], f"{place}.note", _NOTE, "a text")
        offers[platform] = _offers(entry["variants"], f"{place}.variants", tag, sources)
    _check_archives(offers)
    return Manifest(tag=tag, offers=offers, notes=notes, sources=sources, digest=digest)


def _offers(value: object, place: str, tag: str, sources: Sources) -> tuple[Offer, ...]:
    offers = [
        _offer(item, f"{place}[{index}]", tag, sources) for index, item in enumerate(sequence(value, place))
    ]
    if not offers:
        raise FieldError(f"{place} is empty")
    seen = set()
    for index, offer in enumerate(offers):
        if (offer.variant, offer.kind) in seen:
            raise FieldError(f"{place}[{index}] is the second {offer.kind} entry of {offer.variant}")
        seen.add((offer.variant, offer.kind))
    return tuple(offers)


def _offer(value: object, place: str, tag: str, sources: Sources) -> Offer:
    entry = fields(value, place, ("variant",), ("source", "archive", "dependencies", "requires"))
    variant = entry["variant"]
    if variant not in VARIANTS:
        raise FieldError(f"{place}.variant is none of {', '.join(VARIANTS)}")
    requires = _requirements(entry.get("requires", {}), f"{place}.requires")
    if "source" in entry:
        if entry["source"] is not True or "archive" in entry or "dependencies" in entry:
            raise FieldError(f"{place}.source is not true, or stands beside an archive")
        if variant not in sources.variants:
            raise FieldError(f"{place} is to be built from source, and source.variants has no {variant}")
        return Offer(variant, "source", (), requires, sources.package.engine_version)
    if "archive" not in entry:
        raise FieldError(f"{place} has neither an archive nor source")
    main = _archive(entry["archive"], f"{place}.archive")
    if not main.executables or main.executables[0] not in main.files:
        raise FieldError(f"{place}.archive.executables does not begin with one of its files")
    dependencies = sequence(entry.get("dependencies", []), f"{place}.dependencies")
    others = [_archive(item, f"{place}.dependencies[{index}]") for index, item in enumerate(dependencies)]
    if len({archive.name for archive in (main, *others)}) <= len(others):
        raise FieldError(f"{place} names two archives with the same file name")
    return Offer(variant, "release", (main, *others), requires, tag)


def _archive(value: object, place: str) -> Archive:
    entry = fields(value, place, ("url", "sha256", "size", "files", "executables"), ("root", "pinned_by"))
    if "pinned_by" in entry:
        count(entry["pinned_by"], f"{place}.pinned_by")
    name = "the name of a file"
    return Archive(
        url=_url(entry["url"], f"{place}.url"),
        sha256=text(entry["sha256"], f"{place}.sha256", DIGEST, "64 hexadecimal digits in lower case"),
        size=count(entry["size"], f"{place}.size"),
        root=text(entry.get("root", ""), f"{place}.root", _ROOT, "a relative path inside the archive"),
        files=texts(entry["files"], f"{place}.files", NAME, name),
        executables=texts(entry["executables"], f"{place}.executables", NAME, name),
    )


def _requirements(value: object, place: str) -> Requirements:
    names = Requirements.__slots__
    entry = fields(value, place, (), names)
    return Requirements(
        **{name: text(item, f"{place}.{name}", VERSION, "a version") for name, item in entry.items()}
    )


def _url(value: object, place: str) -> str:
    url = text(value, place, _URL, "a URL")
    parts = _split(url)
    if parts is None:
        raise FieldError(f"{place} is not an https URL")
    # A digest alone would do; but an address without TLS tells everybody on the way what is fetched.
    if parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or ""):
        raise FieldError(f"{place} is http, which only this machine itself may be asked by")
    if parts.fragment or not parts.path.strip("/"):
        raise FieldError(f"{place} names no file")
    return url


def _split(url: str) -> SplitResult | None:
    """The parts of an http or https URL, or None where it is none."""
    if not _URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _check_archives(offers: Mapping[str, tuple[Offer, ...]]) -> None:
    """One address cannot hold two files."""
    seen: dict[str, Archive] = {}
    for archive in (archive for each in offers.values() for offer in each for archive in offer.archives):
        known = seen.setdefault(archive.url, archive)
        if (known.sha256, known.size) != (archive.sha256, archive.size):
            raise FieldError(f"platforms names {archive.url} with different digests or sizes")
