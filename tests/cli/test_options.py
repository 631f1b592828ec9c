"""What the options that several commands share come to."""

from __future__ import annotations

import argparse
import datetime
import shutil
from pathlib import Path

import pytest

from sdmanager.cli.options import (
    add_components,
    add_lora_dir,
    add_memory,
    add_model,
    choices_of,
    components_of,
    model_of,
    settings_of,
)
from sdmanager.errors import InvalidRequestError, ModelComponentMissingError, ModelNotFoundError
from sdmanager.generation import MemoryChoices
from sdmanager.models import (
    Family,
    InstalledFile,
    InstalledModel,
    ModelDefaults,
    ModelFiles,
    ModelStore,
    Origin,
    Role,
    demo_model,
)
from sdmanager.settings import Settings


def parse(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_model(parser)
    add_memory(parser)
    add_lora_dir(parser.add_argument_group())
    return vars(parser.parse_args(arguments))


@pytest.fixture
def demo(settings: Settings, home: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[Role, str]:
    """Files of the demo model, by role; the home folder is one of the test's own."""
    monkeypatch.setenv("SDMANAGER_HOME", str(home.data_dir.parent))
    return {role: str(path) for role, path in demo_model(settings).files.items()}


def test_nothing_given_is_nothing_said() -> None:
    assert parse() == {}
    assert model_of({}) is None
    assert choices_of({}) == MemoryChoices()


def test_a_name_or_a_path_is_left_to_who_knows_the_models() -> None:
    for given in ("sd-turbo", "sd-turbo:q8_0", "demo", "~/x.gguf"):
        assert model_of(parse("-m", given)) == given


FLAGS = {
    "--offload-to-cpu": "offload_to_cpu",
    "--clip-on-cpu": "clip_on_cpu",
    "--vae-on-cpu": "vae_on_cpu",
    "--vae-tiling": "vae_tiling",
    "--diffusion-fa": "diffusion_flash_attention",
    "--stream-layers": "stream_layers",
}


@pytest.mark.parametrize("option", FLAGS)
def test_each_memory_flag_is_yes_no_or_left_to_be_chosen(option: str) -> None:
    for arguments, decided in (((), None), ((option,), True), ((f"--no-{option[2:]}",), False)):
        assert choices_of(parse(*arguments)) == MemoryChoices(**{FLAGS[option]: decided})


def test_choices_have_every_flag() -> None:
    given = parse(*FLAGS, "--max-vram", "5.5")
    assert choices_of(given) == MemoryChoices(True, True, True, True, True, 5.5, True)
    assert parse("--ignore-fit") == {"ignore_fit": True}


@pytest.mark.parametrize(
    "arguments", [("--stream-layers", "--no-offload-to-cpu"), ("--max-vram", "0"), ("--max-vram", "nan")]
)
def test_memory_flags_that_make_no_sense_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequestError, match=arguments[0]):
        choices_of(parse(*arguments))


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SDMANAGER_HOME", str(tmp_path))
    monkeypatch.delenv("SDMANAGER_ALLOW_PICKLE", raising=False)
    assert not settings_of(parse()).allow_pickle
    given = settings_of(parse("--allow-pickle", "--lora-dir", str(tmp_path / "l")))
    assert given.allow_pickle
    assert given.loras_dir == tmp_path / "l"


def test_components_by_role(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_components(parser.add_argument_group())
    given = parser.parse_args(["--llm-vision", str(tmp_path / "v"), "--clip-l", str(tmp_path / "c")])
    assert components_of(vars(given)) == {Role.LLM_VISION: tmp_path / "v", Role.CLIP_L: tmp_path / "c"}


def test_parts_make_a_model_with_the_family_that_their_headers_say(demo: dict[Role, str]) -> None:
    model = model_of(
        parse(
            "--diffusion-model", demo[Role.DIFFUSION_MODEL], "--llm", demo[Role.LLM], "--tae", demo[Role.TAE]
        )
    )
    assert isinstance(model, ModelFiles)
    assert model.family is Family.OVIS_IMAGE
    assert {role: str(path) for role, path in model.files.items()} == demo


def test_a_part_that_is_needed_is_asked_for(demo: dict[Role, str]) -> None:
    with pytest.raises(ModelComponentMissingError) as caught:
        model_of(parse("--diffusion-model", demo[Role.DIFFUSION_MODEL], "--tae", demo[Role.TAE]))
    assert "--llm" in (caught.value.hint or "")


def test_parts_take_the_place_of_those_of_an_installed_model(demo: dict[Role, str], home: Settings) -> None:
    files = tuple(
        InstalledFile(role, Path(path), Path(path).stat().st_size, Path(path).stat().st_mtime_ns)
        for role, path in demo.items()
    )
    when = datetime.datetime.now(datetime.UTC)
    model = InstalledModel("mine", files, ModelDefaults(steps=3), Family.OVIS_IMAGE, Origin.IMPORTED, when)
    ModelStore(home).add(model)
    other = Path(shutil.copy(demo[Role.TAE], home.data_dir / "other.safetensors"))
    mixed = model_of(parse("-m", "mine", "--tae", str(other)))
    assert isinstance(mixed, ModelFiles)
    assert (mixed.name, mixed.family, mixed.defaults.steps) == ("mine", Family.OVIS_IMAGE, 3)
    assert {role: str(path) for role, path in mixed.files.items()} == {**demo, Role.TAE: str(other)}


def test_parts_that_go_with_nothing_are_refused(demo: dict[Role, str]) -> None:
    with pytest.raises(InvalidRequestError, match="takes no parts"):
        model_of(parse("-m", "demo", "--tae", demo[Role.TAE]))
    with pytest.raises(InvalidRequestError, match="needs a whole model file or a diffusion model"):
        model_of(parse("--tae", demo[Role.TAE]))
    with pytest.raises(ModelNotFoundError):
        model_of(parse("-m", "no-such-model", "--tae", demo[Role.TAE]))
    with pytest.raises(ModelNotFoundError):
        model_of(parse("--diffusion-model", "/no/such.gguf", "--tae", demo[Role.TAE]))
