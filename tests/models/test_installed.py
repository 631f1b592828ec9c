"""The record of an installed model: what was written comes back, and nothing else is believed."""

from __future__ import annotations

import copy
import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.models import Family, ModelDefaults, Role
from sdmanager.models.installed import InstalledFile, InstalledModel, Origin

FILE = InstalledFile(
    Role.DIFFUSION_MODEL, Path("/m/caf\udce9.gguf"), 12, 34, "ab" * 32, owned=True, repo="a/b", revision="c" * 40,
    quantisation="Q8_0",
)  # fmt: skip
MODEL = InstalledModel(
    "sd-1.5:q4_0",
    (FILE, InstalledFile(Role.VAE, Path("/m/vae.gguf"), 5, -6)),
    ModelDefaults(
        steps=4, cfg_scale=1.0, width=512, height=768, guidance=3.5, sampler="euler", scheduler="karras"
    ),
    Family.FLUX,
    Origin.PULLED,
    datetime.datetime(2026, 11, 21, 12, 30, tzinfo=datetime.UTC),
)


def through_json(model: InstalledModel) -> InstalledModel | None:
    return InstalledModel.from_json(json.loads(json.dumps(model.to_json())))


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        replace(MODEL, family=None, origin=Origin.IMPORTED, defaults=ModelDefaults()),
        replace(MODEL, files=(InstalledFile(Role.MODEL, Path("/x"), 1, 0),)),
    ],
)
def test_what_was_written_comes_back(model):
    assert through_json(model) == model


def test_what_an_engine_needs_and_how_much_it_is():
    files = MODEL.model_files()
    assert dict(files.files) == {file.role: file.path for file in MODEL.files}
    assert (files.name, files.family, files.defaults) == (MODEL.name, MODEL.family, MODEL.defaults)
    assert MODEL.size_bytes == 17


def test_a_time_elsewhere_is_the_same_time():
    data = MODEL.to_json() | {"installed_at": "2026-11-21T14:30:00+02:00"}
    model = InstalledModel.from_json(data)
    assert model == MODEL
    assert model.installed_at.utcoffset() == datetime.timedelta()


def test_what_a_later_release_adds_is_no_harm():
    data = MODEL.to_json()
    data["colour"] = "blue"
    data["files"][0]["shape"] = "round"
    assert InstalledModel.from_json(data) == MODEL


def changed(path: str, value: object) -> object:
    """The record with one value in the place of another; without it where the value is ``...``."""
    data = json.loads(json.dumps(MODEL.to_json()))
    *parents, last = path.split(".")
    place = data
    for parent in parents:
        place = place[int(parent)] if parent.isdigit() else place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((name, ...) for name in ("name", "family", "origin", "installed_at", "defaults", "files")),
        *(
            (f"files.0.{name}", ...)
            for name in ("role", "path", "size", "mtime_ns", "sha256", "owned", "repo")
        ),
        *(
            (name, value)
            for name in ("name", "origin", "installed_at")
            for value in (None, 3, "", [], "a\0b")
        ),
        ("family", "sd9"),
        ("family", 1),
        ("origin", "stolen"),
        ("installed_at", "yesterday"),
        ("installed_at", "2026-11-21T12:30:00"),
        ("installed_at", "0001-01-01T00:00:00+23:59"),
        ("defaults", None),
        ("defaults", {"steps": 0}),
        ("defaults", {"steps": 4.5}),
        ("defaults", {"steps": True}),
        ("defaults", {"cfg_scale": float("nan")}),
        ("defaults", {"cfg_scale": float("inf")}),
        ("defaults", {"cfg_scale": -1}),
        ("defaults", {"cfg_scale": "7"}),
        ("defaults", {"guidance": 10**400}),
        ("defaults", {"width": -8}),
        ("defaults", {"sampler": 3}),
        ("defaults", {"sampler": ""}),
        ("files", []),
        ("files", {}),
        ("files", None),
        ("files", [None]),
        ("files.0.role", "engine"),
        ("files.0.role", "vae"),  # twice
        ("files.0.role", "llm"),  # nothing that draws
        ("files.0.path", "relative/x.gguf"),
        ("files.0.path", ""),
        ("files.0.path", "/a\0b"),
        ("files.0.size", 0),
        ("files.0.size", -1),
        ("files.0.size", 1.0),
        ("files.0.size", True),
        ("files.0.mtime_ns", None),
        ("files.0.sha256", "AB" * 32),
        ("files.0.sha256", "ab" * 31),
        ("files.0.sha256", "ab" * 32 + "\n"),
        ("files.0.owned", 1),
        ("files.0.owned", "yes"),
        ("files.0.repo", 3),
    ],
)
def test_a_record_that_is_not_ours(path, value):
    assert InstalledModel.from_json(changed(path, value)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_anything_else_is_none(data):
    assert InstalledModel.from_json(data) is None


@given(st.data())
def test_one_value_replaced_by_anything_never_raises(data):
    """It is refused, or it is a whole model that can be written again."""
    record = copy.deepcopy(MODEL.to_json())
    places: list[tuple[dict[str, object], str]] = [(record, key) for key in record]
    places += [(file, key) for file in record["files"] for key in file]
    place, key = data.draw(st.sampled_from(places), label="where")
    place[key] = data.draw(JSON, label="what")
    model = InstalledModel.from_json(record)
    if model is not None:
        assert through_json(model) == model
        model.model_files()
