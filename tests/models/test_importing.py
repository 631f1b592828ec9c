"""Taking in the user's own files: what they are, what is missing, where they stay, and that nothing is half there."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from model_parts import make, sha256_of
from weights import safetensors_header, write

from sdmanager.errors import (
    InsufficientResourcesError,
    InvalidRequestError,
    ModelChangedError,
    ModelComponentMissingError,
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    ModelUnsafeError,
    ModelUnsupportedError,
    StorageError,
)
from sdmanager.models import Family, Role, _copying, demo_model
from sdmanager.models._reading import Meter, StoppedError
from sdmanager.models.importing import import_model
from sdmanager.models.installed import InstalledFile, InstalledModel, Origin
from sdmanager.models.store import ModelStore
from sdmanager.settings import Settings

KILLED = """
import asyncio, sys
from pathlib import Path
from sdmanager.models import import_model
from sdmanager.settings import Settings
data = Path(sys.argv[2])
asyncio.run(import_model(
    sys.argv[1], Settings(data, data, data), copy=True,
    on_progress=lambda done, total: done and (print("copying", flush=True), sys.stdin.read()),
))
"""

FLUX_PARTS = ("flux-dev", "clip_l", "t5xxl", "vae")


def folder_of(folder: Path, *kinds: str, ending: str = "safetensors") -> Path:
    for kind in kinds:
        make(folder / f"{kind}.{ending}", kind)
    return folder


def left_in(settings: Settings) -> list[str]:
    """What lies in the folder of models, but for the list."""
    if not settings.models_dir.exists():
        return []
    return sorted(path.name for path in settings.models_dir.iterdir() if path.name != "installed")


async def test_a_file_stays_where_it_is(home, tmp_path):
    path = make(tmp_path / "My Model (v1).safetensors", "sd1")
    model = await import_model(path, home)
    assert (model.name, model.family, model.origin) == ("My-Model-v1", Family.SD1, Origin.IMPORTED)
    [file] = model.files
    assert (file.role, file.path, file.size) == (Role.MODEL, path, path.stat().st_size)
    assert (file.sha256, file.owned, file.quantisation) == (None, False, "F16")
    assert (model.defaults.steps, model.defaults.width) == (20, 512)
    assert ModelStore(home).list() == [model]
    assert left_in(home) == []


async def test_a_relative_path(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "x.gguf", "sdxl")
    model = await import_model("x.gguf", home, name="mine:f16")
    assert (model.name, model.files[0].path, model.family) == ("mine:f16", path, Family.SDXL)


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
async def test_a_folder(home, tmp_path, ending):
    """What is no part of the model is left out: LoRAs, and encoders that other families need."""
    folder = folder_of(tmp_path / "my flux", *FLUX_PARTS, "lora", "upscaler", "llm", "clip_g", ending=ending)
    (folder / "README.md").write_text("x")
    make(folder / "deeper" / "sd1.safetensors", "sd1")
    model = await import_model([folder], home)
    assert (model.name, model.family) == ("my-flux", Family.FLUX)
    assert {file.role: file.path.stem for file in model.files} == {
        Role.DIFFUSION_MODEL: "flux-dev", Role.CLIP_L: "clip_l", Role.T5XXL: "t5xxl", Role.VAE: "vae",
    }  # fmt: skip
    assert (model.defaults.steps, model.defaults.guidance, model.defaults.cfg_scale) == (20, 3.5, 1.0)


async def test_files_that_belong_together(home, tmp_path):
    folder = folder_of(tmp_path, "flux-schnell", *FLUX_PARTS[1:], "tae")
    model = await import_model(sorted(folder.glob("*.safetensors")), home)
    assert (model.name, len(model.files)) == ("flux-schnell", 5)
    assert (model.defaults.steps, model.defaults.guidance) == (4, None)


async def test_files_by_role(home, tmp_path):
    """Also those whose header says nothing; and a whole model that was called a diffusion model."""
    folder = folder_of(tmp_path, "z-image", "unheard-of", "vae", "sd1")
    given = {Role.LLM: folder / "unheard-of.safetensors", Role.VAE: folder / "vae.safetensors"}
    model = await import_model([folder / "z-image.safetensors"], home, name="z", roles=given)
    assert {file.role for file in model.files} == {Role.DIFFUSION_MODEL, Role.LLM, Role.VAE}
    roles = {Role.DIFFUSION_MODEL: folder / "sd1.safetensors"}
    assert [file.role for file in (await import_model([], home, roles=roles)).files] == [Role.MODEL]


async def test_a_tiny_autoencoder_decodes_where_there_is_no_other(home, tmp_path):
    folder = folder_of(tmp_path / "z", "z-image", "llm", "tae")
    assert {file.role for file in (await import_model(folder, home)).files} == {
        Role.DIFFUSION_MODEL, Role.LLM, Role.TAE,
    }  # fmt: skip


async def test_the_demo_model_has_all_its_parts(home):
    model = await import_model(list(demo_model(home).files.values()), home, name="noise")
    assert (model.family, dict(model.model_files().files)) == (
        Family.OVIS_IMAGE,
        dict(demo_model(home).files),
    )


@pytest.mark.parametrize(
    ("kinds", "missing"),
    [
        (["flux-dev"], ["clip_l", "t5xxl", "vae"]),
        (["flux-dev", "vae", "clip_l"], ["t5xxl"]),
        (["z-image", "vae"], ["llm"]),
        (["z-image", "tae"], ["llm"]),
        (["z-image", "llm"], ["vae"]),
        (["sd1-without-encoder"], ["clip_l"]),
        (["unet"], ["clip_l", "vae"]),
    ],
)
async def test_a_part_that_is_missing_is_named(home, tmp_path, kinds, missing):
    with pytest.raises(ModelComponentMissingError) as caught:
        await import_model(folder_of(tmp_path / "x", *kinds), home)
    assert caught.value.details["missing"] == missing
    for role in missing:
        assert f"--{role.replace('_', '-')} FILE" in caught.value.hint
    assert ModelStore(home).list() == []


@pytest.mark.parametrize(
    ("kind", "words", "hint"),
    [
        ("lora", "is a LoRA", "folder of LoRAs"),
        ("controlnet", "is a ControlNet", "draws pictures"),
        ("upscaler", "is an upscaler", "draws pictures"),
        ("vae", "is a VAE", "--vae"),
        ("llm", "is a language model", "--llm"),
        ("clip_l", "is a text encoder CLIP-L", "--clip-l"),
        ("wan", "makes videos", "models list"),
        ("ip-adapter", "is an IP-Adapter", "draws pictures"),
        ("motion", "is a motion module", "draws pictures"),
        ("z-control", "is a ControlNet", "draws pictures"),
        ("taesd_decoder", "is a half of a tiny autoencoder", "diffusion_pytorch_model.safetensors"),
        ("taesd_encoder", "is a half of a tiny autoencoder", "diffusion_pytorch_model.safetensors"),
    ],
)
async def test_something_else_than_a_model(home, tmp_path, kind, words, hint):
    for source in (make(tmp_path / "file" / f"{kind}.safetensors", kind), tmp_path / "file"):
        with pytest.raises(ModelUnsupportedError, match=words) as caught:
            await import_model(source, home)
        assert hint in caught.value.hint
        assert kind in str(caught.value)


async def test_parts_without_a_model(home, tmp_path):
    with pytest.raises(ModelUnsupportedError, match=r"no diffusion model among 'lora\.safetensors'"):
        await import_model(folder_of(tmp_path / "x", "vae", "lora"), home)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["flux-dev", "flux-schnell", *FLUX_PARTS[1:]], "Two files could be the diffusion model: "),
        (["sd1", "sdxl"], r"\(of the families Stable Diffusion 1\.x and Stable Diffusion XL\)"),
        (["z-image", "flux-dev", "llm", "vae"], r"\(of the families FLUX\.1 and Z-Image\)"),
    ],
)
async def test_a_folder_with_two_of_a_kind(home, tmp_path, kinds, words):
    with pytest.raises(InvalidRequestError, match=words) as caught:
        await import_model(folder_of(tmp_path / "x", *kinds), home)
    assert len(caught.value.details["paths"]) == 2
    assert all(Path(path).name in str(caught.value) for path in caught.value.details["paths"])
    assert "Name the files" in caught.value.hint


async def test_a_role_settles_which_of_two(home, tmp_path):
    folder = folder_of(tmp_path / "x", "z-image", "llm", "vae")
    other = make(folder / "other.safetensors", "llm")
    with pytest.raises(InvalidRequestError, match=r"'llm\.safetensors' and 'other\.safetensors'"):
        await import_model(folder, home)
    model = await import_model(folder, home, roles={Role.LLM: other})
    assert {file.path.stem for file in model.files} == {"z-image", "other", "vae"}


@pytest.mark.parametrize(
    ("role", "kind", "words"),
    [
        (Role.LLM, "t5xxl", "given as the language model, and is a text encoder T5-XXL"),
        (Role.VAE, "lora", "given as the VAE, and is a LoRA"),
        (Role.VAE, "tae", "given as the VAE, and is a tiny autoencoder"),
        (Role.CLIP_L, "clip_g", "given as the text encoder CLIP-L, and is a text encoder CLIP-G"),
        (Role.VAE, "sd1", "given as the VAE, and is a whole model"),
    ],
)
async def test_a_file_that_is_another_part_than_it_was_given_as(home, tmp_path, role, kind, words):
    with pytest.raises(ModelUnsupportedError, match=words):
        await import_model(
            make(tmp_path / "z.gguf", "z-image"), home, roles={role: make(tmp_path / "p.gguf", kind)}
        )


async def test_a_file_that_nobody_knows_may_be_one_the_engine_knows(home, tmp_path):
    model = await import_model(make(tmp_path / "x.gguf", "unheard-of"), home)
    assert (model.family, model.files[0].role, model.defaults.as_fields()) == (None, Role.MODEL, {})


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sd_turbo", "sd1", {"steps": 4, "cfg_scale": 1.0, "width": 512}),
        ("sd_xl_turbo_1.0_fp16", "sdxl", {"steps": 4, "cfg_scale": 1.0, "width": 512}),
        ("sdxl_lightning_8step", "sdxl", {"steps": 8, "cfg_scale": 1.0, "width": 1024}),
        ("sdxl-LCM-2steps", "sdxl", {"steps": 2, "cfg_scale": 1.0}),
        ("lightning-0step", "sdxl", {"steps": 4}),
        ("sdxl_base", "sdxl", {"steps": 20, "cfg_scale": 7.5, "width": 1024}),
        ("my_turbo", "unheard-of", {"steps": 4, "cfg_scale": 1.0}),
        ("sd-2-klein-base", "unheard-of", {"cfg_scale": 4.0}),
    ],
)
async def test_what_suits_a_model_by_its_name(home, tmp_path, name, kind, expected):
    model = await import_model(make(tmp_path / f"{name}.safetensors", kind), home)
    assert {key: model.defaults.as_fields()[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ("z_image_turbo_bf16", {"steps": 8, "cfg_scale": 1.0}),
        ("z_image_bf16", {"steps": 20, "cfg_scale": 5.0}),
        ("z_image_4steps_turbo", {"steps": 4, "cfg_scale": 1.0}),
        ("ernie-image-turbo", {"steps": 8, "cfg_scale": 1.0}),
        ("ernie-image-UD-Q4_K_M", {"steps": 20, "cfg_scale": 5.0}),
        ("klein-flux-2-4b", {"steps": 4, "cfg_scale": 1.0}),
        ("klein-flux-2-base-9b", {"steps": 20, "cfg_scale": 4.0}),
        ("klein-flux-2-base-9b-8steps", {"steps": 20, "cfg_scale": 4.0}),
        ("flux1-dev-8steps-turbo", {"steps": 8, "guidance": 3.5}),
    ],
)
async def test_what_suits_a_distilled_model_of_parts(home, tmp_path, main, expected):
    kinds = {
        "z": ("z-image", "llm"), "f": ("flux-dev", "clip_l", "t5xxl"), "e": ("ernie", "llm"), "k": ("flux2", "llm"),
    }[main[0]]  # fmt: skip
    folder = folder_of(tmp_path / "x", "vae", *kinds[1:])
    make(folder / f"{main}.safetensors", kinds[0])
    fields = (await import_model(folder, home)).defaults.as_fields()
    assert {key: fields[key] for key in expected} == expected


async def test_one_of_many_pieces(home, tmp_path):
    path = make(tmp_path / "model-00001-of-00003.safetensors", "sd1")
    for source in (path, tmp_path):
        with pytest.raises(ModelUnsupportedError, match="one of 3 pieces"):
            await import_model(source, home)


async def test_a_model_that_draws_in_pixels_needs_nothing_to_decode_them(home, tmp_path):
    """The engine has a stand-in for its VAE, and takes no tiny autoencoder."""
    folder = folder_of(tmp_path / "x", "radiance", "t5xxl", "tae", "vae")
    model = await import_model(folder, home)
    assert model.family is Family.CHROMA_RADIANCE
    assert {file.role for file in model.files} == {Role.DIFFUSION_MODEL, Role.T5XXL}
    assert model.model_files().has_own_decoder


def spoil(folder: Path) -> None:
    """What lies beside models: what macOS and downloads leave, and what trainers write."""
    (folder / "._a.safetensors").write_bytes(b"\0\5\x16\7")
    (folder / "a-empty.safetensors").touch()
    (folder / "b.bin").write_bytes(b"no model at all")
    make(folder / "c.gguf", "sdxl")
    os.truncate(folder / "c.gguf", 100)
    make(folder / "d-00001-of-00002.safetensors", "t5xxl")


async def test_what_is_damaged_in_a_folder_is_left_out(home, tmp_path):
    spoil(folder_of(tmp_path / "x", "sd1", "lora"))
    assert [file.path.stem for file in (await import_model(tmp_path / "x", home)).files] == ["sd1"]


async def test_a_folder_with_nothing_that_is_whole_says_why(home, tmp_path):
    """Also where only what cannot draw is whole, or what nobody knows."""
    folder = tmp_path / "x"
    folder.mkdir()
    spoil(folder)
    for kind in (None, "lora", "vae", "unheard-of"):
        if kind:
            make(folder / f"z-{kind}.gguf", kind)
        with pytest.raises(ModelCorruptError, match=r"'a-empty\.safetensors' is empty"):
            await import_model(folder, home)
        if kind:
            (folder / f"z-{kind}.gguf").unlink()


async def test_a_part_that_is_missing_because_it_is_damaged(home, tmp_path):
    folder = folder_of(tmp_path / "x", "z-image", "llm", "vae")
    os.truncate(folder / "llm.safetensors", 50)
    with pytest.raises(ModelComponentMissingError) as caught:
        await import_model(folder, home)
    assert "--llm FILE" in caught.value.hint
    assert "'llm.safetensors' is cut short" in caught.value.hint


@pytest.mark.parametrize("source", ["x" * 300, "x" * 300 + "/y.gguf"])
async def test_a_name_that_is_too_long(home, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        await import_model(source, home)


@pytest.mark.parametrize("sources", ["", [""], ["x.gguf", ""]])
async def test_an_empty_path(home, tmp_path, monkeypatch, sources):
    """It was taken for the folder one is in."""
    make(tmp_path / "x.gguf", "sd1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match="path to import is empty"):
        await import_model(sources, home)


async def test_a_file_without_tensors(home, tmp_path):
    path = write(tmp_path / "x.safetensors", safetensors_header({}))
    with pytest.raises(ModelCorruptError, match="has no tensors in it"):
        await import_model(path, home)


async def test_a_folder_of_diffusers(home, tmp_path):
    folder = folder_of(tmp_path / "x", "unet")
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(ModelUnsupportedError, match="many files of Diffusers") as caught:
        await import_model(folder, home)
    assert "single" in caught.value.hint


@pytest.mark.parametrize(
    ("make_it", "kind", "words"),
    [
        (lambda path: None, ModelNotFoundError, "does not exist"),
        (lambda path: path.touch(), ModelCorruptError, "is empty"),
        (lambda path: path.mkdir(), ModelNotFoundError, "has no .safetensors or .gguf file"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), ModelCorruptError, "web page"),
        (
            lambda path: make(path, "sd1") and os.truncate(path, path.stat().st_size - 1),
            ModelCorruptError,
            "x.gguf",
        ),
        (lambda path: path.symlink_to(path), ModelNotFoundError, "cannot be read"),
        (os.mkfifo, ModelNotFoundError, "no regular file"),
    ],
    ids=["missing", "empty", "empty folder", "web page", "truncated", "loop", "pipe"],
)
async def test_what_cannot_be_read(home, tmp_path, make_it, kind, words):
    make_it(tmp_path / "x.gguf")
    with pytest.raises(kind, match=words) as caught:
        await import_model(tmp_path / "x.gguf", home)
    assert caught.value.hint


def pickled(path: Path) -> Path:
    """As torch.save writes it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    return path


