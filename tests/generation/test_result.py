"""Saving a picture: whole, in the format that the name says, or not at all."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from sdmanager.errors import InvalidRequestError, OutputError, StorageError
from sdmanager.generation import GeneratedImage, check_image_suffix, check_writable


@pytest.fixture
def image() -> GeneratedImage:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(buffer, "PNG")
    return GeneratedImage(buffer.getvalue(), 7, 64, 48)


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "image_format"),
    [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.b.JPEG", "JPEG"), ("a.webp", "WEBP")],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_the_ending_says_the_format(tmp_path, image, name, image_format, as_text):
    path = tmp_path / name
    assert image.save(str(path) if as_text else path) == path
    with Image.open(path) as saved:
        saved.load()
        assert (saved.format, saved.size) == (image_format, (64, 48))
    assert entries(tmp_path) == [name]


def test_a_png_is_saved_byte_by_byte(tmp_path, image):
    assert image.save(tmp_path / "a.png").read_bytes() == image.png


def test_a_png_with_transparency_can_be_saved_without(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(buffer, "PNG")
    GeneratedImage(buffer.getvalue(), 0, 8, 8).save(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a", "a.gif", "a.png.txt", ".png", "a.", "", "a.pn\u0261"])
def test_an_ending_that_is_not_known(tmp_path, image, name):
    path = tmp_path / name if name else Path()
    for attempt in (image.save, check_image_suffix):
        with pytest.raises(InvalidRequestError, match="No image format") as caught:
            attempt(path)
        assert ".png" in caught.value.hint
    assert entries(tmp_path) == []


@pytest.mark.parametrize("name", ["none/a.png", "file/a.png", "folder.png", "n" * 300 + ".png"])
def test_a_place_that_cannot_be_written(tmp_path, image, name):
    """A name that is too long for the disk was an error without a type."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.png").mkdir()
    before = entries(tmp_path)
    errors = []
    for attempt in (image.save, check_writable):
        with pytest.raises(OutputError) as caught:
            attempt(tmp_path / name)
        errors.append(caught.value)
        if len(name) > 255:
            break
    if len(name) > 255:
        with pytest.raises(OutputError):
            check_writable(tmp_path / name / "a.png")
    for error in errors:
        assert isinstance(error, StorageError | OSError)
        assert str(tmp_path) not in str(error)
        assert str(error).startswith("The file ")
        assert error.hint
        assert error.details["path"] == str(tmp_path / name)
    assert entries(tmp_path) == before


def test_a_file_that_cannot_be_replaced_stays(tmp_path, image, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        image.save(path)
    assert path.read_bytes() == b"precious"
    assert entries(tmp_path) == ["a.png"]


def test_a_reader_never_sees_half_a_file(tmp_path, image):
    path, done, wrong = tmp_path / "a.png", threading.Event(), []
    image.save(path)

    def read():
        while not done.is_set():
            if path.read_bytes() != image.png:
                wrong.append(1)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(40):
            image.save(path)
    finally:
        done.set()
        thread.join()
    assert not wrong
    assert entries(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "name", ["灯" * 80 + ".png", "🗼" * 60 + ".png", "x" * 250 + ".png", "é .png", "-.png"]
)
def test_every_name_that_the_disk_takes(tmp_path, image, name):
    """Long names in other scripts failed: the name of the part file was longer than the disk allows."""
    path = tmp_path / name
    if len(os.fsencode(name)) > 255:
        pytest.fail("not a name that the disk takes")
    check_writable(path)
    image.save(path)
    assert entries(tmp_path) == [name]


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for name in ("a.png", "b.png"):
        check_writable(tmp_path / name)
    assert entries(tmp_path) == ["a.png"]


def test_a_folder_without_permission(tmp_path):
    """Python's own tests of paths raise PermissionError where a folder above cannot be searched."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o000)
        with pytest.raises(OutputError):
            check_writable(closed / "deeper" / "a.png")
        closed.chmod(0o700)
        return
    closed = tmp_path / "closed"
    (closed / "deeper").mkdir(parents=True)
    closed.chmod(0o700)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            check_writable(closed / "deeper" / "a.png")
        except OutputError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_pictures_do_not_fill_a_log(image):
    assert len(repr(image)) < 100
