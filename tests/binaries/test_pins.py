"""The pins of what is built: nothing unpinned, nothing misspelt, and a fault is told with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sdmanager.binaries import VARIANTS
from sdmanager.binaries.pins import load_sources, parse_sources
from sdmanager.errors import InvalidRequestError

MANIFEST = Path(__file__).parents[2] / "binaries.json"


@pytest.fixture
def data() -> dict[str, Any]:
    return json.loads(MANIFEST.read_bytes())["source"]


def test_every_variant_can_be_built() -> None:
    assert set(load_sources().variants) == set(VARIANTS)


def test_the_package_is_pinned_by_version_and_digest() -> None:
    package = load_sources().package
    assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
    assert re.fullmatch(r"\d+(\.\d+)+", package.version)
    assert package.engine_version.endswith(package.version)
    assert not package.folder.startswith("/")
    assert ".." not in package.folder


def test_the_engine_says_the_version_that_is_pinned() -> None:
    sources = load_sources()
    assert sources.options["SDCPP_BUILD_VERSION"] == sources.package.engine_version


def test_options_are_texts_for_cmake() -> None:
    sources = load_sources()
    for options in (sources.options, *(recipe.options for recipe in sources.variants.values())):
        assert all(re.fullmatch(r"[A-Za-z_]+", name) for name in options)
        assert all(isinstance(value, str) and value for value in options.values())


def test_sizes_are_plausible() -> None:
    for recipe in load_sources().variants.values():
        assert 10**8 <= recipe.disk_bytes <= 10**11
        assert 10**8 <= recipe.job_bytes <= 10**10


def test_every_tool_that_is_checked_has_a_minimum() -> None:
    minimum = load_sources().minimum
    assert set(minimum) == {"cmake", "ninja", "gcc", "clang", "nvcc", "vulkan-headers", "hip"}
    assert all(re.fullmatch(r"\d+(\.\d+)*", version) for version in minimum.values())


PARTS = ["package", "build_requirements", "tool_requirements", "minimum", "target", "options", "variants"]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_refused(data: dict[str, Any], part: str) -> None:
    del data[part]
    with pytest.raises(ValueError, match=rf"source\.{part} is missing"):
        parse_sources(data)


WRONG = {
    "misspelt field": (("package", "sha265"), "x", "source.package.sha265 is no known field"),
    "digest in upper case": (("package", "sha256"), "A" * 64, "source.package.sha256"),
    "option of pip as a requirement": (("build_requirements", 0), "--index-url=x", "build_requirements[0]"),
    "line break in a name": (("package", "name"), "x\n--index-url=y", "source.package.name"),
    "path out of the archive": (("package", "folder"), "vendor/../../x", "source.package.folder"),
    "absolute path": (("package", "folder"), "/etc", "source.package.folder"),
    "path as a version": (("package", "engine_version"), "../x", "source.package.engine_version"),
    "size as a text": (("variants", "cpu", "disk_bytes"), "700", "source.variants.cpu.disk_bytes"),
    "size that is true": (("variants", "cpu", "job_bytes"), True, "source.variants.cpu.job_bytes"),
    "no size": (("package", "max_bytes"), 0, "source.package.max_bytes"),
    "size beyond all disks": (("package", "max_bytes"), 10**400, "source.package.max_bytes"),
    "unknown variant": (("variants", "opencl"), {}, "source.variants names a variant"),
    "unchecked tool": (("minimum", "perl"), "5", "source.minimum.perl is no known field"),
    "no version": (("minimum", "gcc"), "new", "source.minimum.gcc is not a version"),
    "option that is no text": (("options", "SD_WEBM"), False, "source.options.SD_WEBM"),
    "option with a space": (("options", "SD WEBM"), "OFF", "source.options.'SD WEBM'"),
    "list instead of an object": (("package",), [], "source.package is not an object"),
    "text instead of a list": (("build_requirements",), "x", "source.build_requirements is not a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(data: dict[str, Any], name: str) -> None:
    path, value, message = WRONG[name]
    inside: Any = data
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_sources(data)


def test_an_unknown_variant_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequestError, match="'opencl'") as caught:
        load_sources().recipe("opencl")
    assert "vulkan" in (caught.value.hint or "")