async def test_a_pickle_is_refused_unless_allowed(home, tmp_path):
    path = pickled(tmp_path / "old.ckpt")
    with pytest.raises(ModelUnsafeError, match="can run any program"):
        await import_model(path, home)
    assert (await import_model(path, home, allow_pickle=True)).files[0].role is Role.MODEL
    assert (await import_model(path, replace(home, allow_pickle=True), name="y")).name == "y"


async def test_a_folder_with_a_pickle_of_the_same_model(home, tmp_path):
    folder = folder_of(tmp_path / "x", "sd1")
    pickled(folder / "a.ckpt")
    for allowed in (False, True):
        model = await import_model(folder, home, allow_pickle=allowed)
        assert [file.path.name for file in model.files] == ["sd1.safetensors"]
    (folder / "sd1.safetensors").unlink()
    with pytest.raises(ModelUnsafeError):
        await import_model(folder, home)


async def test_a_folder_of_everything(home, tmp_path):
    for number in range(201):
        (tmp_path / f"{number}.gguf").touch()
    with pytest.raises(InvalidRequestError, match="201 weights files"):
        await import_model(tmp_path, home)


async def test_nothing_at_all(home):
    with pytest.raises(InvalidRequestError, match="nothing to import"):
        await import_model([], home)


@pytest.mark.parametrize("name", ["", "demo", "a/b", "..", "con", "x" * 81])
async def test_a_name_that_is_none(home, tmp_path, name):
    with pytest.raises(InvalidRequestError):
        await import_model(make(tmp_path / "x.gguf", "sd1"), home, name=name)


