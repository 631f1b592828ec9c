"""The list of installed models: one record each, and removing one harms no other and nothing of the user's."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from model_parts import make

from sdmanager.errors import (
    InvalidRequestError,
    ModelChangedError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    StorageError,
)
from sdmanager.models import Family, ModelDefaults, Role
from sdmanager.models.importing import import_model
from sdmanager.models.installed import InstalledFile, InstalledModel, Origin
from sdmanager.models.store import Listing, ModelStore
from sdmanager.models.verifying import verify_model
from sdmanager.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(home: Settings) -> ModelStore:
    return ModelStore(home)


def file_of(path: Path, role: Role = Role.MODEL, *, owned: bool = False, size: int = 10) -> InstalledFile:
    """A file of a model, made where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"w" * size)
    found = path.stat()
    return InstalledFile(role, path, found.st_size, found.st_mtime_ns, owned=owned)


def model_of(name: str, *files: InstalledFile, origin: Origin = Origin.IMPORTED) -> InstalledModel:
    when = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    return InstalledModel(name, files, ModelDefaults(steps=4), Family.SD1, origin, when)


def in_hub(cache: Path, name: str, *, blob: str = "b" * 64, commit: str = COMMIT, repo: str = "a--b") -> Path:
    """A file of huggingface_hub's cache: a link in a snapshot to a blob."""
    folder = cache / f"models--{repo}"
    pointer = folder / "snapshots" / commit / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    if not (folder / "blobs" / blob).exists():
        (folder / "blobs" / blob).write_bytes(b"w" * 10)
    pointer.symlink_to(os.path.relpath(folder / "blobs" / blob, pointer.parent))
    return pointer


def records_in(settings: Settings) -> Path:
    return settings.models_dir / "installed"


def test_nothing_is_installed_and_nothing_is_made(store, home):
    assert store.list() == []
    assert store.read().unreadable == ()
    assert store.find("x") is None
    assert store.find_only_option("x") is None
    assert store.size_bytes() == 0
    with pytest.raises(ModelNotFoundError):
        store.remove("x")
    assert not home.data_dir.exists()


def test_models_are_listed_by_name(store, tmp_path):
    models = [model_of(name, file_of(tmp_path / "x")) for name in ("b", "C", "a", "a:q4")]
    for model in models:
        store.add(model)
    assert [model.name for model in store.list()] == ["a", "a:q4", "b", "C"]
    assert store.find("a:q4") == models[3]
    assert store.find("c") == store.find("C") == models[1]
    assert store.find("d") is None


def test_a_name_that_is_there_is_replaced_whatever_its_case(store, tmp_path):
    store.add(model_of("Mine", file_of(tmp_path / "x")))
    store.add(model_of("mine", file_of(tmp_path / "y")))
    assert [model.name for model in store.list()] == ["mine"]


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a\\b", ".hidden", "a\0", "a:b:c", "x" * 200, "a\n", "é"]
)
def test_a_name_that_could_lead_elsewhere(store, home, tmp_path, name):
    """It names no record, and none is written."""
    assert store.find(name) is None
    assert store.find_only_option(name) is None
    with pytest.raises(ModelNotFoundError):
        store.remove(name)
    with pytest.raises(InvalidRequestError):
        store.add(model_of(name, file_of(tmp_path / "x")))
    assert store.list() == []


def test_the_only_option_that_is_there(store, tmp_path):
    store.add(model_of("sd:f16", file_of(tmp_path / "x")))
    store.add(model_of("sd-other:f16", file_of(tmp_path / "x")))
    assert store.find_only_option("SD").name == "sd:f16"
    store.add(model_of("sd:q4", file_of(tmp_path / "x")))
    assert store.find_only_option("sd") is None


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"\xff", b'{"name": "bad"}', b"[" * 100_000])
def test_a_record_that_is_damaged_is_left_out_and_told(store, home, tmp_path, data):
    store.add(model_of("good", file_of(tmp_path / "x")))
    (records_in(home) / "bad@f16.json").write_bytes(data)
    assert [model.name for model in store.list()] == ["good"]
    assert len(store.read().unreadable) == 1
    assert store.read().unreadable == ("bad:f16",)
    assert store.find("bad:f16") is None
    assert store.remove("bad:f16").deleted == ()
    assert store.read().unreadable == ()


