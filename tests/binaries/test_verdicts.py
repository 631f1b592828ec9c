"""What is kept about engines, and for how long it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.binaries import Capabilities, EngineBinary, Meaning, Proof, meaning_of
from sdmanager.binaries.marks import looks_unchanged, marks_from_json, take_marks
from sdmanager.binaries.verdicts import (
    Book,
    Choice,
    Surroundings,
    Verdict,
    read_book,
    verdicts_path,
    write_book,
)
from sdmanager.errors import (
    BlankImageError,
    BuildFailedError,
    BuildToolsMissingError,
    DownloadError,
    EngineCrashedError,
    EngineHungError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    NoDeviceError,
    StorageError,
)
from sdmanager.settings import Settings

HERE = Surroundings("card", "manifest", "1")
PROOF = Proof(True, "demo", 64, 64, 4, 1.25, device="CUDA0", slow=False, note=None)
MORNING = datetime(2026, 11, 21, 8, tzinfo=UTC)
NOON = "2026-11-21T12:00:00+00:00"


def engine_at(folder: Path, variant: str = "cpu") -> EngineBinary:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sd-cli"
    path.write_bytes(b"engine")
    (folder / "libhelp.so").write_bytes(b"library")
    (folder / "engine.json").write_text("{}")
    capabilities = Capabilities(flags=frozenset({"--model"}), samplers=("euler",))
    return EngineBinary(
        path, variant, "one", "release", "0" * 64, capabilities, datetime(2026, 5, 1, tzinfo=UTC)
    )


@pytest.fixture
def kept(home: Settings) -> Book:
    engine = engine_at(home.engines_dir / "cpu-one")
    works = Verdict(NOON, proof=PROOF, engine=engine, marks=take_marks(engine))
    fails = Verdict(NOON, meaning=Meaning.FAILED, code="ENGINE_CRASHED", reason="The engine crashed.")
    return Book(
        HERE, {"auto": Choice("cpu/release/one")}, {"cpu/release/one": works, "cuda/source/one": fails}
    )


def test_what_was_written_is_read(home: Settings, kept: Book) -> None:
    write_book(home, kept)
    assert read_book(home) == kept


def test_engines_may_move_with_their_folder(home: Settings, kept: Book, tmp_path: Path) -> None:
    write_book(home, kept)
    home.data_dir.rename(tmp_path / "elsewhere")
    moved = replace(home, data_dir=tmp_path / "elsewhere")
    read = read_book(moved)
    assert read is not None
    found = read.in_use("auto", 0.0)
    assert found is not None
    assert found[1].engine is not None
    assert looks_unchanged(found[1].engine, found[1].marks)


def test_an_engine_outside_keeps_its_path(home: Settings, tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "own", "custom")
    book = Book(HERE, {}, {"own": Verdict(NOON, proof=PROOF, engine=engine)})
    write_book(home, book)
    assert read_book(home) == book


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"[1]",
        b'{"format": 99}',
        b"\xff\xfe",
        b'{"format": 1, "books": [3, {"chosen": 1}]}',
    ],
)
def test_a_file_that_is_anything_else_is_nothing(home: Settings, content: bytes) -> None:
    home.state_dir.mkdir(parents=True)
    verdicts_path(home).write_bytes(content)
    assert read_book(home) is None


@given(data=st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                         lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_no_data_makes_reading_raise(data: object) -> None:
    Verdict.from_json(data, Path("/x"))
    for name in ("tested_at", "marks", "meaning", "code", "reason", "hint", "retry_at", "tries"):
        Verdict.from_json({"tested_at": NOON, "marks": {}, name: data}, Path("/x"))
    Verdict.from_json({"tested_at": NOON, "marks": {}, "proof": data, "engine": data}, Path("/x"))
    marks_from_json(data)
    Proof.from_json(data)


@pytest.mark.parametrize(
    "fields",
    [{"meaning": []}, {"meaning": {}}, {"retry_at": 10**400}, {"tested_at": "0001-01-01T00:00:00+23:59"}],
)
def test_values_that_no_clock_has_seen(fields: dict[str, object]) -> None:
    Verdict.from_json({"tested_at": NOON, "marks": {}, **fields}, Path("/x"))


def test_one_bad_verdict_does_not_spoil_the_others(home: Settings, kept: Book) -> None:
    write_book(home, kept)
    data = json.loads(verdicts_path(home).read_text())
    data["books"][0]["verdicts"]["cuda/source/one"]["meaning"] = "nonsense"
    verdicts_path(home).write_text(json.dumps(data))
    read = read_book(home)
    assert read is not None
    assert list(read.verdicts) == ["cpu/release/one"]


def test_the_engine_in_use_is_the_chosen_one(kept: Book) -> None:
    found = kept.in_use("auto", 0.0)
    assert found is not None
    assert found[0] == "cpu/release/one"
    assert kept.in_use("cuda", 0.0) is None


def test_a_choice_holds_until_a_better_one_is_to_be_tried_again(kept: Book) -> None:
    book = kept.with_choice("auto", Choice("cpu/release/one", retry_at=1000.0))
    assert book.in_use("auto", 999.0) is not None
    assert book.in_use("auto", 1000.0) is None


def unchanged(book: Book) -> bool:
    verdict = book.verdicts["cpu/release/one"]
    assert verdict.engine is not None
    return looks_unchanged(verdict.engine, verdict.marks)


@pytest.mark.parametrize("name", ["sd-cli", "libhelp.so"])
def test_a_changed_file_is_noticed(home: Settings, kept: Book, name: str) -> None:
    (home.engines_dir / "cpu-one" / name).write_bytes(b"changed")
    assert not unchanged(kept)


def test_a_file_that_came_or_went_is_noticed(home: Settings, kept: Book) -> None:
    folder = home.engines_dir / "cpu-one"
    (folder / "libinjected.so").write_bytes(b"x")
    assert not unchanged(kept)
    (folder / "libinjected.so").unlink()
    assert unchanged(kept)
    (folder / ".DS_Store").write_bytes(b"a file manager was here")
    assert unchanged(kept)
    (folder / "libhelp.so").unlink()
    assert not unchanged(kept)


@pytest.mark.parametrize("field", ["fingerprint", "manifest"])
def test_another_card_driver_or_manifest_voids_everything(kept: Book, field: str) -> None:
    there = replace(HERE, **{field: "another"})
    assert kept.in_surroundings(there) == Book(there)


def test_another_installed_engine_voids_the_choice_alone(kept: Book) -> None:
    there = replace(HERE, engines="2")
    assert kept.in_surroundings(there) == Book(there, {}, kept.verdicts)
    assert kept.in_surroundings(HERE) is kept


def test_what_may_pass_is_tried_again_later() -> None:
    later = Verdict(NOON, meaning=Meaning.LATER, reason="no network", retry_at=1000.0)
    assert later.rules_out(999.0)
    assert not later.rules_out(1000.0)


def test_what_failed_stays_out_and_missing_tools_do_not() -> None:
    assert Verdict(NOON, meaning=Meaning.FAILED).rules_out(1e12)
    assert not Verdict(NOON, meaning=Meaning.UNAVAILABLE).rules_out(0.0)


def test_the_oldest_of_many_verdicts_are_forgotten(home: Settings) -> None:
    book = Book(HERE)
    for number in range(200):
        book = book.with_verdict(f"key {number}", Verdict((MORNING + timedelta(minutes=number)).isoformat()))
    assert len(book.verdicts) == 50
    assert "key 199" in book.verdicts


def test_where_it_cannot_be_written_that_is_only_a_warning(home: Settings, kept: Book, caplog) -> None:
    home.state_dir.parent.mkdir(parents=True, exist_ok=True)
    home.state_dir.write_text("a file in its place")
    write_book(home, kept)
    assert "not kept" in caplog.text


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (BuildToolsMissingError("x"), Meaning.UNAVAILABLE),
        (DownloadError("x", details={"reason": "unreachable"}), Meaning.LATER),
        (DownloadError("x", details={"reason": "mismatch"}), Meaning.LATER),
        (DownloadError("x", details={"reason": "archive"}), Meaning.FAILED),
        (StorageError("x"), Meaning.LATER),
        (EngineOutOfMemoryError("x"), Meaning.LATER),
        (BuildFailedError("x"), Meaning.FAILED),
        (EngineNotRunnableError("x"), Meaning.FAILED),
        (EngineCrashedError("x"), Meaning.FAILED),
        (EngineHungError("x"), Meaning.FAILED),
        (BlankImageError("x"), Meaning.FAILED),
        (NoDeviceError("x"), Meaning.FAILED),
        (NoDeviceError("x", details={"passing": True}), Meaning.LATER),
    ],
)
def test_what_an_error_says_about_the_engine(error, meaning) -> None:
    assert meaning_of(error) is meaning


def test_other_surroundings_do_not_undo_each_other(home: Settings, kept: Book) -> None:
    there = Book(Surroundings("card", "another manifest", "1"), {"auto": Choice("x", 5.0)}, {})
    for book in (kept, there):
        write_book(home, book)
    assert read_book(home) == there
    assert read_book(home, HERE) == kept
    assert read_book(home, there.surroundings) == there
    assert read_book(home, Surroundings("another card", "manifest", "1")) is None
    write_book(home, kept)
    assert read_book(home) == kept
    for number in range(10):
        write_book(home, Book(Surroundings(f"card {number}", "manifest", "1")))
    assert read_book(home, HERE) is None
    assert len(json.loads(verdicts_path(home).read_text())["books"]) == 4


def test_an_engine_that_came_after_its_failure_deserves_another_trial(home: Settings) -> None:
    engine = engine_at(home.engines_dir / "cuda-one", "cuda")
    failed = Verdict(MORNING.isoformat(), meaning=Meaning.FAILED)
    assert failed.rules_out(0.0, engine)
    assert not failed.rules_out(0.0, replace(engine, installed_at=MORNING + timedelta(seconds=1)))
