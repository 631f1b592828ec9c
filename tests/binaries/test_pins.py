"""The packaged pins: nothing unpinned, nothing misspelt."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources
from typing import Any

import pytest

from sdmanager.binaries import VARIANTS
from sdmanager.binaries.pins import load_sources, parse_sources
from sdmanager.errors import InvalidRequestError


@pytest.fixture
def data() -> dict[str, Any]:
    return json.loads(resources.files("sdmanager.binaries").joinpath("sources.json").read_bytes())


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


def test_another_schema_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema 2"):
        parse_sources(data | {"schema": 2})


@pytest.mark.parametrize(
    "part", ["package", "minimum", "target", "options", "variants", "build_requirements"]
)
def test_a_missing_part_is_refused(data: dict[str, Any], part: str) -> None:
    del data[part]
    with pytest.raises(KeyError):
        parse_sources(data)


def test_an_unknown_field_is_refused(data: dict[str, Any]) -> None:
    changed = copy.deepcopy(data)
    changed["package"]["sha265"] = "x"
    with pytest.raises(TypeError):
        parse_sources(changed)


def test_an_unknown_variant_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequestError, match="'opencl'") as caught:
        load_sources().recipe("opencl")
    assert "vulkan" in (caught.value.hint or "")
