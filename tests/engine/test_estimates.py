"""What earlier runs took: kept, blended, scaled, and never a reason to fail."""

from __future__ import annotations

import json

import pytest

from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.progress import Estimate

SEEN = Estimate(2.0, 1.0, 4.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "estimates.json"


@pytest.fixture
def store(path):
    return EstimateStore(path)


def test_nothing_is_known_at_first(store, path):
    assert store.get("m", "cpu", 512, 512) is None
    assert not path.exists()


def test_a_lesson_is_kept_for_the_next_process(store, path):
    store.learn("m:1", "cpu", 512, 512, SEEN)
    assert EstimateStore(path).get("m:1", "cpu", 512, 512) == SEEN
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_was_learned_elsewhere_is_not_used(store):
    store.learn("m", "cpu", 512, 512, SEEN)
    assert store.get("m", "cuda", 512, 512) is None
    assert store.get("n", "cpu", 512, 512) is None
    assert store.get("m|cpu", "", 512, 512) is None


def test_new_lessons_weigh_more_with_each_run(store):
    store.learn("m", "cpu", 64, 64, Estimate(0, 1.0, 0))
    seen = []
    for _ in range(4):
        store.learn("m", "cpu", 64, 64, Estimate(8, 2.0, 16))
        seen.append(store.get("m", "cpu", 64, 64))
    assert [estimate.step for estimate in seen] == pytest.approx([1.5, 1.75, 1.875, 1.9375])
    assert (seen[0].loading, seen[0].decoding) == (4, 8)


def test_another_size_is_scaled_by_its_pixels(store):
    store.learn("m", "cpu", 512, 512, SEEN)
    assert store.get("m", "cpu", 1024, 512) == Estimate(2.0, 2.0, 8.0)
    assert store.get("m", "cpu", 256, 256) == Estimate(2.0, 0.25, 1.0)


def test_the_nearest_size_is_scaled_and_the_same_one_is_not(store):
    store.learn("m", "cpu", 64, 64, Estimate(1, 1, 1))
    store.learn("m", "cpu", 1024, 1024, Estimate(2, 100, 100))
    assert store.get("m", "cpu", 512, 1024).step == pytest.approx(50)
    assert store.get("m", "cpu", 64, 128).step == pytest.approx(2)
    assert store.get("m", "cpu", 1024, 1024).step == 100


def test_sides_that_are_swapped_cost_the_same(store):
    store.learn("m", "cpu", 512, 768, SEEN)
    assert store.get("m", "cpu", 768, 512) == SEEN


@pytest.mark.parametrize("name", ["a|b", "灯台", "x" * 300, "no utf-8 \udcff", "", "|||", 'quo"te\\'])
def test_any_name_of_a_model(store, path, name):
    """A file name with a byte that is no UTF-8 made the run fail, after the picture had been drawn."""
    store.learn(name, "cpu", 64, 64, SEEN)
    assert EstimateStore(path).get(name, "cpu", 64, 64) == SEEN


def test_two_hundred_entries_are_kept_and_the_oldest_go(store, path):
    for number in range(203):
        store.learn(f"m{number}", "cpu", 64, 64, SEEN)
        store.learn("m0", "cpu", 64, 64, SEEN)  # used all the time: stays
    known = json.loads(path.read_bytes())
    assert len(known) == 200
    assert store.get("m0", "cpu", 64, 64) == SEEN
    assert store.get("m1", "cpu", 64, 64) is None
    assert store.get("m202", "cpu", 64, 64) == SEEN


def test_two_stores_see_each_others_lessons(path):
    first, second = EstimateStore(path), EstimateStore(path)
    first.learn("m", "cpu", 64, 64, SEEN)
    second.learn("n", "cpu", 64, 64, SEEN)
    first.learn("m", "cpu", 64, 64, Estimate(4, 3, 4))
    assert second.get("m", "cpu", 64, 64) == Estimate(3, 2, 4)
    assert first.get("n", "cpu", 64, 64) == SEEN


DAMAGED = [
    b"",
    b"{",
    b"null",
    b"[1, 2]",
    b'"text"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"m|cpu|64x64": ' + b"[" * 100_000,
    b'{"m|cpu|64x64": null}',
    b'{"m|cpu|64x64": [1, 2]}',
    b'{"m|cpu|64x64": [1, 2, 3, 4]}',
    b'{"m|cpu|64x64": [1, 2, "3"]}',
    b'{"m|cpu|64x64": [1, -2, 3]}',
    b'{"m|cpu|64x64": [1, NaN, 3]}',
    b'{"m|cpu|64x64": [1, Infinity, 3]}',
    b'{"m|cpu|64x64": [1, 1' + b"0" * 400 + b", 3]}",
    b'{"m|cpu|64x64": [1, 1' + b"0" * 5000 + b", 3]}",
    b'{"m|cpu|0x64": [1, 2, 3]}',
    b'{"m|cpu|64": [1, 2, 3]}',
    b'{"m|cpu|64x": [1, 2, 3]}',
    b'{"m|cpu|-64x-64": [1, 2, 3]}',
    b'{"m|cpu|' + b"9" * 5000 + b'x64": [1, 2, 3]}',
    b'{"m|cpu|' + b"9" * 400 + b'x64": [1, 2, 3]}',
    '{"m|cpu|²x64": [1, 2, 3]}'.encode(),
    b'{"": [1, 2, 3]}',
]


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: ascii(data[:30]))
def test_a_damaged_file_costs_an_estimate_and_never_a_run(store, path, data):
    """Numbers of hundreds of digits raised OverflowError or ValueError."""
    path.parent.mkdir()
    path.write_bytes(data)
    assert store.get("m", "cpu", 64, 64) is None
    store.learn("m", "cpu", 64, 64, SEEN)
    assert store.get("m", "cpu", 64, 64) == SEEN


def test_one_damaged_entry_does_not_cost_the_others(store, path):
    path.parent.mkdir()
    path.write_bytes(b'{"m|cpu|64x64": [1, 2, 3], "m|cpu|128x64": "x", "y": 1}')
    assert store.get("m", "cpu", 64, 64) == Estimate(1, 2, 3)


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = EstimateStore(tmp_path / "file" / "estimates.json")
    store.learn("m", "cpu", 64, 64, SEEN)
    assert store.get("m", "cpu", 64, 64) is None
    folder = EstimateStore(tmp_path)
    folder.learn("m", "cpu", 64, 64, SEEN)
    assert folder.get("m", "cpu", 64, 64) is None