@pytest.mark.parametrize("stem", ["demo", "___", "ü", "con"])
async def test_a_file_whose_name_no_model_can_have(home, tmp_path, stem):
    with pytest.raises(InvalidRequestError) as caught:
        await import_model(make(tmp_path / f"{stem}.gguf", "sd1"), home)
    assert "--name" in caught.value.hint


async def test_the_same_files_again_change_nothing(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home)
    assert await import_model(path, home) == model


async def test_a_file_that_is_named_twice_is_one(home, tmp_path):
    path = make(tmp_path / "x" / "x.gguf", "sd1")
    (tmp_path / "link.gguf").symlink_to(path)
    (tmp_path / "hard.gguf").hardlink_to(path)
    (tmp_path / "x" / "also.gguf").symlink_to(path)
    for sources in (
        [path, path],
        [path, tmp_path / "link.gguf"],
        [path, tmp_path / "hard.gguf"],
        [path.parent, path],
    ):
        model = await import_model(sources, home, name="m", replace=True)
        assert [file.path for file in model.files] == [path]
    model = await import_model(path, home, name="n", roles={Role.MODEL: tmp_path / "link.gguf"})
    assert [file.path for file in model.files] == [tmp_path / "link.gguf"]


async def test_the_same_file_by_another_way(home, tmp_path, monkeypatch):
    path = make(tmp_path / "x" / "x.gguf", "sd1")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "folder").symlink_to(tmp_path / "x")
    (tmp_path / "deep").symlink_to(tmp_path / "far" / "away")
    model = await import_model(path, home)
    monkeypatch.chdir(tmp_path / "x")
    ways = ("../x/x.gguf", tmp_path / "folder" / "x.gguf", tmp_path / "deep" / ".." / ".." / "x" / "x.gguf")
    for way in ways:
        assert await import_model(way, home, name="x") == model
    other = await import_model(ways[2], home, name="y")
    assert [file.path for file in other.files] == [path]
    make(tmp_path / "z.gguf", "sd1")
    assert (await import_model("../x/..", home, name="z")).files[0].path == tmp_path / "z.gguf"


