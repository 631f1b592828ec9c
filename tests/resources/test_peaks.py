"""What runs used is known to the next ones, whoever else learns at the same time and whatever is in the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.generation import MemoryPlan, MemoryUse
from sdmanager.models import Role
from sdmanager.resources.footprint import Footprint, Peak
from sdmanager.resources.peaks import PeakEntry, PeakStore, after_success
from sdmanager.resources.supply import Supply

GIB = 1 << 30
PLAIN, TILED = MemoryPlan(), MemoryPlan(vae_tiling=True, max_vram_gib=3.5)
CARD = Footprint("sd:1", "sd", "cuda", True, 512, 512, {Role.MODEL: 2 * GIB})
FREE = Supply(ram_free=30 * GIB, ram_total=32 * GIB, vram_free=5 * GIB, vram_total=8 * GIB, has_gpu=True)
SQUARE = (512, 512, "plain")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory.json"


@pytest.fixture
def store(path: Path) -> PeakStore:
    return PeakStore(path)


def peak(store: PeakStore, footprint: Footprint = CARD, plan: MemoryPlan = PLAIN) -> Peak | None:
    peaks = store.learned(footprint.model, footprint.backend).peaks
    return peaks.get((footprint.width, footprint.height, plan.key))


def test_nothing_is_known_of_what_never_ran(store: PeakStore, path: Path) -> None:
    assert store.learned("sd:1", "cuda").peaks == {}
    assert store.entries() == []
    assert not path.parent.exists()


def test_a_run_is_known_to_the_next_store(store: PeakStore, path: Path) -> None:
    store.learn(CARD, PLAIN, MemoryUse(GIB, 3 * GIB, weights=2 * GIB))
    learned = PeakStore(path).learned("sd:1", "cuda")
    assert learned.peaks == {SQUARE: Peak(GIB, 3 * GIB, runs=1)}
    assert learned.weights == 2 * GIB


def test_models_backends_sizes_and_flags_are_told_apart(store: PeakStore) -> None:
    store.learn(CARD, PLAIN, MemoryUse(1, 10))
    store.learn(CARD, TILED, MemoryUse(2, 20))
    store.learn(replace(CARD, width=768), PLAIN, MemoryUse(3, 30))
    store.learn(replace(CARD, backend="cpu"), PLAIN, MemoryUse(4))
    store.learn(replace(CARD, model="sd:2"), PLAIN, MemoryUse(5, 50))
    assert store.learned("sd:1", "cuda").peaks == {
        SQUARE: Peak(1, 10, runs=1),
        (512, 512, TILED.key): Peak(2, 20, runs=1),
        (768, 512, "plain"): Peak(3, 30, runs=1),
    }
    assert store.learned("sd:1", "cpu").peaks == {SQUARE: Peak(4, None, runs=1)}


def test_a_peak_rises_at_once_and_comes_down_slowly(store: PeakStore) -> None:
    for ram in (1000, 2000, 1000):
        store.learn(CARD, PLAIN, MemoryUse(ram))
    assert peak(store) == Peak(1750, None, runs=3)
    for _ in range(12):
        store.learn(CARD, PLAIN, MemoryUse(1000))
    ram = (peak(store) or Peak()).ram
    assert ram is not None
    assert 1000 <= ram < 1050


@given(st.lists(st.one_of(st.none(), st.integers(1, 1 << 40)), min_size=1, max_size=20))
def test_a_peak_is_never_below_the_newest_run_nor_above_the_highest(seen: list[int | None]) -> None:
    known = Peak()
    for each in seen:
        known = after_success(known, MemoryUse(each, each))
        if each is not None:
            assert known.ram is not None
            assert known.ram >= each
    highest = max((each for each in seen if each is not None), default=None)
    assert known.ram == known.vram
    assert (known.ram is None) == (highest is None)
    assert known.ram is None or highest is None or known.ram <= highest
    assert known.runs == len(seen)


def test_what_was_not_measured_leaves_what_is_known(store: PeakStore) -> None:
    store.learn(CARD, PLAIN, MemoryUse(GIB, 2 * GIB, 3 * GIB))
    store.learn(CARD, PLAIN, MemoryUse())
    assert peak(store) == Peak(GIB, 2 * GIB, runs=2)
    assert store.learned("sd:1", "cuda").weights == 3 * GIB


@pytest.mark.parametrize(
    ("footprint", "supply", "expected"),
    [
        (CARD, FREE, Peak(too_small_vram=5 * GIB)),
        (CARD, replace(FREE, unified=True), Peak(too_small_ram=30 * GIB)),
        (CARD, replace(FREE, vram_free=None), None),
        (CARD, replace(FREE, vram_free=0), None),
        (replace(CARD, on_gpu=False), FREE, Peak(too_small_ram=30 * GIB)),
        (replace(CARD, on_gpu=False), Supply(), None),
        (replace(CARD, on_gpu=None), FREE, None),
        (replace(CARD, on_gpu=None), replace(FREE, has_gpu=False), Peak(too_small_ram=30 * GIB)),
    ],
)
def test_what_was_free_when_memory_ran_out_is_too_small(
    store: PeakStore, footprint: Footprint, supply: Supply, expected: Peak | None
) -> None:
    store.learn_too_small(footprint, PLAIN, supply)
    assert peak(store, footprint) == expected


def test_an_engine_of_which_nobody_knows_is_known_once_it_was_on_a_card(store: PeakStore) -> None:
    own = replace(CARD, on_gpu=None)
    store.learn(own, TILED, MemoryUse(GIB, 2 * GIB))
    store.learn_too_small(own, PLAIN, FREE)
    assert peak(store, own) == Peak(too_small_vram=5 * GIB)


def test_who_knows_which_memory_ran_out_says_so(store: PeakStore) -> None:
    store.learn_too_small(CARD, PLAIN, FREE, kind="ram")
    assert peak(store) == Peak(too_small_ram=30 * GIB)


def test_of_several_that_were_too_small_the_largest_counts(store: PeakStore) -> None:
    for free in (4, 6, 5):
        store.learn_too_small(CARD, PLAIN, replace(FREE, vram_free=free))
    assert peak(store) == Peak(too_small_vram=6)


def test_a_success_that_was_measured_shows_the_true_peak(store: PeakStore) -> None:
    store.learn(CARD, PLAIN, MemoryUse(GIB, 2 * GIB))
    store.learn_too_small(CARD, PLAIN, FREE)
    assert peak(store) == Peak(GIB, 2 * GIB, None, 5 * GIB, runs=1)
    store.learn(CARD, PLAIN, MemoryUse(GIB, None))
    assert peak(store) == Peak(GIB, 2 * GIB, None, 5 * GIB, runs=2)
    store.learn(CARD, TILED, MemoryUse(GIB, GIB))
    assert peak(store) == Peak(GIB, 2 * GIB, None, 5 * GIB, runs=2)
    store.learn(CARD, PLAIN, MemoryUse(GIB, 3 * GIB))
    assert peak(store) == Peak(GIB, 3 * GIB, runs=3)


def test_a_shortage_fades_with_other_runs_of_this_size_or_larger(store: PeakStore) -> None:
    store.learn_too_small(CARD, PLAIN, FREE)
    others = [
        (replace(CARD, width=256), TILED),
        (replace(CARD, backend="cpu"), TILED),
        (replace(CARD, model="sd:2"), TILED),
    ]
    for footprint, plan in others * 5:
        store.learn(footprint, plan, MemoryUse(GIB, GIB))
    for count in range(4):
        assert peak(store) == Peak(too_small_vram=5 * GIB), count
        store.learn(replace(CARD, width=768 if count % 2 else 512), TILED, MemoryUse(GIB, GIB))
    assert peak(store) == Peak(too_small_vram=5 * GIB)
    store.learn(CARD, TILED, MemoryUse(GIB, GIB))
    assert peak(store) is None
    assert "plain" not in {entry.flags for entry in store.entries()}


def test_another_shortage_begins_anew(store: PeakStore) -> None:
    store.learn_too_small(CARD, PLAIN, FREE)
    for _ in range(4):
        store.learn(CARD, TILED, MemoryUse(GIB, GIB))
    store.learn_too_small(CARD, PLAIN, FREE)
    store.learn(CARD, TILED, MemoryUse(GIB, GIB))
    assert peak(store) == Peak(too_small_vram=5 * GIB)


DAY = 24 * 3600


@pytest.mark.parametrize(
    ("later", "kept"), [(0, True), (6.9 * DAY, True), (7.1 * DAY, False), (-8 * DAY, False)]
)
def test_a_shortage_is_forgotten_after_a_week(path: Path, later: float, kept: bool) -> None:
    clock = [1e9]
    store = PeakStore(path, now=lambda: clock[0])
    store.learn(CARD, PLAIN, MemoryUse(GIB, None))
    store.learn_too_small(CARD, PLAIN, FREE)
    # It is read before, so that the file itself does not change.
    assert peak(store) == Peak(GIB, None, None, 5 * GIB, runs=1)
    clock[0] += later
    assert peak(store) == Peak(GIB, None, None, 5 * GIB if kept else None, runs=1)
    assert [entry.peak for entry in store.entries()] == [peak(store)]
    store.learn(replace(CARD, width=64), PLAIN, MemoryUse(GIB))
    assert (json.loads(path.read_text())["runs"][0]["too_small_vram"] is not None) == kept


def test_a_shortage_of_an_unknown_time_does_not_count(store: PeakStore, path: Path) -> None:
    store.learn_too_small(CARD, PLAIN, FREE)
    edit(path, "runs", short_at=None)
    assert peak(store) is None
    assert store.entries() == []


def test_a_recommendation_is_kept_by_size(store: PeakStore, path: Path) -> None:
    plan = replace(TILED, diffusion_flash_attention=False, evictions=("ollama",), reasons=("why",))
    store.recommend(CARD, plan)
    store.recommend(replace(CARD, width=768), PLAIN)
    found = PeakStore(path).learned("sd:1", "cuda").recommended
    assert found == {(512, 512): plan, (768, 512): PLAIN}
    assert (found[512, 512].evictions, found[512, 512].reasons) == ((), ())
    assert PeakStore(path).learned("sd:1", "cpu").recommended == {}
    store.recommend(CARD, PLAIN)
    assert store.learned("sd:1", "cuda").recommended[512, 512] == PLAIN


def test_entries_are_shown_newest_first_with_names(store: PeakStore) -> None:
    store.learn(CARD, PLAIN, MemoryUse(1, 2))
    store.learn(CARD, TILED, MemoryUse(3, 4))
    store.recommend(CARD, PLAIN)
    store.learn_too_small(replace(CARD, name="renamed"), PLAIN, FREE)
    assert store.entries() == [
        PeakEntry("renamed", "cuda", 512, 512, "plain", Peak(1, 2, None, 5 * GIB, 1), recommended=True),
        PeakEntry("sd", "cuda", 512, 512, TILED.key, Peak(3, 4, runs=1)),
    ]


def test_the_oldest_go(store: PeakStore, path: Path) -> None:
    store.learn(CARD, PLAIN, MemoryUse(7, weights=1))
    data = json.loads(path.read_text())
    data["runs"] = [{**data["runs"][0], "model": f"m:{n}"} for n in range(300)]
    data["weights"] = [{**data["weights"][0], "model": f"m:{n}"} for n in range(300)]
    data["recommended"] = [
        {"model": f"m:{n}", "backend": "cuda", "width": 1, "height": 1, "flags": {}} for n in range(300)
    ]
    path.write_text(json.dumps(data))
    store.learn(replace(CARD, model="m:150"), PLAIN, MemoryUse(7, weights=1))
    data = json.loads(path.read_text())
    assert [len(data[key]) for key in ("runs", "weights", "recommended")] == [200, 200, 200]
    kept = [f"m:{n}" for n in range(100, 300) if n != 150]
    assert [run["model"] for run in data["runs"]] == [*kept, "m:150"]
    assert data["runs"][-1]["runs"] == 2


JUNK: list[Any] = [
    b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"runs": 3}', b'{"runs": [1, null, []]}',
    b'{"runs": [{}], "weights": {}, "recommended": "x"}', b'{"runs": [{"model": "sd:1"}]}',
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
def test_a_broken_file_is_forgotten(store: PeakStore, path: Path, junk: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(junk)
    assert store.entries() == []
    store.learn(CARD, PLAIN, MemoryUse(GIB))
    assert peak(store) == Peak(GIB, runs=1)


def edit(path: Path, part: str, **fields: object) -> None:
    data = json.loads(path.read_text())
    data[part][0].update(fields)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("value", [-1, 0, True, 1.5, "9", None, [], 1 << 60, 1e400])
def test_a_number_that_cannot_be_is_unknown(store: PeakStore, path: Path, value: object) -> None:
    store.learn(CARD, PLAIN, MemoryUse(GIB, GIB, GIB))
    edit(path, "runs", ram=value, too_small_vram=value)
    edit(path, "weights", bytes=value)
    assert peak(store) == Peak(None, GIB, runs=1)
    assert store.learned("sd:1", "cuda").weights is None
    edit(path, "runs", width=value)
    assert store.entries() == []


def test_a_recommendation_of_a_newer_release_is_read_as_far_as_it_is_known(
    store: PeakStore, path: Path
) -> None:
    store.recommend(CARD, TILED)
    data = json.loads(path.read_text())
    data["recommended"][0]["flags"]["warp"] = 9
    data["tomorrow"] = {}
    path.write_text(json.dumps(data))
    assert store.learned("sd:1", "cuda").recommended == {(512, 512): TILED}
    for name, value in (
        ("vae_tiling", "yes"),
        ("vae_tiling", 1),
        ("max_vram_gib", True),
        ("max_vram_gib", -1),
    ):
        store.recommend(CARD, TILED)
        data = json.loads(path.read_text())
        data["recommended"][0]["flags"][name] = value
        path.write_text(json.dumps(data))
        assert store.learned("sd:1", "cuda").recommended == {}


def test_a_change_by_another_process_is_seen(store: PeakStore, path: Path) -> None:
    store.learn(CARD, PLAIN, MemoryUse(GIB))
    assert peak(store) == Peak(GIB, runs=1)
    PeakStore(path).learn(CARD, PLAIN, MemoryUse(2 * GIB))
    assert peak(store) == Peak(2 * GIB, runs=2)


LEARN = """
import sys
from pathlib import Path
from sdmanager.generation import MemoryPlan, MemoryUse
from sdmanager.resources.footprint import Footprint
from sdmanager.resources.peaks import PeakStore
store = PeakStore(Path(sys.argv[1]))
for n in range(15):
    own = Footprint("m:" + sys.argv[2], "m", "cpu", False, 64, 64, {})
    shared = Footprint("m:shared", "m", "cpu", False, 64, 64, {})
    for footprint in (own, shared):
        store.learn(footprint, MemoryPlan(), MemoryUse(1000 + n))