def test_what_else_lies_in_the_folder_is_nobodys(store, home, tmp_path):
    store.add(model_of("good", file_of(tmp_path / "x")))
    (records_in(home) / "notes.txt").write_text("x")
    (records_in(home) / ".good.json.1234.part").write_text("x")
    (records_in(home) / "folder.json").mkdir()
    (records_in(home) / "loop.json").symlink_to("loop.json")
    assert [model.name for model in store.list()] == ["good"]
    assert len(store.read().unreadable) == 2


def test_a_record_under_another_name_is_damaged(store, home, tmp_path):
    store.add(model_of("one", file_of(tmp_path / "x")))
    shutil.copy(records_in(home) / "one.json", records_in(home) / "two.json")
    assert store.find("two") is None
    assert [model.name for model in store.list()] == ["one"]


def test_a_swap_needs_what_was_there(store, tmp_path):
    one, two = (model_of("m", file_of(tmp_path / name)) for name in "xy")
    assert not store.swap(two, one)
    assert store.swap(one, None)
    assert not store.swap(two, None)
    assert store.find("m") == one
    assert store.swap(two, one)
    assert store.find("m") == two


def test_files_of_the_user_stay(store, tmp_path):
    path = tmp_path / "mine.gguf"
    store.add(model_of("m", file_of(path)))
    removed = store.remove("m")
    assert (removed.freed_bytes, removed.deleted, removed.kept) == (0, (), (path,))
    assert path.exists()
    assert store.list() == []


@pytest.mark.parametrize("where", ["hub", "models"])
def test_files_of_others_stay_where_ours_are_too(store, home, tmp_path, where):
    """What was in the hub's cache before, or what the user keeps beside our copies."""
    path = in_hub(tmp_path, "x") if where == "hub" else home.models_dir / "own" / "x"
    store.add(model_of("m", file_of(path)))
    assert store.remove("m").kept == (path,)
    assert path.exists()


def test_a_copy_goes_with_its_folder(store, home):
    folder = home.models_dir / "m"
    files = [file_of(folder / "a", owned=True), file_of(folder / "b", Role.VAE, owned=True, size=7)]
    store.add(model_of("m", *files))
    removed = store.remove("m")
    assert (removed.freed_bytes, removed.deleted) == (17, (folder / "a", folder / "b"))
    assert not folder.exists()
    assert home.models_dir.exists()


def test_what_else_lies_in_the_folder_of_a_copy_stays(store, home):
    folder = home.models_dir / "m"
    store.add(model_of("m", file_of(folder / "a", owned=True)))
    (folder / "notes.txt").write_text("mine")
    store.remove("m")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("by", ["path", "link", "link to the folder"])
def test_a_file_that_another_model_has_stays(store, home, tmp_path, by):
    path = home.models_dir / "m" / "vae"
    store.add(
        model_of("m", file_of(home.models_dir / "m" / "a", owned=True), file_of(path, Role.VAE, owned=True))
    )
    other = path
    if by == "link":
        other = tmp_path / "link"
        other.symlink_to(path)
    elif by == "link to the folder":
        (tmp_path / "folder").symlink_to(path.parent)
        other = tmp_path / "folder" / "vae"
    store.add(model_of("n", file_of(other)))
    removed = store.remove("m")
    assert (removed.freed_bytes, removed.kept) == (10, (path,))
    assert path.exists()


def test_what_a_damaged_record_names_stays(store, home):
    """It may be one of a later release, whose model still works there."""
    path = home.models_dir / "m" / "vaé"
    store.add(
        model_of("m", file_of(home.models_dir / "m" / "a", owned=True), file_of(path, Role.VAE, owned=True))
    )
    data = json.loads((records_in(home) / "m.json").read_text())
    del data["files"][0]
    (records_in(home) / "later.json").write_text(json.dumps(data))
    assert store.remove("m").kept == (path,)


