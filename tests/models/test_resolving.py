"""What is meant by ``-m``: an installed model, a file, or something that is told what is wrong with it."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from model_parts import make

from sdmanager.errors import (
    InvalidRequestError,
    ModelChangedError,
    ModelComponentMissingError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelNotInstalledError,
    ModelUnsafeError,
    ModelUnsupportedError,
)
from sdmanager.models import (
    Family,
    ModelDefaults,
    ModelFiles,
    Role,
    demo_model,
    named_model,
    resolve_model,
)
from sdmanager.models.catalog import load_catalog
from sdmanager.models.importing import import_model
from sdmanager.models.resolving import model_of_files
from sdmanager.models.store import ModelStore
from sdmanager.settings import Settings


@pytest.fixture
def weights(tmp_path) -> Path:
    return make(tmp_path / "some model.v1.safetensors", "sdxl")


async def installed(settings: Settings, path: Path, *names: str) -> None:
    for name in names:
        await import_model(path, settings, name=name)


def test_a_file_is_a_whole_model(home, weights):
    """It gets what suits its family, without being told."""
    for given in (weights, str(weights)):
        model = resolve_model(given, home)
        assert (model.name, dict(model.files)) == ("some model.v1", {Role.MODEL: weights})
        assert (model.family, model.defaults.width) == (Family.SDXL, 1024)
        assert model.has_own_decoder


def test_a_relative_path_and_a_home_folder(home, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    for given in (weights.name, f"./{weights.name}", Path(weights.name)):
        assert resolve_model(given, home).files[Role.MODEL] == weights
    monkeypatch.setenv("HOME", str(weights.parent))
    assert resolve_model(f"~/{weights.name}", home).files[Role.MODEL] == weights


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("none.gguf", ModelNotFoundError, "does not exist"),
        ("./none", ModelNotFoundError, "does not exist"),
        ("~nobody-of-this-name/x.gguf", ModelNotFoundError, "does not exist"),
        ("a\0b.gguf", ModelNotFoundError, "does not exist"),
        ("x" * 300, ModelNotFoundError, "cannot be read"),
        ("file/x.gguf", ModelNotFoundError, "cannot be read"),
        ("folder", ModelNotFoundError, "is a folder"),
        ("broken-link.gguf", ModelNotFoundError, "does not exist"),
        ("broken-link", ModelNotFoundError, "does not exist"),
        ("empty.gguf", ModelCorruptError, "is empty"),
    ],
    ids=ascii,
)
def test_a_file_that_is_no_model(home, tmp_path, monkeypatch, name, kind, words):
    """A '~name' that is no user and a NUL were errors without a type."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "broken-link.gguf").symlink_to("nowhere")
    (tmp_path / "broken-link").symlink_to("nowhere")
    with pytest.raises(kind, match=words) as caught:
        resolve_model(name, home)
    assert str(caught.value).startswith("The model file ")
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.hint
    assert caught.value.details["role"] == "model"


def test_a_name_that_is_no_utf8(tmp_path, home):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf"))
    try:
        make(path, "sd1")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert resolve_model(path, home).key.startswith("caf\udce9:")


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("lora", ModelUnsupportedError, "is a LoRA"),
        ("vae", ModelUnsupportedError, "is a VAE"),
        ("wan", ModelUnsupportedError, "makes videos"),
        ("flux-dev", ModelComponentMissingError, "text encoder CLIP-L, text encoder T5-XXL and VAE"),
        ("sd1-without-encoder", ModelComponentMissingError, "without its text encoder CLIP-L"),
    ],
)
def test_a_file_that_cannot_draw_by_itself(home, tmp_path, kind, error, words):
    """Told before any engine is looked for."""
    with pytest.raises(error, match=words):
        resolve_model(make(tmp_path / "x.gguf", kind), home)


def test_a_file_that_nobody_knows_is_for_the_engine(home, tmp_path):
    model = resolve_model(make(tmp_path / "x.gguf", "unheard-of"), home)
    assert (dict(model.files), model.family) == ({Role.MODEL: tmp_path / "x.gguf"}, None)


def test_a_truncated_file(home, weights):
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(ModelCorruptError):
        resolve_model(weights, home)


