"""What a model is: files by role."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from model_parts import make

from sdmanager.errors import (
    InvalidRequestError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsafeError,
    ModelUnsupportedError,
)
from sdmanager.models import ModelDefaults, ModelFiles, Role, demo_model


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "some model.v1.safetensors"
    path.write_bytes(b"x")
    return path


def test_files_are_made_absolute(weights, monkeypatch):
    """The engine runs in a folder of its own, where a relative path names nothing."""
    monkeypatch.chdir(weights.parent)
    model = ModelFiles("x", {Role.MODEL: Path(weights.name)})
    assert model.files[Role.MODEL] == weights
    model.check()


def test_a_model_whose_headers_are_right(home, tmp_path):
    demo_model(home).check_formats()
    ModelFiles("x", {Role.MODEL: make(tmp_path / "x.gguf", "unheard-of")}).check_formats()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda path: os.truncate(path, path.stat().st_size - 1), ModelCorruptError, "'vae.gguf'"),
        (lambda path: path.write_bytes(b"x" * 100), ModelCorruptError, "neither safetensors nor GGUF"),
        (lambda path: make(path, "lora"), ModelUnsupportedError, "given as the VAE, and is a LoRA"),
        (lambda path: path.write_bytes(pickle.dumps({}, protocol=2)), ModelUnsafeError, "pickle"),
        (lambda path: path.unlink(), ModelNotFoundError, "The vae file 'vae.gguf' does not exist"),
    ],
)
def test_a_part_whose_header_is_wrong(tmp_path, spoil, error, words):
    path = make(tmp_path / "vae.gguf", "vae")
    model = ModelFiles("x", {Role.MODEL: make(tmp_path / "x.gguf", "sd1"), Role.VAE: path})
    model.check_formats()
    spoil(path)
    with pytest.raises(error, match=words):
        model.check_formats()


def test_a_checkpoint_that_is_allowed(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({}, protocol=2))
    model = ModelFiles("x", {Role.MODEL: tmp_path / "x.ckpt"})
    with pytest.raises(ModelUnsafeError):
        model.check_formats()
    model.check_formats(allow_pickle=True)


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