async def test_a_file_that_was_changed_is_taken_anew(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelChangedError):
        ModelStore(home).check(model)
    ModelStore(home).check(await import_model(path, home))


async def test_other_files_under_the_same_name(home, tmp_path):
    model = await import_model(make(tmp_path / "x.gguf", "sd1"), home)
    other = make(tmp_path / "y.gguf", "sdxl")
    for copy in (False, True):
        with pytest.raises(
            InvalidRequestError, match="A model named 'X' is installed, with other files"
        ) as caught:
            await import_model(other, home, name="X", copy=copy)
        assert "--replace" in caught.value.hint
    assert ModelStore(home).list() == [model]
    assert (await import_model(other, home, name="x", replace=True)).family is Family.SDXL
    assert len(ModelStore(home).list()) == 1


async def test_a_copy(home, tmp_path):
    folder = folder_of(tmp_path / "my flux", *FLUX_PARTS)
    seen: list[tuple[int, int]] = []
    model = await import_model(
        folder, home, copy=True, on_progress=lambda done, total: seen.append((done, total))
    )
    shutil.rmtree(folder)
    assert left_in(home) == ["my-flux"]
    for file in model.files:
        assert file.path.parent == home.models_dir / "my-flux"
        assert file.owned
        assert file.sha256 == sha256_of(file.path)
    ModelStore(home).check(model)
    assert seen == sorted(seen)
    assert seen[-1] == (model.size_bytes, model.size_bytes)
    assert ModelStore(home).remove(model.name).freed_bytes == model.size_bytes
    assert left_in(home) == []