def test_a_pickle_is_refused_unless_allowed(home, tmp_path):
    path = tmp_path / "old.ckpt"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(ModelUnsafeError):
        resolve_model(path, home)
    assert resolve_model(path, replace(home, allow_pickle=True)).files[Role.MODEL] == path


async def test_an_installed_model_by_its_name(home, weights):
    await installed(home, weights, "mine", "other:f16")
    for name in ("mine", "MINE", "other:f16", "other"):
        model = resolve_model(name, home)
        assert (model.files[Role.MODEL], model.family) == (weights, Family.SDXL)
    assert resolve_model("other", home).name == "other:f16"


async def test_a_name_comes_before_a_file(home, weights, tmp_path, monkeypatch):
    await installed(home, weights, "mine")
    other = make(tmp_path / "mine", "sd1")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mine", home).files[Role.MODEL] == weights
    for given in ("./mine", Path("mine"), other):
        assert resolve_model(given, home).files[Role.MODEL] == other


async def test_a_name_of_several_options(home, weights):
    await installed(home, weights, "other:f16", "other:q4")
    with pytest.raises(ModelNotFoundError, match="no model named 'other'") as caught:
        resolve_model("other", home)
    assert "Did you mean 'other:" in caught.value.hint


async def test_a_file_of_an_installed_model_that_was_changed(home, weights):
    await installed(home, weights, "mine")
    os.utime(weights, ns=(1, 1))
    with pytest.raises(ModelChangedError):
        resolve_model("mine", home)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match="not there any more"):
        resolve_model("mine", home)


def test_a_model_of_the_catalogue_that_is_not_there(home):
    names = load_catalog().names
    for name in ("sd-turbo", "SD-Turbo", next(name for name in names if name.startswith("sd-turbo:"))):
        with pytest.raises(ModelNotInstalledError) as caught:
            resolve_model(name, home)
        assert f"models pull {name}" in caught.value.hint
        assert caught.value.details["sizeBytes"] > 1e9


async def test_the_first_option_of_the_catalogue_is_listed_without_it(home, weights):
    model, option = load_catalog().get("sd-turbo")
    await installed(home, weights, model.name)
    assert resolve_model(f"{model.name}:{option.name}", home).name == model.name


async def test_a_name_that_is_nearly_one(home, weights):
    await installed(home, weights, "lighthouse")
    for given, meant in (("lighthuose", "lighthouse"), ("sd-turbp", "sd-turbo")):
        with pytest.raises(ModelNotFoundError, match="no file") as caught:
            resolve_model(given, home)
        assert caught.value.hint == f"Did you mean '{meant}'?"
        assert caught.value.details["suggestion"] == meant
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model("qqqqqqqqqqqqqqqqqqqqqq", home)
    assert "models list --all" in caught.value.hint