"""


def test_processes_that_learn_at_once_lose_nothing(store: PeakStore, path: Path) -> None:
    command = [sys.executable, "-c", LEARN, str(path)]
    learners = [subprocess.Popen([*command, str(n)]) for n in range(3)]
    assert [learner.wait(60) for learner in learners] == [0, 0, 0]
    runs = {model: store.learned(model, "cpu").peaks[64, 64, "plain"].runs for model in ("m:0", "m:1", "m:2")}
    assert runs == dict.fromkeys(runs, 15)
    assert store.learned("m:shared", "cpu").peaks[64, 64, "plain"].runs == 45


def test_threads_that_learn_at_once_lose_nothing(store: PeakStore) -> None:
    def learn() -> None:
        for _ in range(10):
            store.learn(CARD, PLAIN, MemoryUse(GIB))

    threads = [threading.Thread(target=learn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert peak(store) == Peak(GIB, runs=40)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_folder_that_may_not_be_written_costs_the_lesson(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    PeakStore(tmp_path / "memory.json").learn(CARD, PLAIN, MemoryUse(GIB))


def test_a_place_that_is_none_costs_the_lesson(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = PeakStore(tmp_path / "file" / "memory.json")
    store.learn(CARD, PLAIN, MemoryUse(GIB))
    store.learn_too_small(CARD, PLAIN, FREE)
    store.recommend(CARD, PLAIN)
    assert store.entries() == []


def test_a_lock_that_is_never_given_back_costs_the_lesson(
    store: PeakStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr("sdmanager.resources.peaks._LOCK_SECONDS", 0.05)
    path.parent.mkdir()
    with FileLock(f"{path}.lock"):
        store.learn(CARD, PLAIN, MemoryUse(GIB))
    assert store.entries() == []
    store.learn(CARD, PLAIN, MemoryUse(GIB))
    assert len(store.entries()) == 1


def test_reading_a_full_file_takes_no_time(store: PeakStore, path: Path) -> None:
    store.learn(CARD, PLAIN, MemoryUse(7))
    data = json.loads(path.read_text())
    data["runs"] = [{**data["runs"][0], "model": f"m:{n}"} for n in range(200)]
    path.write_text(json.dumps(data))
    store.learned("m:1", "cuda")
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        store.learned("m:1", "cuda")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.0005