@pytest.mark.parametrize("spelling", ["relative", "windows", "dots", "link", "escaped", "elsewhere", "key"])
def test_what_a_damaged_record_names_in_another_way_stays(store, home, tmp_path, spelling):
    path = home.models_dir / "m" / "a"
    (tmp_path / "link").symlink_to(home.models_dir)
    store.add(model_of("m", file_of(path, owned=True)))
    named = {
        "relative": "m/a",
        "windows": r"m\A",
        "dots": str(home.models_dir / "m" / ".." / "m" / "a"),
        "link": str(tmp_path / "link" / "m" / "a"),
        "escaped": "".join(f"\\u{ord(each):04x}" for each in str(path)),
        "elsewhere": str(tmp_path / "elsewhere" / "a"),
        "key": str(path),
    }[spelling]
    text = json.dumps({"later": [{"at": named} if spelling != "key" else {named: 1}]})
    (records_in(home) / "later.json").write_text(text.replace("\\\\u", "\\u"))
    removed = store.remove("m")
    assert (removed.deleted == (path,)) == (spelling == "elsewhere") == (not path.exists())
    assert (removed.kept == (path,)) == (spelling != "elsewhere")


@pytest.mark.parametrize("broken", ["cut short", "a folder"])
def test_while_nobody_knows_what_a_record_names_everything_stays(store, home, broken):
    path = home.models_dir / "m" / "a"
    store.add(model_of("m", file_of(path, owned=True)))
    if broken == "a folder":
        (records_in(home) / "other.json").mkdir()
    else:
        (records_in(home) / "other.json").write_text('{"name": "other", "files": [{"pa')
    assert store.remove("m").kept == (path,)
    assert path.exists()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("what", ["another file", "as large", "touched", "a link to nowhere"])
def test_what_the_user_put_in_the_place_of_a_copy_stays(store, home, what, known):
    path = home.models_dir / "m" / "x"
    copy = file_of(path, owned=True)
    sha256 = hashlib.sha256(b"w" * 10).hexdigest()
    store.add(model_of("m", replace(copy, sha256=sha256 if known else None)))
    if what == "a link to nowhere":
        path.unlink()
        path.symlink_to("nowhere")
    else:
        path.write_bytes({"another file": b"mine", "as large": b"m" * 10, "touched": b"w" * 10}[what])
        os.utime(path, ns=(1, copy.mtime_ns if what == "another file" else copy.mtime_ns + 1))
    removed = store.remove("m")
    goes = known and what == "touched"  # of which it is known that it is the copy
    assert (removed.deleted, removed.kept) == (((path,), ()) if goes else ((), (path,)))
    assert os.path.lexists(path) != goes


@pytest.mark.parametrize("where", ["outside", "..", "the folder itself", "a record", "a folder"])
def test_a_record_that_claims_what_is_not_ours(store, home, tmp_path, where):
    """Whatever a record says: files are deleted in the folders of models and in the hub's cache alone."""
    target = home.models_dir / "m" / "x"
    path = {
        "outside": tmp_path / "precious",
        "..": home.models_dir / "m" / ".." / ".." / ".." / "precious",
        "the folder itself": home.models_dir / "precious",
        "a record": records_in(home) / "other.json",
        "a folder": home.models_dir / "m" / "folder",
    }[where]
    target.parent.mkdir(parents=True)
    if where == "a folder":
        (path / "in").mkdir(parents=True)
        file = InstalledFile(Role.MODEL, path, 1, 1, owned=True)
    else:
        file = file_of(path, owned=True)
    store.add(model_of("m", file))
    removed = store.remove("m")
    assert (removed.deleted, removed.kept) == ((), (path,))
    assert path.exists()


def test_a_link_among_copies_goes_and_what_it_leads_to_stays(store, home, tmp_path):
    (tmp_path / "precious").write_bytes(b"w" * 10)
    link = home.models_dir / "m" / "x"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    store.add(model_of("m", file_of(link, owned=True)))
    store.remove("m")
    assert not link.is_symlink()
    assert (tmp_path / "precious").exists()


def test_a_folder_of_models_that_is_a_link(store, home, tmp_path):
    (tmp_path / "big disk").mkdir()
    home.data_dir.mkdir()
    home.models_dir.symlink_to(tmp_path / "big disk")
    store.add(model_of("m", file_of(home.models_dir / "m" / "x", owned=True)))
    assert store.remove("m").freed_bytes == 10
    assert not (tmp_path / "big disk" / "m").exists()


def test_a_file_that_is_gone_is_no_harm(store, home):
    file = file_of(home.models_dir / "m" / "x", owned=True)
    store.add(model_of("m", file))
    file.path.unlink()
    assert store.remove("m").deleted == ()


