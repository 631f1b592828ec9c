"""Options that more than one command has, and what they mean."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from sdmanager.generation import MemoryPlan
    from sdmanager.models import ModelFiles
    from sdmanager.settings import Settings

# Options that are not given are not there at all, and show no "(default: …)" in the help.
UNSET: Final = argparse.SUPPRESS

# A first real model, for whoever has none.
MODEL_URL: Final = "https://huggingface.co/Green-Sky/SD-Turbo-GGUF/resolve/main/sd_turbo-f16-q8_0.gguf"

_COMPONENTS: Final = {
    "diffusion_model": "the diffusion model alone, with parts below",
    "clip_l": "text encoder CLIP-L",
    "clip_g": "text encoder CLIP-G",
    "t5xxl": "text encoder T5-XXL",
    "llm": "text encoder that is a language model",
    "vae": "VAE",
    "tae": "tiny autoencoder (TAESD) for previews",
}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that `model_of` reads."""
    model = parser.add_argument_group("model (without one: 'demo', made locally, whose pictures are noise)")
    model.add_argument("-m", "--model", metavar="FILE", help="a whole model, or 'demo'", default=UNSET)
    for name, description in _COMPONENTS.items():
        option = f"--{name.replace('_', '-')}"
        model.add_argument(option, metavar="FILE", type=Path, default=UNSET, help=description)


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the options that `plan_of` reads, and the number of threads."""
    memory = parser.add_argument_group("memory and speed")
    memory.add_argument("--offload-to-cpu", action="store_true", help="weights stay in RAM", default=UNSET)
    memory.add_argument("--clip-on-cpu", action="store_true", help="text encoder on the CPU", default=UNSET)
    memory.add_argument("--vae-on-cpu", action="store_true", help="VAE on the CPU", default=UNSET)
    memory.add_argument("--vae-tiling", action="store_true", help="decode in tiles", default=UNSET)
    memory.add_argument(
        "--diffusion-fa", action="store_true", help="flash attention in the diffusion model", default=UNSET
    )
    memory.add_argument("--max-vram", metavar="GIB", type=float, help="VRAM budget", default=UNSET)
    memory.add_argument("-t", "--threads", metavar="N", type=int, help="CPU threads", default=UNSET)


def add_lora_dir(group: argparse._ArgumentGroup) -> None:
    """Add the option that `settings_of` reads."""
    group.add_argument(
        "--lora-dir", metavar="DIR", type=Path, default=UNSET,
        help="the folder of LoRAs; SDMANAGER_LORAS, else 'loras' in the data folder",
    )  # fmt: skip


def model_of(given: dict[str, object]) -> str | ModelFiles | None:
    """The model that was named, or None.

    Raises:
        InvalidRequestError: Parts were given for the demo model.
    """
    from sdmanager.files import expanded
    from sdmanager.models import DEMO_NAME, ModelFiles, Role

    components = {Role(name): given[name] for name in _COMPONENTS if name in given}
    model = given.get("model")
    if not components:
        return model  # type: ignore[return-value]
    if model == DEMO_NAME:
        raise InvalidRequestError(
            "The demo model takes no parts.", hint="Leave '-m demo' out, or name a model file."
        )
    if model is not None:
        components[Role.MODEL] = model
    files = {role: expanded(str(path)) for role, path in components.items()}
    main_file = files.get(Role.MODEL) or files.get(Role.DIFFUSION_MODEL)
    return ModelFiles(main_file.stem if main_file else "", files)


def plan_of(given: dict[str, object]) -> MemoryPlan:
    """The memory flags that were given."""
    from sdmanager.generation import MemoryPlan

    return MemoryPlan(
        offload_to_cpu=bool(given.get("offload_to_cpu")),
        clip_on_cpu=bool(given.get("clip_on_cpu")),
        vae_on_cpu=bool(given.get("vae_on_cpu")),
        vae_tiling=bool(given.get("vae_tiling")),
        diffusion_flash_attention=bool(given.get("diffusion_fa")),
        max_vram_gib=given.get("max_vram"),  # type: ignore[arg-type]
    )


def settings_of(given: dict[str, object]) -> Settings:
    """Settings of the environment, with what the options say.

    Raises:
        StorageError: There is no home folder to keep things in.
    """
    from sdmanager.files import expanded
    from sdmanager.settings import Settings

    settings = Settings.from_environment()
    folder = given.get("lora_dir")
    return settings if folder is None else replace(settings, loras=expanded(str(folder)))