async def test_copies_of_one_name(home, tmp_path):
    make(tmp_path / "a" / "model.safetensors", "z-image")
    make(tmp_path / "b" / "MODEL.safetensors", "llm")
    make(tmp_path / "c" / "model.safetensors", "vae")
    model = await import_model(sorted(tmp_path.glob("?/*")), home, name="z", copy=True)
    assert sorted(path.name for path in (home.models_dir / "z").iterdir()) == [
        "diffusion_model-model.safetensors", "llm-MODEL.safetensors", "vae-model.safetensors",
    ]  # fmt: skip
    ModelStore(home).check(model)


@pytest.mark.parametrize("name", ["installed", "demo-2", "mine"])
async def test_a_folder_that_is_taken(home, tmp_path, name):
    """That of the list and those of the demo model never hold a copy, and nothing is copied over anything."""
    (home.models_dir / "mine").mkdir(parents=True)
    model = await import_model(make(tmp_path / "x.gguf", "sd1"), home, name=name, copy=True)
    assert model.files[0].path.parent.name == f"{name}-2"
    demo_model(home)
    ModelStore(home).check(model)


async def test_the_same_copy_again_and_another_one(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home, copy=True)
    moved = path.rename(tmp_path / "y.gguf")
    assert await import_model(moved, home, name="x", copy=True) == model
    make(moved, "sd1", salt=1)
    with pytest.raises(InvalidRequestError, match="is installed, with other files"):
        await import_model(moved, home, name="x", copy=True)
    replaced = await import_model(moved, home, name="x", copy=True, replace=True)
    assert replaced.files[0].sha256 == sha256_of(moved)
    assert left_in(home) == ["x-2"]


