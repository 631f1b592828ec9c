"""Which engines are installed, which one is used, and how one takes the place of another."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sdmanager.binaries import Capabilities, EngineBinary, find_engine, list_installed
from sdmanager.binaries._staging import engines_lock, install, staging_folder
from sdmanager.binaries.installed import RECORD, write_record
from sdmanager.errors import (
    BinaryError,
    EngineNotFoundError,
    EngineNotRunnableError,
    StorageError,
)
from sdmanager.settings import Settings

MORNING = datetime(2026, 5, 1, 8, tzinfo=UTC)


def make(folder: Path, *, variant: str = "cpu", version: str = "one", hours: int = 0) -> EngineBinary:
    folder.mkdir(parents=True)
    path = folder / "sd-cli"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    engine = EngineBinary(
        path=path,
        variant=variant,
        version=version,
        source="source-build",
        sha256="0" * 64,
        capabilities=Capabilities(flags=frozenset({"--model"}), samplers=("euler",)),
        installed_at=MORNING + timedelta(hours=hours),
    )
    write_record(folder, engine)
    return engine


@pytest.fixture
def engines(settings: Settings) -> Path:
    settings.engines_dir.mkdir(parents=True)
    return settings.engines_dir


def test_nothing_is_installed_at_first(settings: Settings) -> None:
    assert list_installed(settings) == []


async def test_no_engine_at_all_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(EngineNotFoundError, match="No engine is installed") as caught:
        await find_engine(settings)
    assert "engine install" in (caught.value.hint or "")


def test_a_record_round_trips(settings: Settings, engines: Path) -> None:
    made = make(engines / "cpu-one")
    assert list_installed(settings) == [made]


async def test_the_fastest_variant_comes_first_then_the_newest(settings: Settings, engines: Path) -> None:
    for number, variant in enumerate(["cpu", "metal", "other", "vulkan", "cuda", "rocm"]):
        make(engines / variant, variant=variant, hours=number)
    make(engines / "cpu-new", version="two", hours=9)
    found = [(engine.variant, engine.version) for engine in list_installed(settings)]
    assert [variant for variant, _ in found] == ["cuda", "rocm", "vulkan", "metal", "cpu", "cpu", "other"]
    assert found[4] == ("cpu", "two")
    assert (await find_engine(settings)).variant == "cuda"


def test_a_moved_folder_still_works(settings: Settings, engines: Path) -> None:
    make(engines / "cpu-one")
    (engines / "cpu-one").rename(engines / "elsewhere")
    assert list_installed(settings)[0].path == engines / "elsewhere" / "sd-cli"


def test_unfinished_and_broken_folders_are_left_out(settings: Settings, engines: Path) -> None:
    make(engines / ".staging-abc")
    for name in (
        "no-record",
        "no-binary",
        "not-executable",
        "cut",
        "no-json",
        "other-format",
        "bad-date",
        "foreign",
    ):
        make(engines / name)
    (engines / "no-record" / RECORD).unlink()
    (engines / "no-binary" / "sd-cli").unlink()
    (engines / "not-executable" / "sd-cli").chmod(0o644)
    (engines / "cut" / "sd-cli").write_text("#!")
    (engines / "no-json" / RECORD).write_text('{"format": 1, "engine"')
    record = json.loads((engines / "other-format" / RECORD).read_text())
    (engines / "other-format" / RECORD).write_text(json.dumps(record | {"format": 99}))
    record["engine"]["installed_at"] = "yesterday"
    (engines / "bad-date" / RECORD).write_text(json.dumps(record))
    (engines / "foreign" / RECORD).write_text("[1, 2]")
    (engines / "a file").write_text("x")
    assert list_installed(settings) == []


async def test_the_users_own_engine_comes_first(settings: Settings, engines: Path, good_engine: Path) -> None:
    make(engines / "cuda", variant="cuda")
    own = Settings(settings.data_dir, settings.cache_dir, settings.state_dir, engine=good_engine)
    assert (await find_engine(own)).path == good_engine


async def test_a_broken_own_engine_is_never_passed_over(
    settings: Settings, engines: Path, tmp_path: Path
) -> None:
    make(engines / "cuda", variant="cuda")
    text = tmp_path / "text"
    text.write_text("hello")
    for path, kind in ((tmp_path / "gone", EngineNotFoundError), (text, EngineNotRunnableError)):
        own = Settings(settings.data_dir, settings.cache_dir, settings.state_dir, engine=path)
        with pytest.raises(kind):
            await find_engine(own)


def test_the_first_engine_is_put_in_place(engines: Path) -> None:
    make(engines / ".staging-1" / "finished", version="new")
    installed = install(engines / ".staging-1" / "finished", engines / "cpu")
    assert (installed.version, installed.path) == ("new", engines / "cpu" / "sd-cli")


def test_an_engine_replaces_another(settings: Settings, engines: Path) -> None:
    make(engines / "cpu", version="old")
    make(engines / ".staging-1" / "finished", version="new")
    install(engines / ".staging-1" / "finished", engines / "cpu")
    assert [engine.version for engine in list_installed(settings)] == ["new"]
    assert sorted(path.name for path in engines.iterdir()) == [".staging-1", "cpu"]


def test_a_finished_folder_that_is_unusable_leaves_the_old_engine(settings: Settings, engines: Path) -> None:
    make(engines / "cpu", version="old")
    make(engines / ".staging-1" / "finished", version="new")
    (engines / ".staging-1" / "finished" / RECORD).write_text("{}")
    with pytest.raises(EngineNotRunnableError, match="just installed"):
        install(engines / ".staging-1" / "finished", engines / "cpu")
    assert [(engine.version, engine.path.parent.name) for engine in list_installed(settings)] == [
        ("old", "cpu")
    ]


def test_a_rename_that_fails_leaves_the_old_engine(
    settings: Settings, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(engines / "cpu", version="old")
    make(engines / ".staging-1" / "finished", version="new")
    real = os.rename

    for failing in (1, 2):
        calls = 0

        def rename(self: Path, target: Path, failing: int = failing) -> Path:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(28, "No space left on device")
            real(self, target)
            return Path(target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(StorageError, match="No space left"):
                install(engines / ".staging-1" / "finished", engines / "cpu")
        assert [(found.version, found.path.parent.name) for found in list_installed(settings)] == [
            ("old", "cpu")
        ]


async def test_a_kill_between_the_renames_is_repaired(settings: Settings, engines: Path) -> None:
    make(engines / ".previous-cpu", version="old")
    assert (await find_engine(settings)).version == "old"
    async with staging_folder(engines):
        assert (await find_engine(settings)).path == engines / "cpu" / "sd-cli"
    assert [path.name for path in engines.iterdir()] == ["cpu"]


async def test_a_kill_after_the_renames_is_repaired(settings: Settings, engines: Path) -> None:
    make(engines / ".previous-cpu", version="old")
    make(engines / "cpu", version="new")
    assert [engine.version for engine in list_installed(settings)] == ["new"]
    async with staging_folder(engines):
        pass
    assert [path.name for path in engines.iterdir()] == ["cpu"]


async def test_folders_of_dead_builders_are_removed(engines: Path) -> None:
    make(engines / ".staging-dead" / "finished")
    make(engines / "cpu")
    async with staging_folder(engines) as folder:
        assert sorted(path.name for path in engines.iterdir()) == [folder.name, "cpu"]
    assert [path.name for path in engines.iterdir()] == ["cpu"]


@pytest.mark.parametrize("error", [BinaryError("x"), KeyboardInterrupt()])
async def test_the_staging_folder_goes_with_its_block(engines: Path, error: BaseException) -> None:
    async def fail() -> None:
        async with staging_folder(engines) as folder:
            (folder / "deep").mkdir()
            raise error

    with pytest.raises(type(error)):
        await fail()
    assert list(engines.iterdir()) == []


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="folder 'engines' cannot be written"):
        async with engines_lock(tmp_path / "file" / "engines", lambda: None):
            raise AssertionError


async def test_the_lock_is_free_again_after_an_error(engines: Path) -> None:
    for _ in range(2):
        with pytest.raises(BinaryError):
            async with engines_lock(engines, lambda: pytest.fail("waited")):
                raise BinaryError("x")


def test_copies_are_listed_apart(settings: Settings, engines: Path) -> None:
    make(engines / "cpu")
    shutil.copytree(engines / "cpu", engines / "cpu-copy")
    assert len(list_installed(settings)) == 2
