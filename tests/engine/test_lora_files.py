"""LoRAs as files: found in their folder, and nowhere else."""

from __future__ import annotations

import difflib
import os
import pickle
import time
from pathlib import Path

import pytest
from loras import write_lora

from sdmanager.engine import lora_files
from sdmanager.engine.jobs import JobFolder
from sdmanager.engine.lora_files import place_loras
from sdmanager.errors import InvalidRequestError, StorageError
from sdmanager.generation import ImageRequest, Lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of LoRAs, with files beside it that must not be reached."""
    folder = tmp_path / "loras"
    for name in ("detail.safetensors", "styles/ink.safetensors", "both.safetensors"):
        write_lora(folder / name)
    for name in ("both.gguf", "styles/old.GGUF"):
        (folder / name).write_bytes(b"GGUF" + bytes(20))
    (folder / "unsafe.pt").write_bytes(pickle.dumps({"weights": 1}))
    (folder / "unsafe.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    (folder / "empty.safetensors").touch()
    (folder / "folder.safetensors").mkdir()
    write_lora(tmp_path / "outside.safetensors")
    return folder


def place(folder: Path, *names: str, prompt: str = "x", weight: float = 1.0) -> tuple[str, dict[str, Path]]:
    loras = [Lora(name=name, weight=weight) for name in names]
    request, links = place_loras(ImageRequest(prompt=prompt, loras=loras), folder)
    return request.prompt, links


def refused(folder: Path, name: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as structured:
        place(folder, name)
    with pytest.raises(InvalidRequestError) as tag:
        place(folder, prompt=f"x <lora:{name}:1>")
    for caught in (structured, tag):
        assert str(folder.parent) not in str(caught.value)
        assert caught.value.hint
    assert repr(name) not in str(tag.value)
    return structured.value


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("detail", "detail.safetensors"),
        ("detail.safetensors", "detail.safetensors"),
        ("styles/ink", "styles/ink.safetensors"),
        ("styles/old.GGUF", "styles/old.GGUF"),
        ("both", "both.safetensors"),
        ("both.gguf", "both.gguf"),
    ],
)
def test_a_name_is_a_file_of_the_folder(folder: Path, name: str, file: str) -> None:
    prompt, links = place(folder, name, weight=0.5)
    assert list(links.values()) == [folder / file]
    (link,) = links
    assert prompt == f"<lora:{link.rpartition('.')[0]}:0.5>x"
    assert place(folder, prompt=f"<lora:{name}:0.5>x") == (prompt, links)


def test_without_loras_the_request_stays_and_the_folder_need_not_exist(tmp_path: Path) -> None:
    request = ImageRequest(prompt=" a <lora:b> ")
    assert place_loras(request, tmp_path / "none") == (request, {})


def test_a_lora_named_twice_is_one_file_and_two_weights(folder: Path) -> None:
    prompt, links = place(folder, "detail", "detail.safetensors", "both")
    assert prompt == "<lora:1-detail:1><lora:1-detail:1><lora:2-both:1>x"
    assert list(links) == ["1-detail.safetensors", "2-both.safetensors"]


def test_a_weight_of_zero_is_no_lora_but_must_be_there(folder: Path) -> None:
    assert place(folder, "detail", weight=0) == ("x", {})
    with pytest.raises(InvalidRequestError, match="not in the folder"):
        place(folder, "none", weight=0)


@pytest.mark.parametrize(
    "name", ["../outside", "/outside", "styles/../../outside", "..\\outside", "./detail"]
)
def test_a_path_is_refused(folder: Path, name: str) -> None:
    assert "not by a path" in str(refused(folder, name))


def test_an_absolute_path_in_the_folder_is_refused_too(folder: Path) -> None:
    assert "not by a path" in str(refused(folder, f"{folder}/detail"))


@pytest.mark.parametrize("name", ["link", "linked/outside", "styles/link"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "styles" / "link.safetensors").symlink_to("../../outside.safetensors")
    (folder / "linked").symlink_to(tmp_path)
    assert "outside the folder" in str(refused(folder, name))


def test_a_link_inside_the_folder_and_a_folder_that_is_a_link_are_fine(folder: Path, tmp_path: Path) -> None:
    (folder / "alias.safetensors").symlink_to("styles/ink.safetensors")
    (tmp_path / "elsewhere").symlink_to(folder)
    assert list(place(tmp_path / "elsewhere", "alias")[1].items()) == [
        ("1-alias.safetensors", folder / "styles" / "ink.safetensors")
    ]


@pytest.mark.parametrize("name", ["loop", "dangling", "detail.safetensors/x", "folder", "none", "a" * 200])
def test_what_is_no_file_is_refused(folder: Path, name: str) -> None:
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "dangling.safetensors").symlink_to("nowhere")
    refused(folder, name)


@pytest.mark.parametrize("name", ["unsafe", "empty"])
def test_what_is_no_lora_by_its_content_is_refused(folder: Path, name: str) -> None:
    assert "neither a safetensors nor a GGUF file" in str(refused(folder, name))


@pytest.mark.parametrize("name", ["unsafe.pt", "unsafe.ckpt"])
def test_a_pickle_is_not_found_by_its_name(folder: Path, name: str) -> None:
    assert "not in the folder" in str(refused(folder, name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(folder: Path) -> None:
    (folder / "detail.safetensors").chmod(0)
    assert "cannot be read" in str(refused(folder, "detail"))


def test_a_pipe_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    assert "not in the folder" in str(refused(folder, "pipe"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("detial", "detail"),
        ("Detail.safetensors", "detail"),
        ("ink", "styles/ink"),
        ("style/ink", "styles/ink"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(folder: Path, name: str, near: str) -> None:
    error = refused(folder, name)
    assert f"{near!r}" in (error.hint or "")
    assert error.details["lora"] == name
    assert near in error.details["near"]


def test_an_unknown_name_without_a_near_one_gets_advice(folder: Path, tmp_path: Path) -> None:
    assert "Put its" in (refused(folder, "zzzz").hint or "")
    assert "Put its" in (refused(tmp_path / "none", "detail").hint or "")


def test_finding_a_suggestion_is_bounded(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}-of-many.gguf").touch()
    began = time.process_time()
    with pytest.raises(InvalidRequestError):
        place(tmp_path, "x" * 200)
    assert time.process_time() - began < 5


def test_a_folder_with_very_many_files_is_not_looked_through(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(lora_files._ENTRIES_MAX + 5):
        (tmp_path / "deep" / f"{number}.txt").touch()
    write_lora(tmp_path / "detail.safetensors")
    names, complete = lora_files.lora_names(tmp_path)
    assert (set(names) <= {"detail"}, complete) == (True, False)
    hint = refused(tmp_path, "zzzz").hint or ""
    assert "Put its" in hint
    assert "more than 10000 files" in hint
    assert place(tmp_path, "detail")[1]  # what is there is found without looking


def test_a_near_name_is_found_among_thousands(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"model-{number}.gguf").touch()
    (tmp_path / "watercolour.gguf").touch()
    error = refused(tmp_path, "watercolor")
    assert error.details["near"] == ["watercolour"]
    assert "more than" not in (error.hint or "")


def test_only_the_likely_names_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def watched(name: str, known: list[str], n: int) -> list[str]:
        compared.append(len(known))
        return []

    monkeypatch.setattr(difflib, "get_close_matches", watched)
    for number in range(1000):
        (tmp_path / f"{number}.gguf").touch()
    refused(tmp_path, "none")
    assert compared
    assert max(compared) <= 300


@pytest.mark.parametrize("refusing", [(), ("symlink_to",), ("symlink_to", "hardlink_to")])
def test_files_reach_the_job_however_the_system_links(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusing: tuple[str, ...]
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    for name in refusing:
        monkeypatch.setattr(Path, name, refuse)
    source = folder / "detail.safetensors"
    data = source.read_bytes()
    with JobFolder(tmp_path / "jobs", "one") as job:
        job.link_files("loras", {"1-detail.safetensors": source})
        link = job.path / "loras" / "1-detail.safetensors"
        assert link.read_bytes() == data
        assert link.samefile(source) == (len(refusing) < 2)  # copied only where nothing else works
    assert not (tmp_path / "jobs" / "one").exists()
    assert source.read_bytes() == data


def test_files_that_cannot_be_made_ready_are_an_error(folder: Path, tmp_path: Path) -> None:
    with JobFolder(tmp_path / "jobs", "one") as job:
        (job.path / "loras").touch()
        with pytest.raises(StorageError):
            job.link_files("loras", {"a.gguf": folder / "both.gguf"})