async def test_a_copy_that_was_only_touched_is_still_the_same(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home, copy=True)
    copy = model.files[0]
    os.utime(copy.path, ns=(1, 1))
    again = await import_model(path, home, copy=True)
    assert again.files == (replace(copy, mtime_ns=1),)
    assert ModelStore(home).find("x") == again
    ModelStore(home).check(again)
    copy.path.write_bytes(b"w" * copy.size)
    with pytest.raises(InvalidRequestError, match="with other files") as caught:
        await import_model(path, home, copy=True)
    assert "--replace, which deletes its copies" in caught.value.hint


async def test_a_file_that_lies_where_it_is_is_no_copy(home, tmp_path):
    """Also if its content is known."""
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home)
    ModelStore(home).add(replace(model, files=(replace(model.files[0], sha256=sha256_of(path)),)))
    with pytest.raises(InvalidRequestError, match="with other files") as caught:
        await import_model(path, home, copy=True)
    assert "deletes" not in caught.value.hint
    # Nothing is read where there is nothing to compare it with.
    seen = list[int]()
    ModelStore(home).add(replace(model, files=(replace(model.files[0], owned=True),)))
    with pytest.raises(InvalidRequestError, match="with other files"):
        await import_model(path, home, copy=True, on_progress=lambda done, total: seen.append(done))
    assert seen == []


