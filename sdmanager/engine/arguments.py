"""From a request to the engine's argument list: a pure function of what is asked and what the binary can do."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from sdmanager.errors import EngineArgumentError, InvalidRequestError
from sdmanager.generation import PreviewMethod
from sdmanager.models import Role

from .model_arguments import PREVIEW_ONLY, family_arguments, file_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdmanager.binaries import Capabilities
    from sdmanager.generation import ImageRequest, MemoryPlan
    from sdmanager.models import ModelFiles

# Names inside the job's private folder, which is the engine's working directory: no path of the user's can
# then bring a '%' into the output pattern.
OUTPUT_PATTERN: Final = "o_%d.png"
PREVIEW_NAME: Final = "preview.png"
INIT_NAME: Final = "init.png"
MASK_NAME: Final = "mask.png"
PROMPT_NAME: Final = "prompt.txt"
NEGATIVE_PROMPT_NAME: Final = "negative.txt"
LORA_FOLDER: Final = "loras"

# MAX_ARG_STRLEN of Linux: 32 pages of 4 KiB for one argument, its final NUL included. Windows takes 32,767
# characters for the whole line.
ARGUMENT_BYTES_MAX: Final = 32 * 4096 - 1


_SPARED_GIB: Final = "-1"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What to run and what must stand in the job's folder first.

    Attributes:
        arguments: After the program's name.
        texts: Files to write, by name.
        preview_method: What the engine was asked for, or None.
        loras: Files to link into the folder of LoRAs, by name.
    """

    arguments: tuple[str, ...]
    texts: dict[str, str]
    preview_method: PreviewMethod | None
    loras: dict[str, Path] = field(default_factory=dict)


def output_name(index: int) -> str:
    """Name of the file of one image; ``index`` counts from 0."""
    return OUTPUT_PATTERN % index


def choose_preview_method(
    method: PreviewMethod, model: ModelFiles, capabilities: Capabilities, *, on_gpu: bool
) -> PreviewMethod:
    """What ``auto`` means here; any other method as it is.

    Raises:
        InvalidRequestError: The method needs a file or an engine that is not there.
    """
    if method is PreviewMethod.AUTO:
        # Where it cannot be kept to the previews, it would decode the picture, too.
        alone = not model.has_own_decoder or capabilities.supports(PREVIEW_ONLY)
        sharp = on_gpu and alone and Role.TAE in model.files
        method = PreviewMethod.TAE if sharp else PreviewMethod.PROJ
    if method is PreviewMethod.TAE and Role.TAE not in model.files:
        raise InvalidRequestError(
            "Previews by a tiny autoencoder need its file, and this model has none.",
            hint="Give it with --tae FILE, or use the preview method 'proj', which needs no file.",
        )
    if method.value not in capabilities.preview_methods:
        raise InvalidRequestError(
            f"This engine knows no preview method {method.value!r}.",
            hint=f"It knows: {', '.join(capabilities.preview_methods) or 'none'}.",
        )
    return method


def build_invocation(
    request: ImageRequest,
    model: ModelFiles,
    plan: MemoryPlan,
    capabilities: Capabilities,
    *,
    threads: int | None = None,
    on_gpu: bool = False,
    fast_attention: bool = False,
    verbose: bool = False,
) -> Invocation:
    """The engine's arguments for a request.

    Args:
        request: With its seed and its model's defaults filled in, and no tags but those of ``place_loras``.
        model: Files by role.
        plan: Memory flags.
        capabilities: What the binary's own help lists.
        threads: CPU threads, or None for the engine's choice.
        on_gpu: Whether the backend is a GPU, which makes costly previews affordable.
        fast_attention: Whether flash attention is faster on this backend, and not only smaller.
        verbose: Have the engine say more, such as which devices it uses.

    Raises:
        InvalidRequestError: An unknown sampler, scheduler or preview method, or a prompt that is too long.
        EngineArgumentError: This binary lacks a flag that the request needs; what only the model's defaults and its
            family ask for is left out instead.
    """
    texts: dict[str, str] = {}
    preview = None
    if request.previews is not None:
        preview = choose_preview_method(request.previews.method, model, capabilities, on_gpu=on_gpu)
    groups: list[Sequence[str]] = [
        file_arguments(model, preview),
        family_arguments(request, model, plan, capabilities, fast_attention=fast_attention),
        _prompt_arguments(request, capabilities, texts),
        ["-W", str(request.width), "-H", str(request.height)],
        ["--steps", str(request.steps), "--cfg-scale", f"{request.cfg_scale:g}"],
        ["--seed", str(request.seed), "--batch-count", str(request.count)],
        _chosen("--sampling-method", "sampler", request, capabilities.samplers),
        _chosen("--scheduler", "scheduler", request, capabilities.schedulers),
        ["--clip-skip", str(request.clip_skip)] if request.clip_skip is not None else [],
        _input_arguments(request),
        _plan_arguments(plan, capabilities),
        ["--threads", str(threads)] if threads else [],
        ["--verbose"] if verbose and capabilities.supports("--verbose") else [],
        # Without it the engine would look into its working directory.
        ["--lora-model-dir", LORA_FOLDER],
        ["--preview", preview.value, "--preview-path", PREVIEW_NAME] if preview else [],
        ["--output", OUTPUT_PATTERN],
    ]
    if request.previews is not None and preview is not None:
        groups.append(["--preview-interval", str(request.previews.effective_stride(request.steps))])
    arguments = tuple(argument for group in groups for argument in group)
    _check_flags(groups, capabilities)
    return Invocation(arguments, texts, preview)