class TestHub:
    """Files in huggingface_hub's cache: links in snapshots to blobs."""

    def test_link_blob_and_snapshot_go(self, store, tmp_path):
        path = in_hub(tmp_path, "sub/x.gguf")
        store.add(model_of("m", file_of(path, owned=True)))
        removed = store.remove("m")
        assert (removed.freed_bytes, removed.deleted) == (10, (path,))
        left = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if "models--" in str(p)]
        assert sorted(left) == [f"models--a--b{rest}" for rest in ("", "/blobs", "/refs", "/snapshots")]

    def test_the_library_finds_its_cache_whole_afterwards(self, store, tmp_path):
        from huggingface_hub import scan_cache_dir

        cache = tmp_path / "hub"
        in_hub(cache, "stays", blob="a" * 64, commit="f" * 40)
        for repo in ("a--b", "c--d"):
            store.add(model_of("m", file_of(in_hub(cache, "x", repo=repo), owned=True)))
            store.remove("m")
        found = scan_cache_dir(cache)
        assert not found.warnings
        assert {repo.repo_id: repo.size_on_disk for repo in found.repos}["a/b"] == 10

    def test_a_blob_that_another_snapshot_has_stays(self, store, tmp_path):
        path, other = in_hub(tmp_path, "x"), in_hub(tmp_path, "y/x", commit="f" * 40)
        store.add(model_of("m", file_of(path, owned=True)))
        assert store.remove("m").freed_bytes == 0
        assert not path.is_symlink()
        assert other.read_bytes() == b"w" * 10

    def test_other_files_of_the_snapshot_stay(self, store, tmp_path):
        path, other = in_hub(tmp_path, "x"), in_hub(tmp_path, "y", blob="c" * 64)
        store.add(model_of("m", file_of(path, owned=True)))
        store.remove("m")
        assert other.exists()
        assert (tmp_path / "models--a--b" / "refs" / "main").exists()

    def test_a_cache_without_links(self, store, tmp_path):
        path = tmp_path / "models--a--b" / "snapshots" / COMMIT / "x.gguf"
        store.add(model_of("m", file_of(path, owned=True)))
        assert store.remove("m").freed_bytes == 10
        assert not path.parent.exists()

    @pytest.mark.parametrize("target", ["../../../../precious", "/precious", "../../blobs/../../precious"])
    def test_a_link_that_leads_out(self, store, tmp_path, target):
        (tmp_path / "precious").write_bytes(b"w" * 10)
        link = tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT / "x"
        link.parent.mkdir(parents=True)
        link.symlink_to(str(tmp_path / "precious") if target[0] == "/" else target)
        file = replace(file_of(tmp_path / "precious"), path=link, owned=True, repo="a/b")
        store.add(model_of("m", file))
        store.remove("m")
        assert not link.is_symlink()
        assert (tmp_path / "precious").exists()

    @pytest.mark.parametrize("imported", [False, True])
    def test_content_that_repositories_share(self, store, tmp_path, imported):
        """Newer releases keep it once for all of them; the last one to go takes it along."""
        shared_blobs = pytest.importorskip("huggingface_hub.utils._shared_blobs")
        paths = [in_hub(tmp_path, "x", repo=repo) for repo in ("a--b", "c--d")]
        for path in paths:
            blob = path.parents[1].parent / "blobs" / ("b" * 64)
            shared_blobs.publish_blob_to_shared_store(
                blob_path=blob, xet_hash="e" * 64, cache_dir=tmp_path, expected_size=10
            )
        content = Path(os.path.realpath(paths[0]))
        if not content.is_relative_to(tmp_path / "blobs"):
            pytest.skip("this release does not share content here")
        assert os.path.realpath(paths[1]) == str(content)
        for name, path in zip("mn", paths, strict=True):
            store.add(model_of(name, file_of(path, owned=True)))
        assert store.remove("m").freed_bytes == 0
        assert paths[1].read_bytes() == b"w" * 10
        if imported:
            store.add(model_of("mine", file_of(content)))
        assert store.remove("n").freed_bytes == (0 if imported else 10)
        assert content.exists() == imported
        assert not paths[1].is_symlink()

    def test_a_blob_that_the_user_imported(self, store, tmp_path):
        """As a path that some programs show."""
        path = in_hub(tmp_path, "x")
        blob = Path(os.path.realpath(path))
        store.add(model_of("m", file_of(path, owned=True)))
        store.add(model_of("n", file_of(blob)))
        assert store.remove("m").freed_bytes == 0
        assert not path.is_symlink()
        assert blob.exists()

    def test_what_was_fetched_for_two_models_goes_with_the_last(self, store, tmp_path):
        """It was in the cache when the second one was pulled, but it was us who had put it there."""
        path = in_hub(tmp_path, "x")
        store.add(model_of("m", file_of(path, owned=True), origin=Origin.PULLED))
        store.add(model_of("n", file_of(path, owned=False), origin=Origin.PULLED))
        assert store.remove("m").freed_bytes == 0
        assert store.remove("n").freed_bytes == 10