async def test_a_copy_that_is_imported_where_it_lies_stays_ours(home, tmp_path):
    model = await import_model(make(tmp_path / "x.gguf", "sd1"), home, copy=True)
    again = await import_model(model.files[0].path, home, name="y")
    assert again.files[0].owned
    assert ModelStore(home).find("y") == again
    ModelStore(home).remove("x")
    assert ModelStore(home).remove("y").deleted == (model.files[0].path,)
    assert left_in(home) == []


async def test_a_damaged_copy_is_not_the_same(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    model = await import_model(path, home, copy=True)
    model.files[0].path.unlink()
    with pytest.raises(InvalidRequestError):
        await import_model(path, home, copy=True)
    ModelStore(home).check(await import_model(path, home, copy=True, replace=True))


async def test_what_progress_raises_ends_the_copy(home, tmp_path):
    def refuse(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await import_model(make(tmp_path / "x.gguf", "sd1"), home, copy=True, on_progress=refuse)


async def test_cancelling_at_the_last_byte_leaves_nothing(home, tmp_path):
    """All is copied, and nothing is listed that nobody waits for."""
    path = make(tmp_path / "x.gguf", "sd1")
    size = path.stat().st_size
    stop, told = threading.Event(), list[int]()

    def tell(done: int) -> None:
        told.append(done)
        if done == size:
            stop.set()

    meter = Meter(size, tell, stop)
    written = list[object]()
    file = InstalledFile(Role.MODEL, path, size, path.stat().st_mtime_ns)
    with pytest.raises(StoppedError):
        _copying._copy("x", (file,), home.models_dir, meter, written.append)
    assert (told[-1], written, left_in(home)) == (size, [], [])


async def test_cancelling_a_copy_leaves_nothing(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(3 << 30)
    begun = asyncio.Event()
    task = asyncio.create_task(
        import_model(path, home, copy=True, on_progress=lambda done, total: done and begun.set())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(home) == []
    assert ModelStore(home).list() == []


async def test_a_disk_that_is_too_small(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(8 << 40)
    with pytest.raises(InsufficientResourcesError, match="of free disk space") as caught:
        await import_model(path, home, copy=True)
    assert caught.value.details["needed_bytes"] == 8 << 40
    assert left_in(home) == []


async def test_a_disk_that_gets_full_half_way(home, tmp_path, small_disk):
    """Nine files of a quarter of a page each: their sizes would fit into four pages, and they do not."""
    disk = small_disk(4 * 4096)
    settings = replace(home, data_dir=disk)
    roles = {
        role: make(tmp_path / f"{role}.gguf", "unheard-of")
        for role in Role
        if role is not Role.DIFFUSION_MODEL
    }
    with pytest.raises(InsufficientResourcesError, match="became full"):
        await import_model([], settings, roles=roles, copy=True)
    assert left_in(settings) == []
    assert ModelStore(settings).list() == []


async def test_a_file_that_is_written_to_while_it_is_copied(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(300 << 20)
    with pytest.raises(ModelChangedError, match="while it was copied"):
        await import_model(path, home, copy=True, on_progress=lambda done, total: os.utime(path, ns=(1, 1)))
    assert left_in(home) == []


async def test_somebody_else_takes_the_name_meanwhile(home, tmp_path):
    path = make(tmp_path / "x.gguf", "sd1")
    other = await import_model(make(tmp_path / "y.gguf", "sdxl"), home)

    def take(done: int, total: int) -> None:
        ModelStore(home).add(replace(other, name="x"))

    with path.open("ab") as file:
        file.truncate(300 << 20)
    with pytest.raises(ModelChangedError, match="by somebody else meanwhile"):
        await import_model(path, home, copy=True, on_progress=take)
    assert left_in(home) == []
    assert ModelStore(home).find("x").family is Family.SDXL


async def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "data").write_text("a file")
    settings = Settings(tmp_path / "data", tmp_path / "cache", tmp_path / "state")
    for copy in (False, True):
        with pytest.raises(StorageError):
            await import_model(make(tmp_path / "x.gguf", "sd1"), settings, copy=copy)


async def test_what_a_killed_import_left_is_removed(home, tmp_path):
    kept = {
        ".import-00000new": ("sdmanager-import", 4_000_000_000),
        ".import-users_00": ("notes", 1),  # without our mark
        ".import-users": ("sdmanager-import", 1),  # not a name that we give
        ".import-users-and-more": ("sdmanager-import", 1),
    }
    for name, (file, age) in {**kept, ".import-00000old": ("sdmanager-import", 1)}.items():
        (home.models_dir / name / "files").mkdir(parents=True)
        (home.models_dir / name / "files" / "x").touch()
        (home.models_dir / name / file).touch()
        for path in (home.models_dir / name, *(home.models_dir / name).rglob("*")):
            os.utime(path, (age, age))
    await import_model(make(tmp_path / "x.gguf", "sd1"), home, copy=True)
    assert left_in(home) == sorted([*kept, "x"])


async def test_an_import_that_was_killed_leaves_what_a_later_one_knows(home, tmp_path):
    """A copy that never ends, in a process that is killed; a day later the next import takes it away."""
    path = make(tmp_path / "x.gguf", "sd1")
    with path.open("ab") as file:
        file.truncate(3 << 30)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(home.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "copying\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stdin.close()
    [left] = left_in(home)
    for inside in ((home.models_dir / left), *(home.models_dir / left).rglob("*")):
        os.utime(inside, (1, 1))
    await import_model(make(tmp_path / "y.gguf", "sd1"), home, copy=True)
    assert left_in(home) == ["y"]


async def test_two_at_once_with_one_name(home, tmp_path):
    """Each is whole or refused, and what is listed is there."""
    paths = [make(tmp_path / f"{number}.gguf", "sd1", salt=number) for number in range(4)]
    results = await asyncio.gather(
        *(import_model(path, home, name="x", copy=True) for path in paths), return_exceptions=True
    )
    done = [result for result in results if isinstance(result, InstalledModel)]
    assert len(done) == 1
    assert all(
        isinstance(result, (InvalidRequestError, ModelError)) for result in results if result not in done
    )
    ModelStore(home).check(done[0])
    assert len(left_in(home)) == 1
