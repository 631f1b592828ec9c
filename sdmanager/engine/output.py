"""What the engine says, as typed facts: the vocabulary between the parser and everything above it.

One class for each thing that a line of ``sd-cli``'s output can tell. Wording, file names and line numbers
of the engine stop at the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LogLevel(StrEnum):
    """Severities of the engine's log lines that are worth a word of their own."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """``Version: Ovis Image``: what the engine takes the model for."""

    name: str


@dataclass(frozen=True, slots=True)
class ParamsSize:
    """``total params memory size = 24.40MB (VRAM 0.00MB, RAM 24.40MB)``: the weights, in MiB."""

    total_mib: float
    vram_mib: float
    ram_mib: float


@dataclass(frozen=True, slots=True)
class ImageSize:
    """``generate_image 64x64``: the size in pixels that is really drawn, rounded up by the engine at need."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A bar of bytes: tensors loaded so far, and the rate in bytes per second (MB and GB are binary)."""

    done: int
    total: int
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class LoadCompleted:
    """``loading tensors completed, taking 0.40s``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ConditionCompleted:
    """``get_learned_condition completed, taking 0.06s``: the prompt is encoded."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """``generating image: 1/3 - seed 7``: sampling of one image begins; ``index`` counts from 1."""

    index: int
    total: int
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """A bar of steps: ``step`` of ``total`` is done, at this many seconds for one step."""

    step: int
    total: int
    seconds_per_step: float


@dataclass(frozen=True, slots=True)
class SamplingCompleted:
    """``sampling completed, taking 0.73s``: one latent is there."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DecodingStarted:
    """``decoding 3 latents``."""

    total: int


@dataclass(frozen=True, slots=True)
class LatentDecoded:
    """``latent 1 decoded, taking 0.08s``; ``index`` counts from 1."""

    index: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DecodingCompleted:
    """``decode_first_stage completed, taking 0.08s``: all latents are pictures."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GenerationCompleted:
    """``generate_image completed in 0.17s``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ImageSaved:
    """``save result image 0 to 'o.png' (success)``: a claim, not a proof; ``index`` counts from 0."""

    index: int
    success: bool


@dataclass(frozen=True, slots=True)
class ImagesSaved:
    """``1/1 images saved``: the engine's last word, a claim too."""

    saved: int
    total: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """Any other warning or error, without tag, file name and line number."""

    level: LogLevel
    message: str


EngineOutput = (
    ModelFamily
    | ParamsSize
    | ImageSize
    | LoadProgress
    | LoadCompleted
    | ConditionCompleted
    | ImageStarted
    | Step
    | SamplingCompleted
    | DecodingStarted
    | LatentDecoded
    | DecodingCompleted
    | GenerationCompleted
    | ImageSaved
    | ImagesSaved
    | LogLine
)
