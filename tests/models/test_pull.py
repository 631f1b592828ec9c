"""Pulling models with the real library from a local hub."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hub_server import HubFile, Repo
from pulling import PARTS, SIZE, WHOLE, weights_of

from sdmanager.errors import (
    InsufficientResourcesError,
    InvalidRequestError,
    ModelChangedError,
    ModelComponentMissingError,
    ModelNotFoundError,
    ModelUnsafeError,
)
from sdmanager.models import Family, ModelFiles, ModelStore, Origin, Role, pull_model
from sdmanager.process import run

CHILD = Path(__file__).parents[1] / "fakes" / "pull_child.py"


async def test_a_model_is_fetched_and_listed(pulling):
    model = await pulling.pull()
    (file,) = model.files
    assert file.path.read_bytes() == pulling.knobs().data
    assert (file.role, file.repo, file.owned) == (Role.MODEL, WHOLE, True)
    assert file.revision == pulling.hub.repos[WHOLE].commit
    assert (file.size, file.sha256, file.quantisation) == (
        len(pulling.knobs().data),
        pulling.knobs().etag,
        "U8",
    )
    assert (model.origin, model.family, model.defaults.steps) == (Origin.PULLED, Family.SD1, 9)
    assert ModelStore(pulling.settings).find("whole") == model
    ModelStore(pulling.settings).check(model)
    assert len(pulling.hub.transfers()) == 1


async def test_progress_only_grows_and_ends_with_everything(pulling):
    for path in ("llm.safetensors", "vae.safetensors"):
        pulling.knobs(PARTS, path).rate = 2_000_000
    model = await pulling.pull(*pulling.parts())
    phases = list(dict.fromkeys(progress.phase for progress in pulling.told))
    assert [phase for phase in phases if phase != "verifying"] == ["planning", "downloading", "done"]
    dones = [progress.done for progress in pulling.told]
    assert dones == sorted(dones)
    assert any(0 < done < model.size_bytes for done in dones)
    last = pulling.told[-1]
    assert (last.done, last.total, last.files_done, last.files) == (model.size_bytes, model.size_bytes, 4, 4)
    assert last.seconds_left == 0
    assert any(progress.seconds_left for progress in pulling.told if progress.phase == "downloading")
    assert {progress.file for progress in pulling.told} > {"llm.safetensors", "vae.safetensors"}
    assert {progress.model for progress in pulling.told} == {"whole"}


async def test_all_parts_come_at_once(pulling):
    """Each is held back until all have been asked for."""
    import threading

    files = list(pulling.hub.repos[PARTS].files.values())
    gate = threading.Event()
    for file in files:
        file.hold = gate
    waiter = threading.Thread(target=lambda: ([file.reached.wait(30) for file in files], gate.set()))
    waiter.start()
    model = await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE)
    waiter.join()
    assert all(file.reached.is_set() for file in files)
    assert {file.role for file in model.files} == {Role.DIFFUSION_MODEL, Role.LLM, Role.VAE, Role.TAE}


async def test_what_is_installed_is_not_looked_up_again(pulling):
    model = await pulling.pull()
    asked = len(pulling.hub.asked)
    pulling.told.clear()
    assert await pulling.pull() == model
    assert len(pulling.hub.asked) == asked
    assert [progress.phase for progress in pulling.told] == ["done"]
    assert pulling.told[0].done == pulling.told[0].total == model.size_bytes


async def test_force_fetches_it_again(pulling):
    model = await pulling.pull()
    again = await pulling.pull(force=True)
    assert len(pulling.hub.transfers()) == 2
    assert [replace(file, mtime_ns=0) for file in again.files] == [
        replace(file, mtime_ns=0) for file in model.files
    ]
    ModelStore(pulling.settings).check(again)


async def test_what_the_cache_has_is_not_transferred_and_goes_with_the_last_that_has_it(pulling):
    await pulling.pull(name="first")
    second = await pulling.pull(name="second")
    assert len(pulling.hub.transfers()) == 1
    assert second.files[0].owned
    store = ModelStore(pulling.settings)
    store.remove("second")
    assert second.files[0].path.exists()
    store.remove("first")
    assert not second.files[0].path.exists()
    assert pulling.left() == []


async def test_a_commit_that_the_cache_has_is_not_asked_for(pulling):
    file = pulling.file(revision=pulling.hub.repos[WHOLE].commit)
    await pulling.pull(file, name="first")
    asked = len(pulling.hub.asked)
    await pulling.pull(file, name="second")
    assert len(pulling.hub.asked) == asked


@pytest.mark.parametrize("how", ["offline", "gone", "busy"])
async def test_without_the_hub_the_cache_will_do(pulling, monkeypatch, how):
    await pulling.pull(name="first")
    asked = len(pulling.hub.asked)
    if how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif how == "gone":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        pulling.knobs().head_status += [503] * 20
    model = await pulling.pull(name="second")
    assert model.files[0].sha256 == pulling.knobs().etag
    assert model.files[0].revision == pulling.hub.repos[WHOLE].commit
    assert len(pulling.hub.asked) - asked == (how == "busy")


async def test_a_damaged_copy_in_the_cache_is_fetched_once_more(pulling):
    first = await pulling.pull(name="first")
    first.files[0].path.resolve().write_bytes(b"damaged")
    second = await pulling.pull(name="second")
    assert second.files[0].path.read_bytes() == pulling.knobs().data
    assert len(pulling.hub.transfers()) == 2


async def test_a_changed_file_is_fetched_again_and_still_ours(pulling):
    first = await pulling.pull()
    first.files[0].path.resolve().write_bytes(b"damaged")
    again = await pulling.pull()
    assert again.files[0].path.read_bytes() == pulling.knobs().data
    assert again.files[0].owned


async def test_another_part_is_added_without_fetching_the_others(pulling):
    without, preview = pulling.parts()[:3], pulling.parts()[3]
    first = await pulling.pull(*without)
    second = await pulling.pull(*without, preview)
    assert len(first.files), len(second.files) == (3, 4)
    assert len(pulling.hub.transfers()) == 4
    assert all(file.owned for file in second.files)


@pytest.mark.parametrize("known", [True, False])
async def test_what_no_memory_could_hold_is_refused_before_anything_is_transferred(pulling, known):
    huge = 900 * 10**12
    pulling.knobs().size = huge
    file = pulling.file(size=huge) if known else pulling.file()
    with pytest.raises(InsufficientResourcesError, match="RAM") as caught:
        await pulling.pull(file)
    assert caught.value.details["needed_bytes"] >= huge // 2
    assert bool(pulling.hub.asked) != known  # what the catalogue knows need not be asked for
    assert not pulling.hub.transfers()
    assert pulling.left() == []
    with pytest.raises(InsufficientResourcesError, match="disk"):
        await pulling.pull(file, ignore_fit=True)


@pytest.mark.parametrize("way", ["argument", "environment", "login"])
async def test_a_token_opens_a_gated_repository_and_is_in_no_list_of_processes(
    pulling, monkeypatch, tmp_path, way
):
    pulling.hub.repos[WHOLE].gated = True
    if way == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_good")
    elif way == "login":
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "token").write_text("hf_good")
    seen = []

    def look(_):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seen.append(" ".join(child.cmdline()))

    await pulling.pull(gated=True, token="hf_good" if way == "argument" else None, on_progress=look)
    assert any("_hub_worker" in line for line in seen)
    assert not any("hf_good" in line for line in seen)
    transfer = next(each for each in pulling.hub.transfers() if each.path.startswith("/cdn"))
    assert transfer.authorization is None


@pytest.fixture
def catalogue(pulling, tmp_path):
    """A catalogue of one model with two options and a preview."""

    def files(repo: str, *roles: str) -> list[dict[str, object]]:
        return [
            {"role": role, "repo": repo, "path": f"{role}.safetensors", "approx_size": 9} for role in roles
        ]

    model = {
        "title": "Small",
        "family": "z-image",
        "licence": "MIT",
        "non_commercial": False,
        "defaults": {"steps": 7},
        "options": [
            {"name": "one", "files": files(PARTS, "diffusion_model", "llm", "vae")},
            {"name": "two", "files": files(PARTS, "diffusion_model", "llm", "vae")},
        ],
        "preview": files(PARTS, "tae")[0],
    }
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"models": {"small": model}}))
    return replace(pulling.settings, catalog=path)


async def test_models_of_the_catalogue_come_with_their_preview(pulling, catalogue):
    model = await pull_model("small", catalogue)
    assert (model.name, model.family, model.defaults.steps) == ("small", Family.Z_IMAGE, 7)
    assert {file.role for file in model.files} == {Role.DIFFUSION_MODEL, Role.LLM, Role.VAE, Role.TAE}
    two = await pull_model("small:two", catalogue, with_preview=False)
    assert (two.name, len(two.files)) == ("small:two", 3)
    assert isinstance(two.model_files(), ModelFiles)
    assert (await pull_model("small:one", catalogue)).name == "small"
    with pytest.raises(ModelNotFoundError, match="smaal"):
        await pull_model("smaal", catalogue)


async def test_the_demo_model_is_made(pulling):
    model = await pull_model("demo", pulling.settings)
    assert not pulling.hub.asked
    assert all(file.path.stat().st_size == file.size for file in model.files)
    assert {file.role for file in model.files} == {Role.DIFFUSION_MODEL, Role.LLM, Role.TAE}


async def test_a_file_of_any_repository_is_what_its_header_says(pulling):
    pulling.hub.repos["some/one"] = Repo({"deep/My-XL_turbo.safetensors": HubFile(weights_of("sdxl"))})
    model = await pull_model("some/one/deep/My-XL_turbo.safetensors", pulling.settings)
    assert (model.name, model.family) == ("My-XL_turbo", Family.SDXL)
    assert model.files[0].role is Role.MODEL
    assert model.defaults.steps == 4
    again = await pull_model("some/one/deep/My-XL_turbo.safetensors", pulling.settings)
    assert again == model
    pulling.hub.repos["other/one"] = pulling.hub.repos["some/one"]
    with pytest.raises(InvalidRequestError, match="has the name"):
        await pull_model("other/one/deep/My-XL_turbo.safetensors", pulling.settings)


async def test_a_file_that_lacks_its_parts_stays_and_is_not_listed(pulling):
    name = f"{PARTS}/diffusion_model.safetensors"
    with pytest.raises(ModelComponentMissingError) as caught:
        await pull_model(name, pulling.settings)
    assert "models import" in caught.value.hint
    assert pulling.left()
    assert pulling.records() == []
    with pytest.raises(ModelComponentMissingError):
        await pull_model(name, pulling.settings)
    assert len(pulling.hub.transfers()) == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("org/repo", ModelNotFoundError),
        ("org/repo/../x.gguf", ModelNotFoundError),
        ("org//x.gguf", ModelNotFoundError),
        ("https://host/org/x.gguf", ModelNotFoundError),
        ("org/repo/readme.md", ModelNotFoundError),
        ("org/repo/x.ckpt", ModelUnsafeError),
        ("org/repo/.gguf", ModelNotFoundError),
        ("org/repo/demo.gguf", InvalidRequestError),
    ],
)
async def test_names_that_no_file_can_have(pulling, name, error):
    with pytest.raises(error) as caught:
        await pull_model(name, pulling.settings)
    assert caught.value.hint
    assert not pulling.hub.asked


async def test_an_imported_model_is_not_replaced(pulling):
    store = ModelStore(pulling.settings)
    store.add(replace(await pulling.pull(), origin=Origin.IMPORTED))
    with pytest.raises(InvalidRequestError, match="imported"):
        await pulling.pull()
    asked = len(pulling.hub.asked)
    with pytest.raises(InvalidRequestError, match="imported") as caught:
        await pulling.pull(force=True)
    assert "models remove whole" in caught.value.hint
    assert len(pulling.hub.asked) == asked
    assert store.find("whole").origin is Origin.IMPORTED


async def test_it_works_in_a_thread_where_there_is_no_interpreter(pulling):
    """In a process of its own: here, the library would keep what it read of the environment."""
    settings = pulling.settings
    done = await run(
        [sys.executable, CHILD, settings.data_dir, settings.cache_dir, settings.state_dir, PARTS,
         *(f"{file.role}={file.path}" for file in pulling.parts())],
        env={**os.environ, "FROZEN": "1"},
    )  # fmt: skip
    assert done.status.code == 0, done.stderr
    model = ModelStore(settings).find("whole")
    assert model is not None
    assert len(model.files) == 4
    ModelStore(settings).check(model)


async def test_files_of_one_name_are_told_apart_by_their_folders(pulling):
    data = {
        path: weights_of("sd1", seed=n) for n, path in enumerate(("q4/m.safetensors", "q8/m.safetensors"))
    }
    pulling.hub.repos["org/two"] = Repo({path: HubFile(each) for path, each in data.items()})
    for path, expected in data.items():
        model = await pulling.pull(pulling.file(repo="org/two", path=path))
        assert model.files[0].path.read_bytes() == expected
    await pull_model("org/two/q4/m.safetensors", pulling.settings)
    with pytest.raises(InvalidRequestError, match="has the name"):
        await pull_model("org/two/q8/m.safetensors", pulling.settings)


async def test_a_newer_catalogue_leads_to_a_new_pull(pulling):
    await pulling.pull(pulling.file(sha256=pulling.knobs().etag))
    newer = weights_of("sd1", seed=5)
    pulling.hub.repos[WHOLE] = Repo({"model.safetensors": HubFile(newer)}, commit="9" * 40)
    file = pulling.file(sha256=pulling.knobs().etag)
    assert (await pulling.pull(file)).files[0].path.read_bytes() == newer
    asked = len(pulling.hub.asked)
    await pulling.pull(file)
    assert len(pulling.hub.asked) == asked


async def test_a_model_does_not_take_the_place_of_another_that_was_pulled(pulling):
    pulling.hub.repos["other/one"] = Repo({"model.safetensors": HubFile(weights_of("sd1", seed=3))})
    other = pulling.file(repo="other/one")
    first = await pulling.pull()
    with pytest.raises(InvalidRequestError, match="Another model") as caught:
        await pulling.pull(other)
    assert "--force" in caught.value.hint
    ModelStore(pulling.settings).check(first)
    assert (await pulling.pull(other, force=True)).files[0].repo == "other/one"


async def test_a_file_is_not_called_like_a_model_of_the_catalogue(pulling, catalogue):
    pulling.hub.repos["some/one"] = Repo({"Small.safetensors": HubFile(weights_of("sd1"))})
    for chosen in (None, "small:one"):
        with pytest.raises(InvalidRequestError, match="catalogue") as caught:
            await pull_model("some/one/Small.safetensors", catalogue, save_as=chosen)
        assert "--name" in caught.value.hint
    assert not pulling.hub.asked
    model = await pull_model("some/one/Small.safetensors", catalogue, save_as="mine")
    assert model.name == "mine"
    assert ModelStore(catalogue).find("mine") == model


async def test_a_file_gets_a_name_that_a_model_can_have(pulling):
    files = {
        path: HubFile(weights_of("sd1", seed=n))
        for n, path in enumerate(("my model (v1).safetensors", "é.sft"))
    }
    pulling.hub.repos["some/one"] = Repo(files)
    assert (await pull_model("some/one/my model (v1).safetensors", pulling.settings)).name == "my-model-v1"
    with pytest.raises(InvalidRequestError) as caught:
        await pull_model("some/one/é.sft", pulling.settings)
    assert "--name" in caught.value.hint
    assert (await pull_model("some/one/é.sft", pulling.settings, save_as="e")).name == "e"
    with pytest.raises(InvalidRequestError):
        await pull_model("some/one/é.sft", pulling.settings, save_as="a/b")
    with pytest.raises(InvalidRequestError, match="another name"):
        await pull_model("sd-turbo", pulling.settings, save_as="mine")


async def test_a_file_that_is_fetched_again_does_not_change_the_models_that_have_it(pulling):
    first = await pulling.pull(name="first")
    await pulling.pull(name="second")
    await pulling.pull(name="second", force=True)
    store = ModelStore(pulling.settings)
    with pytest.raises(ModelChangedError):
        store.check(first)  # the times of the files are others
    for name in ("first", "second"):
        store.check(store.find(name))


async def test_a_damaged_copy_is_told_as_a_transfer(pulling):
    knobs = pulling.hub.repos[WHOLE].files["model.safetensors"] = HubFile(weights_of("sd1", 4 * SIZE))
    first = await pulling.pull(name="first")
    first.files[0].path.resolve().write_bytes(bytes(first.files[0].size))
    pulling.told.clear()
    await pulling.pull(name="second")
    phases = [progress.phase for progress in pulling.told]
    assert "downloading" in phases
    assert any(progress.done < progress.total for progress in pulling.told)
    assert pulling.told[-1].done == pulling.told[-1].total == len(knobs.data)


async def test_a_damaged_copy_is_not_fetched_onto_a_full_disk(pulling, small_disk, monkeypatch):
    folder = small_disk(80_000_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    first = await pulling.pull(name="first")
    first.files[0].path.resolve().write_bytes(b"damaged")
    (folder / "filler").write_bytes(bytes(30_000_000))
    with pytest.raises(InsufficientResourcesError, match="disk is full"):
        await pulling.pull(name="second")
    assert len(pulling.hub.transfers()) == 1
