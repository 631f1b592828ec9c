"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from sdmanager.errors import OutputError, StorageError
from sdmanager.files import free_bytes, read_json, write_json, write_whole


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("data", [b"", b"x", os.urandom(300_000)], ids=len)
def test_a_file_is_written_and_replaced(tmp_path, data, durable):
    path = tmp_path / "file"
    for content in (data, b"old", data):
        write_whole(path, content, durable=durable)
        assert path.read_bytes() == content
    assert entries(tmp_path) == ["file"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_whole(tmp_path / "ours", b"x")
    (tmp_path / "theirs").write_bytes(b"x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [StorageError, OutputError])
def test_what_cannot_be_written_is_a_typed_error(tmp_path, error):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    places = {
        tmp_path / "none" / "file": errno.ENOENT,
        tmp_path / "file" / "file": errno.ENOTDIR,
        tmp_path / "folder": errno.EISDIR,
        tmp_path / ("x" * 300): errno.ENAMETOOLONG,
    }
    for path, number in places.items():
        with pytest.raises(error) as caught:
            write_whole(path, b"x", error=error)
        assert type(caught.value) is error
        assert caught.value.details == {"path": str(path), "errno": number}
        assert str(tmp_path) not in str(caught.value)
    assert entries(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("place", ["fsync", "write"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, place, failure):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args):
        raise failure

    class Writer:
        def __init__(self, descriptor, mode):
            self._descriptor = descriptor

        def __enter__(self):
            return self

        def __exit__(self, *args):
            os.close(self._descriptor)

        write = fail

    if place == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "fdopen", Writer)
    expected = StorageError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["file"]


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [
        threading.Thread(target=lambda c=c: [write_whole(path, c, durable=False) for _ in range(10)])
        for c in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "灯" * 85, "🗼" * 63, ".hidden", " ", "-rf"])
def test_every_name_that_the_disk_takes(tmp_path, name):
    write_whole(tmp_path / name, b"x")
    assert entries(tmp_path) == [name]


@pytest.mark.parametrize(
    "value",
    [None, 3, 1.5, "灯台\u2028", [], {"a": [1, {"b": None}]}, "no utf-8 \udcff", {"\udc80": "\ud800"}],
    ids=ascii,
)
def test_json_comes_back(tmp_path, value):
    path = tmp_path / "deep" / "er" / "file.json"
    write_json(path, value)
    assert read_json(path) == value
    assert entries(path.parent) == ["file.json"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"nul", b"{} {}"],
    ids=lambda d: ascii(d[:9]),
)
def test_malformed_json_is_nothing(tmp_path, data):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    assert read_json(path) is None


def test_json_that_is_not_there_is_nothing(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    assert read_json(tmp_path) is None
    (tmp_path / "file").write_text("x")
    assert read_json(tmp_path / "file" / "x.json") is None


def test_json_whose_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="'deep' cannot be made") as caught:
        write_json(tmp_path / "file" / "deep" / "x.json", {})
    assert str(tmp_path) not in str(caught.value)


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_bytes()) == {"old": 1}
    assert entries(tmp_path) == ["file.json"]


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    free = free_bytes(tmp_path / "not" / "yet")
    assert free is not None
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert free_bytes(Path("/dev/null/x")) is None