@pytest.mark.parametrize(
    ("listed", "name"), [("mine", "Mine"), ("sd-1.5", "sd-1.5"), ("sd-1.5", "sd-1.5:q4_0")]
)
def test_a_damaged_record_is_told_as_such(home, listed, name):
    """And not as a model that there is not."""
    folder = home.models_dir / "installed"
    folder.mkdir(parents=True)
    (folder / f"{listed}.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match=r"The record of the model '.*' cannot be read") as caught:
        resolve_model(name, home)
    assert "models remove" in caught.value.hint


async def test_what_an_installed_model_is_in_is_known_at_a_start(home, weights):
    await installed(home, weights, "mine")
    assert dict(resolve_model("mine", home).quantisations) == {Role.MODEL: "F16"}
    assert dict(resolve_model(weights, home).quantisations) == {Role.MODEL: "F16"}


def test_an_empty_name(home):
    """It was taken for the folder one is in."""
    with pytest.raises(InvalidRequestError, match="name of the model is empty"):
        resolve_model("", home)


@pytest.mark.parametrize("name", ["demo", "DEMO", "Demo", "demo:local"])
def test_the_demo_model(home, name):
    assert resolve_model(None, home) == resolve_model(name, home) == demo_model(home)


def test_what_is_a_model_is_taken_as_it_is(home, weights, tmp_path):
    model = ModelFiles("x", {Role.MODEL: weights}, ModelDefaults(steps=3))
    assert resolve_model(model, home) is model
    model = ModelFiles("x", {Role.DIFFUSION_MODEL: weights, Role.T5XXL: tmp_path / "t5.gguf"})
    with pytest.raises(ModelNotFoundError, match=r"The t5xxl file 't5\.gguf' does not exist"):
        resolve_model(model, home)


def test_files_by_role_get_their_family(home, tmp_path):
    files = {
        Role.MODEL: make(tmp_path / "z.gguf", "z-image"),
        Role.LLM: make(tmp_path / "llm.gguf", "llm"),
        Role.VAE: make(tmp_path / "vae.gguf", "vae"),
    }
    model = model_of_files("z", files, home)
    assert (model.name, model.family, model.defaults.steps) == ("z", Family.Z_IMAGE, 20)
    assert dict(model.quantisations) == dict.fromkeys((Role.DIFFUSION_MODEL, Role.LLM, Role.VAE), "F16")
    assert model.files[Role.DIFFUSION_MODEL] == files[Role.MODEL]
    with pytest.raises(ModelUnsupportedError, match="given as the language model"):
        model_of_files("z", {**files, Role.LLM: files[Role.VAE]}, home)
    with pytest.raises(ModelComponentMissingError):
        model_of_files("z", {Role.MODEL: files[Role.MODEL], Role.VAE: files[Role.VAE]}, home)
    with pytest.raises(InvalidRequestError, match="Two files could be the"):
        model_of_files("z", {**files, Role.DIFFUSION_MODEL: files[Role.MODEL]}, home)


def test_nothing_is_made_by_looking(home, weights):
    resolve_model(weights, home)
    with pytest.raises(ModelNotFoundError):
        resolve_model("nobody-knows-this", home)
    assert not home.data_dir.exists()
    assert ModelStore(home).list() == []


# --- by name alone


async def test_a_name_alone_means_what_is_installed(home, weights):
    await installed(home, weights, "mine", "many:q4_0")
    for name, whole in (
        ("mine", "mine"),
        ("MINE", "mine"),
        ("many", "many:q4_0"),
        ("many:q4_0", "many:q4_0"),
    ):
        assert named_model(name, home) == resolve_model(name, home)
        assert named_model(name, home).name == whole


def test_the_demo_model_has_a_name(built):
    for name in ("demo", "DEMO", "demo:local"):
        assert named_model(name, built) == demo_model(built)


def test_where_the_demo_model_would_be_is_known_without_it(home, built):
    assert demo_model(built, make=False) == demo_model(built)
    assert set(demo_model(home, make=False).files) == set(demo_model(built).files)
    assert not home.models_dir.exists()


@pytest.mark.parametrize("place", ["{}", "./{}", "../{}", "{}\0", "~/{}"])
def test_a_path_is_no_name_whether_there_is_a_file_or_not(home, weights, monkeypatch, place):
    """And the same is said of both."""
    monkeypatch.chdir(weights.parent)
    monkeypatch.setenv("HOME", str(weights.parent))
    said = []
    for file in (weights.name, f"{weights.parent.name}/{weights.name}", str(weights), "none.safetensors"):
        with pytest.raises(ModelNotFoundError) as caught:
            named_model(place.format(file), home)
        said.append(caught.value.message.replace(repr(place.format(file)), "NAME"))
    assert said[0] == said[3]
    assert said[1] == said[2]
    assert "/" not in "".join(said)


def test_what_is_wrong_with_a_name_is_said(home, weights):
    with pytest.raises(InvalidRequestError, match="empty"):
        named_model("", home)
    with pytest.raises(ModelNotInstalledError):
        named_model("sd-turbo", home)
    with pytest.raises(ModelNotFoundError, match=r"no model named 'none'\.$"):
        named_model("none", home)


async def test_a_record_that_cannot_be_read_and_files_that_changed_are_told_of_names_too(home, weights):
    await installed(home, weights, "mine")
    with weights.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelChangedError):
        named_model("mine", home)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match="not there any more"):
        named_model("mine", home)
    (home.models_dir / "installed" / "mine.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        named_model("mine", home)
