"""What a model is: files by role, found or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdmanager.errors import InvalidRequestError, ModelCorruptError, ModelNotFoundError
from sdmanager.models import ModelDefaults, ModelFiles, Role, resolve_model
from sdmanager.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path / "data", tmp_path / "cache", tmp_path / "state")


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "some model.v1.safetensors"
    path.write_bytes(b"x")
    return path


def test_a_file_is_a_whole_model(settings, weights):
    for given in (weights, str(weights)):
        model = resolve_model(given, settings)
        assert (model.name, dict(model.files)) == ("some model.v1", {Role.MODEL: weights})
        assert model.has_own_decoder
        assert model.defaults.as_fields() == {}


def test_a_relative_path_and_a_home_folder(settings, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    assert resolve_model(weights.name, settings).files[Role.MODEL] == weights
    monkeypatch.setenv("HOME", str(weights.parent))
    assert resolve_model(f"~/{weights.name}", settings).files[Role.MODEL] == weights


def test_files_are_made_absolute(weights, monkeypatch):
    """The engine runs in a folder of its own, where a relative path names nothing."""
    monkeypatch.chdir(weights.parent)
    model = ModelFiles("x", {Role.MODEL: Path(weights.name)})
    assert model.files[Role.MODEL] == weights
    model.check()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("none.gguf", ModelNotFoundError, "does not exist"),
        ("~nobody-of-this-name/x.gguf", ModelNotFoundError, "does not exist"),
        ("a\0b.gguf", ModelNotFoundError, "does not exist"),
        ("x" * 300, ModelNotFoundError, "cannot be read"),
        ("file/x.gguf", ModelNotFoundError, "cannot be read"),
        ("folder", ModelNotFoundError, "is a folder"),
        ("broken-link.gguf", ModelNotFoundError, "does not exist"),
        ("empty.gguf", ModelCorruptError, "is empty"),
    ],
    ids=ascii,
)
def test_a_file_that_is_no_model(settings, tmp_path, monkeypatch, name, kind, words):
    """A '~name' that is no user and a NUL were errors without a type."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "broken-link.gguf").symlink_to("nowhere")
    with pytest.raises(kind, match=words) as caught:
        resolve_model(name, settings)
    assert str(caught.value).startswith("The model file ")
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.hint
    assert caught.value.details["role"] == "model"


def test_each_part_is_checked_and_named(weights, tmp_path):
    model = ModelFiles("x", {Role.DIFFUSION_MODEL: weights, Role.T5XXL: tmp_path / "t5.gguf"})
    with pytest.raises(ModelNotFoundError, match=r"The t5xxl file 't5\.gguf' does not exist"):
        resolve_model(model, None)


@pytest.mark.parametrize("roles", [[], [Role.VAE], [Role.LLM, Role.TAE]])
def test_parts_without_a_model_are_refused(weights, roles):
    with pytest.raises(InvalidRequestError) as caught:
        ModelFiles("x", dict.fromkeys(roles, weights))
    assert "--diffusion-model" in caught.value.hint


@pytest.mark.parametrize(
    ("roles", "own"),
    [
        ([Role.MODEL], True),
        ([Role.MODEL, Role.TAE], True),
        ([Role.DIFFUSION_MODEL, Role.VAE, Role.TAE], True),
        ([Role.DIFFUSION_MODEL, Role.TAE], False),
    ],
)
def test_who_decodes_the_picture(weights, roles, own):
    assert ModelFiles("x", dict.fromkeys(roles, weights)).has_own_decoder == own


def test_files_cannot_be_changed(weights):
    files = {Role.MODEL: weights}
    model = ModelFiles("x", files)
    files[Role.VAE] = weights
    assert set(model.files) == {Role.MODEL}
    with pytest.raises(TypeError):
        model.files[Role.VAE] = weights


def test_the_key_of_a_model_is_stable():
    """It is kept in a file: it must not change with the program, the order or the process."""
    files = {Role.DIFFUSION_MODEL: Path("/m/a.gguf"), Role.VAE: Path("/m/b.gguf")}
    model = ModelFiles("x", files)
    assert model.key == "x:c4837b81f7f0"
    assert ModelFiles("x", dict(reversed(files.items()))).key == model.key
    assert ModelFiles("x", files, ModelDefaults(steps=3)).key == model.key


def test_keys_differ_with_name_file_and_role():
    a, b = Path("/m/a.gguf"), Path("/m/b.gguf")
    keys = {
        ModelFiles("x", {Role.MODEL: a}).key,
        ModelFiles("y", {Role.MODEL: a}).key,
        ModelFiles("x", {Role.MODEL: b}).key,
        ModelFiles("x", {Role.DIFFUSION_MODEL: a}).key,
        ModelFiles("x", {Role.MODEL: a, Role.VAE: b}).key,
    }
    assert len(keys) == 5


def test_a_name_that_is_no_utf8(tmp_path, settings):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf"))
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert resolve_model(path, settings).key.startswith("caf\udce9:")