def _prompt_arguments(request: ImageRequest, capabilities: Capabilities, texts: dict[str, str]) -> list[str]:
    # A file where the engine takes one: arguments are limited in length and visible to all users of a machine.
    arguments: list[str] = []
    for text, name, flag in (
        (request.prompt, PROMPT_NAME, "--prompt"),
        (request.negative_prompt, NEGATIVE_PROMPT_NAME, "--negative-prompt"),
    ):
        if not text:
            continue
        if capabilities.supports(f"{flag}-file"):
            texts[name] = text
            arguments += [f"{flag}-file", name]
        elif len(text.encode("utf-8", "surrogateescape")) > ARGUMENT_BYTES_MAX:
            raise InvalidRequestError(
                f"The {flag.strip('-').replace('-', ' ')} is longer than the {ARGUMENT_BYTES_MAX:,} bytes "
                "that this engine can be given.",
                hint="Shorten it; the text encoders read only the first few hundred words anyway.",
                details={"fields": ["prompt" if name == PROMPT_NAME else "negativePrompt"]},
            )
        else:
            arguments += [flag, text]
    return arguments


def _chosen(
    flag: str, what: Literal["sampler", "scheduler"], request: ImageRequest, known: Sequence[str]
) -> list[str]:
    name = request.sampler if what == "sampler" else request.scheduler
    # One that the model likes best is no reason to refuse what an older engine can draw with its own choice.
    if name is None or (name not in known and what not in request.model_fields_set):
        return []
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"Did you mean {close[0]!r}? " if close else ""
        raise InvalidRequestError(
            f"The engine knows no {what} {name[:40]!r}.",
            hint=f"{meant}It knows: {', '.join(known)}.",
            details={what: name, "known": list(known), "fields": [what]},
        )
    return [flag, name]


def _input_arguments(request: ImageRequest) -> list[str]:
    if request.init_image is None:
        return []
    mask = ["--mask", MASK_NAME] if request.mask_image is not None else []
    return ["--init-img", INIT_NAME, "--strength", f"{request.strength:g}", *mask]


def _plan_arguments(plan: MemoryPlan, capabilities: Capabilities) -> list[str]:
    arguments: list[str] = []
    # Newer engines deprecate the two --…-on-cpu flags for one assignment by component.
    on_cpu = [name for name, wanted in (("te", plan.clip_on_cpu), ("vae", plan.vae_on_cpu)) if wanted]
    if on_cpu and capabilities.supports("--backend"):
        arguments += ["--backend", ",".join(f"{name}=cpu" for name in on_cpu)]
    else:
        arguments += ["--clip-on-cpu"] if plan.clip_on_cpu else []
        arguments += ["--vae-on-cpu"] if plan.vae_on_cpu else []
    # Streaming is what is done with weights that are kept in RAM.
    arguments += ["--offload-to-cpu"] if plan.offload_to_cpu or plan.stream_layers else []
    arguments += ["--vae-tiling"] if plan.vae_tiling else []
    if plan.max_vram_gib is not None:
        # A plain number, which all builds take: of the newer ones it is that of each device.
        arguments += ["--max-vram", f"{plan.max_vram_gib:g}"]
    elif plan.stream_layers:
        # Without a budget nothing would be streamed; below zero it is what is free, less so much.
        arguments += ["--max-vram", _SPARED_GIB]
    arguments += ["--stream-layers"] if plan.stream_layers else []
    return arguments


def _check_flags(groups: list[Sequence[str]], capabilities: Capabilities) -> None:
    # Values never begin with '--' unless they are a prompt, which stands in a group of its own.
    missing = sorted(
        {
            argument
            for group in groups
            for index, argument in enumerate(group)
            if argument.startswith("--")
            and (index == 0 or group[index - 1] not in {"--prompt", "--negative-prompt"})
            and not capabilities.supports(argument)
        }
    )
    if missing:
        raise EngineArgumentError(
            f"This engine does not know {', '.join(missing)}, which the request needs.",
            details={"flags": missing},
        )