def test_a_new_model_in_the_place_of_one_with_copies(store, home):
    old = file_of(home.models_dir / "m" / "x", owned=True)
    same = file_of(home.models_dir / "m" / "vae", Role.VAE, owned=True)
    store.add(model_of("m", old, same))
    store.add(model_of("m", file_of(home.models_dir / "m-2" / "x", owned=True), same))
    assert not old.path.exists()
    assert same.path.exists()


def test_a_pull_never_deletes_copies_of_the_users_files(store, home, tmp_path):
    """They may be all that is left of them."""
    copy = file_of(home.models_dir / "m" / "x", owned=True)
    imported = model_of("m", copy)
    store.add(imported)
    pulled = model_of("M", file_of(tmp_path / "y"), origin=Origin.PULLED)
    for attempt in (lambda: store.add(pulled), lambda: store.swap(pulled, imported)):
        with pytest.raises(InvalidRequestError, match="A model that was imported has the name 'm'") as caught:
            attempt()
        assert "models remove m" in caught.value.hint
        assert "its copies in the folder of models" in caught.value.hint
    assert store.find("m") == imported
    assert copy.path.exists()


def test_a_record_that_could_not_be_read_again_is_not_written(store, tmp_path):
    file = file_of(tmp_path / "x")
    for bad in (replace(file, quantisation=""), replace(file, sha256="x"), replace(file, role=Role.VAE)):
        with pytest.raises(InvalidRequestError, match="could not be read again"):
            store.add(model_of("m", bad))
    assert store.read() == Listing((), ())


def test_a_copy_that_is_imported_once_more_goes_with_the_last(store, home, tmp_path):
    """Where it lies, it is still the copy that was made; what was imported from the hub's cache stays."""
    copy, fetched = file_of(home.models_dir / "m" / "x", owned=True), in_hub(tmp_path, "x")
    store.add(model_of("m", copy, file_of(fetched, Role.VAE, owned=True)))
    again = model_of("n", replace(copy, owned=False), file_of(fetched, Role.VAE))
    assert [file.owned for file in store.add(again).files] == [True, False]
    assert store.remove("m").deleted == ()
    assert store.remove("n").deleted == (copy.path,)
    assert fetched.exists()


def test_files_count_once(store, home, tmp_path):
    shared = file_of(tmp_path / "shared", Role.VAE, size=100)
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    store.add(model_of("m", file_of(tmp_path / "m"), shared))
    store.add(model_of("n", file_of(tmp_path / "n"), shared))
    store.add(model_of("o", file_of(tmp_path / "link")))
    assert store.size_bytes() == 120
    (tmp_path / "n").unlink()
    assert store.size_bytes() == 110


