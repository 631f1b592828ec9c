"""What a server is started with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from sdmanager.errors import InvalidRequestError
from sdmanager.files import expanded
from sdmanager.generation import COUNT_MAX, MemoryChoices
from sdmanager.logbook import Level, check_level
from sdmanager.models import ModelFiles
from sdmanager.server import DoorPolicy

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PORT: Final = 8081
_QUEUE_MAX: Final = 100
_THREADS_MAX: Final = 1024
_VRAM_GIB_MAX: Final = 4096.0


class StartFields(TypedDict, total=False):
    """Options of ``start``, as keyword arguments.

    Memory flags that are None, the default, are chosen for each run by what memory is free and what earlier runs used;
    one that is True is always used, one that is False never.

    Attributes:
        port: To listen on; 8081, or ``"auto"`` for a free one.
        host: Address to listen on; ``"127.0.0.1"``. Anything but this machine itself needs a token.
        threads: CPU threads of the engine; None: one per physical core.
        offload_to_cpu: Keep the weights in RAM and bring them to the GPU when needed.
        clip_on_cpu: Run the text encoder on the CPU.
        vae_on_cpu: Run the VAE on the CPU.
        vae_tiling: Decode in tiles: less memory, somewhat slower.
        stream_layers: Bring the weights to the GPU layer by layer; with ``offload_to_cpu``, and not in every engine.
        diffusion_flash_attention: Flash attention in the diffusion model; None also: on CUDA and ROCm, for the families
            that a language model conditions.
        vram_budget: Limit of VRAM in GiB.
        gpu_layers: Taken for the sake of programs that also start language models; diffusion models have no layers to
            place, so it changes nothing.
        batch_size: Images per request, 1 to 10, where the request does not say how many; 1.
        queue: How many requests may wait while one is drawn; with 0, the default, a busy server refuses at once.
        token: What clients must show; None: any program on this machine may draw.
        allow_origin: Web origins, such as ``http://localhost:3000``, whose pages may use the server.
        allow_host: Further names by which the server may be addressed.
        force_validation: Test the engine again, whatever is known of it.
        ignore_fit: Start also where the model does not fit this machine's memory.
        gallery: Folder in which everything that is drawn is kept with its settings, and found again; None: nothing is
            kept longer than results are.
        log_level: Of the log file: ``"debug"`` (with what the engine prints), ``"info"``, ``"warning"``, ``"error"``.
    """

    port: int | Literal["auto"]
    host: str
    threads: int | None
    offload_to_cpu: bool | None
    clip_on_cpu: bool | None
    vae_on_cpu: bool | None
    vae_tiling: bool | None
    stream_layers: bool | None
    diffusion_flash_attention: bool | None
    vram_budget: float | None
    gpu_layers: int | None
    batch_size: int
    queue: int
    token: str | None
    allow_origin: Sequence[str]
    allow_host: Sequence[str]
    force_validation: bool
    ignore_fit: bool
    gallery: str | os.PathLike[str] | None
    log_level: str


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What ``start`` was asked for, checked.

    Attributes:
        model: As given.
        port: To listen on; 0 for a free one.
        host: Address to listen on.
        policy: Who is let in; its port is that of these options until the real one is known.
        choices: What was decided of the memory flags.
        threads: CPU threads of the engine, or None.
        batch_size: Images per request where it does not say how many.
        queue: How many requests may wait.
        force_validation: Test the engine again.
        ignore_fit: Start also where the model does not fit.
        gallery: Folder of the gallery, or None.
        log_level: Of the log file.
    """

    model: str | os.PathLike[str] | ModelFiles | None
    port: int
    host: str
    policy: DoorPolicy
    choices: MemoryChoices
    threads: int | None
    batch_size: int
    queue: int
    force_validation: bool
    ignore_fit: bool
    gallery: Path | None
    log_level: Level

    @classmethod
    def build(cls, model: str | os.PathLike[str] | ModelFiles | None, fields: StartFields) -> StartOptions:
        """Check what the caller gave.

        Raises:
            InvalidRequestError: An option is unknown or out of range, or a token is missing.
        """
        unknown = set(fields) - set(StartFields.__annotations__)
        if unknown:
            raise InvalidRequestError(f"start() has no option {', '.join(sorted(unknown))}.")
        given = fields.get("port", DEFAULT_PORT)
        port = 0 if given == "auto" else _within("port", given, 1, 65535)
        host = _text("host", fields.get("host", "127.0.0.1"))
        token, threads = fields.get("token"), fields.get("threads")
        if not isinstance(model, str | os.PathLike | ModelFiles | None):
            raise InvalidRequestError("The model is none: give a name, a path, or ModelFiles.")
        return cls(
            model=model,
            port=port,
            host=host,
            policy=DoorPolicy.build(
                host,
                port,
                token=None if token is None else _text("token", token),
                allow_origin=_texts("allow_origin", fields.get("allow_origin", ())),
                allow_host=_texts("allow_host", fields.get("allow_host", ())),
            ),
            choices=_choices_of(fields),
            threads=None if threads is None else _within("threads", threads, 1, _THREADS_MAX),
            batch_size=_within("batch_size", fields.get("batch_size", 1), 1, COUNT_MAX),
            queue=_within("queue", fields.get("queue", 0), 0, _QUEUE_MAX),
            force_validation=_flag("force_validation", fields.get("force_validation", False)),
            ignore_fit=_flag("ignore_fit", fields.get("ignore_fit", False)),
            gallery=_folder("gallery", fields.get("gallery")),
            log_level=check_level(_text("log_level", fields.get("log_level", "info"))),
        )


def _choices_of(fields: StartFields) -> MemoryChoices:
    offload, stream = _choice("offload_to_cpu", fields), _choice("stream_layers", fields)
    if stream and offload is False:
        raise InvalidRequestError("stream_layers needs offload_to_cpu, which is False.")
    return MemoryChoices(
        offload_to_cpu=offload,
        clip_on_cpu=_choice("clip_on_cpu", fields),
        vae_on_cpu=_choice("vae_on_cpu", fields),
        vae_tiling=_choice("vae_tiling", fields),
        diffusion_flash_attention=_choice("diffusion_flash_attention", fields),
        max_vram_gib=_gib("vram_budget", fields.get("vram_budget")),
        stream_layers=stream,
    )


def _within(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequestError(
            f"{name} is out of range.", hint=f"It is a whole number from {least} to {most:,}."
        )
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be a string.")
    return value


def _texts(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):  # a string is a sequence of strings, too
        raise InvalidRequestError(f"{name} must be a list of strings.")
    return tuple(_text(name, value) for value in values)


def _folder(name: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InvalidRequestError(f"{name} must be the path of a folder.")
    return expanded(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be True or False.")
    return value


def _choice(name: str, fields: StartFields) -> bool | None:
    value = fields.get(name)
    return None if value is None else _flag(name, value)


def _gib(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _VRAM_GIB_MAX:
        raise InvalidRequestError(f"{name} must be a number of GiB above 0.")
    return float(value)
