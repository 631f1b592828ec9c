"""Options that more than one command has, and what they mean."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from sdmanager.generation import MemoryChoices
    from sdmanager.models import ModelFiles, Role
    from sdmanager.settings import Settings

# Options that are not given are not there at all, and show no "(default: …)" in the help.
UNSET: Final = argparse.SUPPRESS

_COMPONENTS: Final = {
    "diffusion_model": "the diffusion model alone, with parts below",
    "clip_l": "text encoder CLIP-L",
    "clip_g": "text encoder CLIP-G",
    "t5xxl": "text encoder T5-XXL",
    "llm": "text encoder that is a language model",
    "llm_vision": "the part of that model that sees pictures (mmproj)",
    "vae": "VAE",
    "tae": "tiny autoencoder (TAESD) for previews",
}

_MEMORY_FLAGS: Final = {
    "--offload-to-cpu": "weights stay in RAM until they are needed",
    "--clip-on-cpu": "text encoder on the CPU",
    "--vae-on-cpu": "VAE on the CPU",
    "--vae-tiling": "decode in tiles",
    "--diffusion-fa": "flash attention; by itself with CUDA or ROCm where a language model reads the prompt",
    "--stream-layers": "bring the weights layer by layer, with --offload-to-cpu; not in every engine",
}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that `model_of` reads, and one that `settings_of` reads."""
    model = parser.add_argument_group("model (without one: 'demo', made locally, whose pictures are noise)")
    model.add_argument(
        "-m", "--model", metavar="NAME|FILE", default=UNSET,
        help="an installed model, such as sd-turbo ('sdmanager models list' shows them), or the path of a file",
    )  # fmt: skip
    add_components(model)
    model.add_argument(
        "--allow-pickle", action="store_true", default=UNSET,
        help="take checkpoints (.ckpt, .pt) too, which can run any program: only from people you trust",
    )  # fmt: skip


def add_components(group: argparse._ArgumentGroup) -> None:
    """Add the options that `components_of` reads."""
    for name, description in _COMPONENTS.items():
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, metavar="FILE", type=Path, default=UNSET, help=description)


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the options that `choices_of` reads, the number of threads, and whether to look at memory at all."""
    memory = parser.add_argument_group(
        "memory and speed (flags that are not given are chosen for each run by what memory is free)"
    )
    for option, description in _MEMORY_FLAGS.items():
        memory.add_argument(option, action=argparse.BooleanOptionalAction, default=UNSET, help=description)
    memory.add_argument("--max-vram", metavar="GIB", type=float, help="VRAM budget", default=UNSET)
    memory.add_argument("-t", "--threads", metavar="N", type=int, help="CPU threads", default=UNSET)
    memory.add_argument(
        "--ignore-fit", action="store_true", default=UNSET,
        help="start also where the model does not fit the memory",
    )  # fmt: skip


def add_lora_dir(group: argparse._ArgumentGroup) -> None:
    """Add an option that `settings_of` reads."""
    group.add_argument(
        "--lora-dir", metavar="DIR", type=Path, default=UNSET,
        help="the folder of LoRAs; SDMANAGER_LORAS, else 'loras' in the data folder",
    )  # fmt: skip


def components_of(given: dict[str, object]) -> dict[Role, Path]:
    """The files that were given by role."""
    from sdmanager.files import expanded
    from sdmanager.models import Role

    return {Role(name): expanded(str(given[name])) for name in _COMPONENTS if name in given}


def model_of(given: dict[str, object]) -> str | ModelFiles | None:
    """The model that was named, or None. Of files by role, the headers are read, which blocks for milliseconds.

    Raises:
        InvalidRequestError: Parts were given for the demo model, or parts and no model.
        ModelError: A file is not there, or not what it was given as, or one that is needed was not given; with
            parts, also that the model beside them is not there.
    """
    from sdmanager.files import expanded
    from sdmanager.models import DEMO_NAME, ModelFiles, Role, model_of_files, resolve_model

    files, model = components_of(given), given.get("model")
    if not files:
        return model  # type: ignore[return-value]
    if isinstance(model, str) and model.casefold() == DEMO_NAME:
        raise InvalidRequestError(
            "The demo model takes no parts.", hint="Leave '-m demo' out, or name a model file."
        )
    settings = settings_of(given)
    if model is not None:
        path = expanded(str(model))
        if not os.path.exists(path):  # noqa: PTH110 - of a name that is too long, too  # a name, whose own parts give way to those that were given
            named = resolve_model(str(model), settings)
            kept = {role: kind for role, kind in named.quantisations.items() if role not in files}
            return ModelFiles(named.name, {**named.files, **files}, named.defaults, named.family, kept)
        files[Role.MODEL] = path
    main_file = files.get(Role.MODEL) or files.get(Role.DIFFUSION_MODEL)
    if main_file is None:
        return ModelFiles("", files)  # which says what is missing
    return model_of_files(main_file.stem, files, settings)


def choices_of(given: dict[str, object]) -> MemoryChoices:
    """What was decided of the memory flags.

    Raises:
        InvalidRequestError: Two of them contradict each other, or the budget is none.
    """
    from sdmanager.generation import MemoryChoices

    budget = given.get("max_vram")
    if budget is not None and not (isinstance(budget, float) and 0 < budget < math.inf):
        raise InvalidRequestError("--max-vram must be a number of GiB above 0.")
    if given.get("stream_layers") and given.get("offload_to_cpu") is False:
        raise InvalidRequestError(
            "--stream-layers needs --offload-to-cpu, which --no-offload-to-cpu rules out."
        )
    names = ("offload_to_cpu", "clip_on_cpu", "vae_on_cpu", "vae_tiling", "stream_layers")
    flags = {name: bool(given[name]) for name in names if name in given}
    attention = given.get("diffusion_fa")
    return MemoryChoices(
        **flags,
        diffusion_flash_attention=None if attention is None else bool(attention),
        max_vram_gib=budget,
    )


def settings_of(given: dict[str, object]) -> Settings:
    """Settings of the environment, with what the options say.

    Raises:
        StorageError: There is no home folder to keep things in.
    """
    from sdmanager.files import expanded
    from sdmanager.settings import Settings

    settings = Settings.from_environment()
    if given.get("allow_pickle"):
        settings = replace(settings, allow_pickle=True)
    folder = given.get("lora_dir")
    return settings if folder is None else replace(settings, loras=expanded(str(folder)))