def test_a_file_that_is_as_it_was(store, tmp_path):
    model = model_of("m", file_of(tmp_path / "x"), file_of(tmp_path / "y", Role.VAE))
    store.check(model)
    (tmp_path / "y").rename(tmp_path / "z")
    with pytest.raises(
        ModelNotFoundError, match="The vae file 'y' of the model 'm' is not there any more"
    ) as caught:
        store.check(model)
    assert "Import" in caught.value.hint
    with pytest.raises(ModelNotFoundError) as caught:
        store.check(replace(model, origin=Origin.PULLED))
    assert "models pull m --force" in caught.value.hint


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_was_changed(store, tmp_path, change, known):
    """Verifying can accept it only where its content was known."""
    file = replace(file_of(tmp_path / "x"), sha256="a" * 64 if known else None)
    model = model_of("m", file)
    if change == "size":
        file.path.write_bytes(b"more than it was")
        os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns))
    else:
        os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns + 1_000_000))
    with pytest.raises(ModelChangedError, match="The model file 'x' of the model 'm' was changed") as caught:
        store.check(model)
    assert ("models verify m" in caught.value.hint) == known
    assert "mport the model again" in caught.value.hint
    assert caught.value.details["path"] == str(file.path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(store, home, tmp_path):
    model = model_of("m", file_of(home.models_dir / "m" / "x", owned=True))
    store.add(model)
    (home.models_dir / "m").chmod(0o555)
    try:
        with pytest.raises(StorageError, match="The model is removed, but its file 'x' cannot be deleted"):
            store.remove("m")
    finally:
        (home.models_dir / "m").chmod(0o755)
    assert store.list() == []
    records_in(home).chmod(0o555)
    try:
        with pytest.raises(StorageError):
            store.add(model)
    finally:
        records_in(home).chmod(0o755)


def test_a_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "data").write_text("a file")
    store = ModelStore(Settings(tmp_path / "data", tmp_path / "cache", tmp_path / "state"))
    assert store.list() == []
    with pytest.raises(StorageError):
        store.add(model_of("m", file_of(tmp_path / "x")))


def test_threads_at_once(store, tmp_path):
    files = [file_of(tmp_path / str(number)) for number in range(4)]

    def work(number: int) -> None:
        for turn in range(10):
            store.add(model_of(f"m{number}-{turn}", files[number]))
            store.add(model_of("all", files[number]))
            if turn % 2:
                store.remove(f"m{number}-{turn}")

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 4 * 5 + 1
    assert store.read().unreadable == ()


