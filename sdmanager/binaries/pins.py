"""What is built, from which sources, and with what: the packaged ``sources.json``, typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1


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
    """The pins that came with this package."""
    return parse_sources(json.loads(resources.files(__package__).joinpath("sources.json").read_bytes()))


def parse_sources(data: Mapping[str, Any]) -> Sources:
    """Typed pins from plain data.

    Raises:
        ValueError: The data is of another schema.
        KeyError: Something is missing.
        TypeError: Something is unknown.
    """
    if data["schema"] != SCHEMA:
        raise ValueError(f"sources.json has schema {data['schema']!r}, not {SCHEMA}")
    return Sources(
        package=SourcePackage(**data["package"]),
        build_requirements=tuple(data["build_requirements"]),
        tool_requirements=dict(data["tool_requirements"]),
        minimum=dict(data["minimum"]),
        target=data["target"],
        options=dict(data["options"]),
        variants={name: Recipe(**recipe) for name, recipe in data["variants"].items()},
    )
