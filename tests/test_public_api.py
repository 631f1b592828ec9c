"""The names that applications may rely on, and how little it costs to import them."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import pytest

import sdmanager

PUBLIC = (
    "BlockingServerManager",
    "DiffusionServerManager",
    "GeneratedImage",
    "GenerationPreset",
    "GenerationRegistry",
    "GenerationResult",
    "HookOffloadable",
    "HuggingFaceGenerator",
    "ImageGenerationProgress",
    "ImageGenerator",
    "ImageRequest",
    "LlamaServer",
    "LlamaSwap",
    "LocalGenerator",
    "Lora",
    "MemoryChoices",
    "MemoryPlan",
    "Ollama",
    "PreviewOptions",
    "SDManagerError",
    "Settings",
    "generate_id",
    "generate_image",
    "pull_model",
)
HEAVY = (
    "pydantic",
    "PIL",
    "numpy",
    "tqdm",
    "asyncio",
    "psutil",
    "aiohttp",
    "safetensors",
    "platformdirs",
    "filelock",
    "huggingface_hub",
)


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_public_names_are_these():
    assert sdmanager.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there(name):
    value = getattr(sdmanager, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(sdmanager)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_can_be_the_first_one_used(name):
    assert python(f"from sdmanager import {name}; print({name}.__name__)") == name


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = sdmanager.no_such_name
    with pytest.raises(ImportError):
        exec("from sdmanager import no_such_name")


def test_importing_is_cheap():
    code = f"import sys, sdmanager; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert python(code) == "[]"


def test_a_version_of_three_numbers():
    assert re.fullmatch(r"\d+\.\d+\.\d+", sdmanager.__version__)
    assert importlib.metadata.version("sdmanager") == sdmanager.__version__


def test_the_generator_keeps_to_the_protocol():
    assert isinstance(sdmanager.LocalGenerator(), sdmanager.ImageGenerator)


def test_typed():
    from importlib import resources

    assert resources.files("sdmanager").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "package",
    ["generation", "models", "engine", "binaries", "process", "jobs", "server", "manager", "cloud", "client"],
)
def test_packages_say_what_they_offer(package):
    module = importlib.import_module(f"sdmanager.{package}")
    assert isinstance(module.__all__, tuple)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name)
