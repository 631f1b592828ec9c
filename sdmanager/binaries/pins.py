"""What is built, from which sources, and with what: the part ``source`` of ``binaries.json``, typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError

from ._fields import DIGEST, NAME, PRINTABLE, VERSION, FieldError, count, fields, mapping, table, text, texts
from ._manifest_file import read_manifest, refusal
from .binary import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOOLS = ("cmake", "ninja")
_CHECKED = (*_TOOLS, "gcc", "clang", "nvcc", "vulkan-headers", "hip")
_FOLDER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
# As pip takes them; what begins with a dash would be an option of pip.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?([<>=!~]=?[0-9][0-9A-Za-z.*,<>=!~]*)?"
)
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """The pinned source distribution.

    Attributes:
        name: On the Python package index.
        version: Exactly this one.
        sha256: Of the archive.
        folder: Where the engine is, below the archive's only top folder.
        engine_version: What a binary built from it says of itself.
        max_files: More entries than this are refused.
        max_bytes: More unpacked bytes than this are refused.
    """

    name: str
    version: str
    sha256: str
    folder: str
    engine_version: str
    max_files: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one variant is built.

    Attributes:
        options: CMake options besides those of every variant.
        disk_bytes: Free space that the build needs.
        job_bytes: Memory that one compiler process needs.
    """

    options: Mapping[str, str]
    disk_bytes: int
    job_bytes: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything pinned about building an engine.

    Attributes:
        package: The source distribution.
        build_requirements: What pip needs to read that distribution.
        tool_requirements: By tool, what to fetch from the index where PATH has none that is new enough.
        minimum: By tool, the oldest version that will do.
        target: The CMake target, and the name of the executable.
        options: CMake options of every variant.
        variants: By name, how each is built.
    """

    package: SourcePackage
    build_requirements: tuple[str, ...]
    tool_requirements: Mapping[str, str]
    minimum: Mapping[str, str]
    target: str
    options: Mapping[str, str]
    variants: Mapping[str, Recipe]

    def recipe(self, variant: str) -> Recipe:
        """How to build a variant.

        Raises:
            InvalidRequestError: No such variant is known.
        """
        try:
            return self.variants[variant]
        except KeyError:
            raise InvalidRequestError(
                f"No engine variant is called {variant!r}.", hint=f"Use one of {', '.join(self.variants)}."
            ) from None


def load_sources() -> Sources:
    """The pins that came with this package.

    Raises:
        BinaryError: The package is damaged.
    """
    _, data = read_manifest(None)
    try:
        return parse_sources(data.get("source"))
    except FieldError as fault:
        raise refusal(None, str(fault)) from fault


def parse_sources(value: object, place: str = "source") -> Sources:
    """Typed pins from plain data.

    Args:
        value: The object.
        place: Where it stands, for the messages.

    Raises:
        ValueError: Something is missing, unknown, or not what it must be; the message names its place.
    """
    parts = ("package", "build_requirements", "tool_requirements", "minimum", "target", "options", "variants")
    data = fields(value, place, parts)
    fields(data["tool_requirements"], f"{place}.tool_requirements", _TOOLS)
    fields(data["minimum"], f"{place}.minimum", _CHECKED)
    requirement = "a requirement"
    return Sources(
        package=_package(data["package"], f"{place}.package"),
        build_requirements=texts(
            data["build_requirements"], f"{place}.build_requirements", _REQUIREMENT, requirement
        ),
        tool_requirements=table(
            data["tool_requirements"], f"{place}.tool_requirements", _REQUIREMENT, requirement
        ),
        minimum=table(data["minimum"], f"{place}.minimum", VERSION, "a version"),
        target=text(data["target"], f"{place}.target", NAME, "a name"),
        options=_options(data["options"], f"{place}.options"),
        variants=_recipes(data["variants"], f"{place}.variants"),
    )


def _package(value: object, place: str) -> SourcePackage:
    parts = ("name", "version", "sha256", "folder", "engine_version", "max_files", "max_bytes")
    data = fields(value, place, parts)
    return SourcePackage(
        name=text(data["name"], f"{place}.name", NAME, "a name"),
        version=text(data["version"], f"{place}.version", NAME, "a version"),
        sha256=text(data["sha256"], f"{place}.sha256", DIGEST, "64 hexadecimal digits in lower case"),
        folder=text(data["folder"], f"{place}.folder", _FOLDER, "a relative path"),
        engine_version=text(data["engine_version"], f"{place}.engine_version", NAME, "a name"),
        max_files=count(data["max_files"], f"{place}.max_files"),
        max_bytes=count(data["max_bytes"], f"{place}.max_bytes"),
    )


def _recipes(value: object, place: str) -> dict[str, Recipe]:
    recipes = {}
    for variant, recipe in mapping(value, place).items():
        if variant not in VARIANTS:
            raise FieldError(f"{place} names a variant that is none of {', '.join(VARIANTS)}")
        inside = f"{place}.{variant}"
        data = fields(recipe, inside, ("options", "disk_bytes", "job_bytes"))
        recipes[variant] = Recipe(
            options=_options(data["options"], f"{inside}.options"),
            disk_bytes=count(data["disk_bytes"], f"{inside}.disk_bytes"),
            job_bytes=count(data["job_bytes"], f"{inside}.job_bytes"),
        )
    return recipes


def _options(value: object, place: str) -> dict[str, str]:
    return table(value, place, PRINTABLE, "a text", names=_OPTION)
