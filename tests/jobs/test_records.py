"""Generations as JSON and back; and whatever else a file may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import a_result, some_progress

from sdmanager.generation import MemoryPlan, MemoryUse, PreviewTimings
from sdmanager.jobs import Failure, Generation, Status
from sdmanager.jobs.records import from_json, to_json

FOLDER = Path("/somewhere/gen_1")
FILES = (FOLDER / "0.png", FOLDER / "1.png")

PENDING = Generation("gen_1", Status.PENDING, 1000, 1000, key="mine", fingerprint="abc")
SOUND = {
    "pending": PENDING,
    "in progress": Generation("gen_1", Status.IN_PROGRESS, 1000, 2000),
    "complete": Generation("gen_1", Status.COMPLETE, 1000, 2000, result=a_result(*FILES)),
    "without previews": Generation(
        "gen_1", Status.COMPLETE, 1000, 2000, result=a_result(*FILES, previews=None)
    ),
    "with no preview yet": Generation(
        "gen_1", Status.COMPLETE, 1000, 2000, result=a_result(*FILES, previews=PreviewTimings())
    ),
    "with its memory": Generation(
        "gen_1",
        Status.COMPLETE,
        1000,
        2000,
        result=a_result(
            *FILES,
            plan=MemoryPlan(stream_layers=True, evictions=("ollama",), reasons=("Why.",)),
            memory=MemoryUse(ram=5, weights=3),
            out_of_memory=(MemoryPlan(), MemoryPlan(vae_tiling=True)),
        ),
    ),
    "error": Generation("gen_1", Status.ERROR, 1000, 2000, error=Failure("IO_ERROR", "Full.", None)),
    "cancelled": Generation("gen_1", Status.CANCELLED, 1000, 2000),
    "names that are no UTF-8": Generation(
        "gen_1",
        Status.COMPLETE,
        0,
        0,
        result=a_result(*FILES, model="mod\udcffel"),
        key="k\udc80",
        fingerprint="é",
    ),
    "an error with such a name": Generation(
        "gen_1", Status.ERROR, 0, 0, error=Failure("X", "mod\udcffel", "h\udcff")
    ),
}


def through_a_file(data):
    return json.loads(json.dumps(data).encode("ascii"))


@pytest.mark.parametrize("name", SOUND)
def test_what_was_written_is_read(name):
    assert from_json(through_a_file(to_json(SOUND[name])), FOLDER) == SOUND[name]


def test_evictions_and_reasons_are_read_too():
    read = from_json(through_a_file(to_json(SOUND["with its memory"])), FOLDER)
    assert (read.result.plan.evictions, read.result.plan.reasons) == (("ollama",), ("Why.",))


def test_a_record_of_an_older_version_is_read():
    data = through_a_file(to_json(SOUND["complete"]))
    for name in ("memory", "out_of_memory"):
        del data["result"][name]
    for name in ("stream_layers", "evictions", "reasons"):
        del data["result"]["plan"][name]
    del data["result"]["timings"]["offloading"]
    assert from_json(data, FOLDER) == SOUND["complete"]


def test_position_and_progress_are_of_the_process_that_ended():
    moving = Generation("gen_1", Status.IN_PROGRESS, 1, 2, position=None, progress=some_progress())
    assert from_json(through_a_file(to_json(moving)), FOLDER) == Generation("gen_1", Status.IN_PROGRESS, 1, 2)


def test_pictures_are_in_the_folder_whatever_the_record_says():
    data = through_a_file(to_json(SOUND["complete"]))
    for image in data["result"]["images"]:
        image.update(source="/etc/passwd", file="../../secret", path="../x")
    found = from_json(data, FOLDER)
    assert tuple(image.source for image in found.result.images) == FILES


def changed(path, value):
    data = through_a_file(to_json(SOUND["complete"]))
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return data


HOSTILE = {
    "another folder's": changed(["id"], "gen_2"),
    "a path as id": changed(["id"], "../gen_1"),
    "an id that is a number": changed(["id"], 1),
    "another format": changed(["format"], 2),
    "an unknown status": changed(["status"], "done"),
    "a status that is a list": changed(["status"], ["complete"]),
    "pending with a result": changed(["status"], "pending"),
    "no result": changed(["result"], None),
    "a result that is text": changed(["result"], "x"),
    "no pictures": changed(["result", "images"], []),
    "too many pictures": changed(["result", "images"], [{"seed": 1, "width": 1, "height": 1}] * 101),
    "pictures that are a number": changed(["result", "images"], 3),
    "a picture that is null": changed(["result", "images", 0], None),
    "a picture without a seed": changed(["result", "images", 0], {"width": 1, "height": 1}),
    "a huge seed": changed(["result", "images", 0, "seed"], 10**4000),
    "a negative width": changed(["result", "images", 0, "width"], -1),
    "a huge height": changed(["result", "images", 0, "height"], 10**400),
    "a time that is no number": changed(["created_at"], "yesterday"),
    "a huge time": changed(["updated_at"], 10**300),
    "a negative time": changed(["created_at"], -1),
    "an end before the beginning": changed(["updated_at"], 999),
    "a broken time": changed(["updated_at"], 1.5e3 + 0.5),
    "seconds that are no number": changed(["result", "time_taken"], float("nan")),
    "endless seconds": changed(["result", "time_taken"], float("inf")),
    "endless loading": changed(["result", "timings", "loading"], float("inf")),
    "memory that is no number": changed(["result", "plan", "max_vram_gib"], float("nan")),
    "previews that are no number": changed(["result", "previews", "reading"], float("nan")),
    "a plan that is a list": changed(["result", "plan"], []),
    "a model that is a number": changed(["result", "model"], 1),
    "a key that is a list": changed(["key"], ["x"]),
    "an error in a complete one": changed(["error"], {"code": "X", "message": "y", "hint": None}),
    "an error without one": {**through_a_file(to_json(SOUND["error"])), "error": None},
    "an error without a message": {**through_a_file(to_json(SOUND["error"])), "error": {"code": "X"}},
    "an object": {},
    "a list": [],
    "a text": "gen_1",
    "null": None,
    "a number": 1e300,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_none(name):
    assert from_json(HOSTILE[name], FOLDER) is None


def test_each_field_is_needed():
    data = through_a_file(to_json(SOUND["complete"]))
    assert from_json(data, FOLDER) is not None
    for name in data:
        assert from_json({key: value for key, value in data.items() if key != name}, FOLDER) is None, name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(to_json(PENDING))), JSON)
def test_anything_in_a_field_is_refused_or_sound(name, value):
    for generation in SOUND.values():
        found = from_json({**to_json(generation), name: value}, FOLDER)
        if found is not None:
            assert from_json(through_a_file(to_json(found)), FOLDER) == found


@given(JSON)
def test_anything_at_all_is_refused(value):
    assert from_json(value, FOLDER) is None