def test_of_many_at_once_one_takes_the_name(store, tmp_path):
    file = file_of(tmp_path / "x")
    rounds, won = 30, list[int]()
    gate = threading.Barrier(6)

    def work() -> None:
        for turn in range(rounds):
            gate.wait()
            if store.swap(model_of(f"m{turn}", file), None):
                won.append(turn)

    threads = [threading.Thread(target=work) for _ in range(gate.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(rounds))


CHILD = """
import sys
from pathlib import Path
from sdmanager.models.store import ModelStore
from sdmanager.settings import Settings
home, name = Path(sys.argv[1]), sys.argv[2]
store = ModelStore(Settings(home / "data", home / "cache", home / "state"))
model = store.find("seed")
from dataclasses import replace
for turn in range(25):
    store.add(replace(model, name=f"{name}-{turn}"))
    assert store.swap(replace(model, name=f"{name}-{turn}"), model) is None
    store.remove(f"{name}-{turn}")
store.add(replace(model, name=name))
"""


def test_two_processes_at_once(store, tmp_path):
    """They add and remove models that share one file of ours, which nobody deletes."""
    file = file_of(tmp_path / "data" / "models" / "seed" / "x", owned=True)
    store.add(model_of("seed", file))
    children = [subprocess.Popen([sys.executable, "-c", CHILD, tmp_path, name]) for name in ("one", "two")]
    assert [child.wait(60) for child in children] == [0, 0]
    assert [model.name for model in store.list()] == ["one", "seed", "two"]
    assert file.path.exists()


class Machine(RuleBasedStateMachine):
    """Models that share files of the user's, copies, and the hub's; a file is there as long as it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = ModelStore(Settings(self.root / "data", self.root / "cache", self.root / "state"))
        self.models: dict[str, InstalledModel] = {}
        models, hub = self.root / "data" / "models", self.root / "hub"
        self.places = {
            "mine-1": self.root / "mine" / "1",
            "mine-2": self.root / "mine" / "2",
            "copy-1": models / "a" / "1",
            "copy-2": models / "a" / "2",
            "copy-3": models / "b" / "1",
            "hub-1": hub,
            "hub-2": hub,
            "link": self.root / "mine" / "link",
        }
        (self.root / "mine").mkdir()
        (self.root / "mine" / "link").symlink_to(models / "a" / "1")

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def path_of(self, place: str) -> Path:
        """The file, made again where it was deleted, as another pull or import would."""
        path = self.places[place]
        if place.startswith("hub"):
            path = path / "models--a--b" / "snapshots" / COMMIT / place
            if not path.exists():
                in_hub(self.places[place], place, blob="c" * 64)  # both have the same content
        elif place == "link":
            self.path_of("copy-1")
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(place.encode())
        return path

    @rule(
        name=st.sampled_from(["a", "B", "b", "c:q4"]),
        places=st.lists(
            st.sampled_from(["mine-1", "mine-2", "copy-1", "copy-2", "copy-3", "hub-1", "hub-2", "link"]),
            min_size=1, max_size=3, unique=True,
        ),
        reference=st.booleans(),
    )  # fmt: skip
    def add(self, name: str, places: list[str], reference: bool) -> None:
        files = [
            file_of(self.path_of(place), role, owned=place.startswith(("copy", "hub")) and not reference)
            for role, place in zip((Role.MODEL, Role.VAE, Role.TAE), places, strict=False)
        ]
        model = model_of(name, *files)
        self.models[name.lower()] = self.store.add(model)

    @rule(
        name=st.sampled_from(["a", "b", "d"]),
        kinds=st.lists(st.sampled_from(["sd1", "vae"]), min_size=1, max_size=2, unique=True),
        salt=st.integers(0, 1), copy=st.booleans(), replace=st.booleans(), from_copies=st.booleans(),
    )  # fmt: skip
    def take_in(
        self, name: str, kinds: list[str], salt: int, copy: bool, replace: bool, from_copies: bool
    ) -> None:
        """Import files of the user's, or some that are copies of another model."""
        folder = self.root / ("data/models/c" if from_copies else "mine") / f"salt-{salt}"
        paths = [folder / f"{kind}.gguf" for kind in kinds]
        for kind, path in zip(kinds, paths, strict=True):
            if not path.exists():
                make(path, kind, salt=salt)
        settings = Settings(self.root / "data", self.root / "cache", self.root / "state")
        try:
            model = asyncio.run(import_model(paths, settings, name=name, copy=copy, replace=replace))
        except (InvalidRequestError, ModelUnsupportedError):
            assert ("sd1" not in kinds) or (name in self.models and not replace)
        else:
            self.models[name] = model
            assert all(file.owned == (copy or file.owned) for file in model.files)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), touch=st.booleans())
    def verify(self, data: st.DataObject, touch: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models[name]
        settings = Settings(self.root / "data", self.root / "cache", self.root / "state")
        if any(not file.path.name.endswith(".gguf") for file in model.files):
            with pytest.raises(ModelCorruptError):  # the other rules make files without a header
                asyncio.run(verify_model(name, settings))
            return
        verified = asyncio.run(verify_model(name, settings))
        if touch:
            for file in verified.files:
                os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns + 1))
            verified = asyncio.run(verify_model(name, settings))
            for other, theirs in list(
                self.models.items()
            ):  # whoever else has the file sees that it was touched
                if {os.path.realpath(f.path) for f in theirs.files} & {
                    os.path.realpath(f.path) for f in model.files
                } and other != name:
                    self.store.remove(other)
                    del self.models[other]
        self.models[name] = verified

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models.pop(name)
        before = self.total()
        removed = self.store.remove(name)
        assert removed.freed_bytes == before - self.total()
        assert {file.path for file in model.files} == {*removed.deleted, *removed.kept}
        for file in model.files:
            assert file.owned or os.path.lexists(file.path)
            others = {os.path.realpath(f.path) for other in self.models.values() for f in other.files}
            if file.owned and os.path.realpath(file.path) not in others:
                assert not os.path.lexists(file.path)

    def total(self) -> int:
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return sum(
            path.stat().st_size for path in files if path.suffix != ".json" and "refs" not in path.parts
        )

    @invariant()
    def the_list_is_right(self) -> None:
        assert {model.name.lower(): model for model in self.store.list()} == self.models
        assert self.store.read().unreadable == ()

    @invariant()
    def every_file_of_every_model_is_there(self) -> None:
        for model in self.models.values():
            self.store.check(model)

    @invariant()
    def the_users_own_files_stay(self) -> None:
        for place in ("mine-1", "mine-2"):
            named = [f for model in self.models.values() for f in model.files if f.path == self.places[place]]
            assert not named or self.places[place].exists()

    @invariant()
    def the_size_is_right(self) -> None:
        real = {os.path.realpath(f.path) for model in self.models.values() for f in model.files}
        assert self.store.size_bytes() == sum(os.stat(path).st_size for path in real)


TestMachine = Machine.TestCase
TestMachine.settings = hypothesis_settings(max_examples=100, stateful_step_count=15, deadline=None)
