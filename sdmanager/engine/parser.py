"""From the engine's bytes to typed facts, without a clock, a callback or a file: ``feed(bytes) -> events``.

The recorded output of two builds is in ``tests/data/transcripts``. Only messages are matched: file names and
line numbers of the engine change from build to build.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from . import output as out

if TYPE_CHECKING:
    from collections.abc import Callable

    from .output import EngineOutput

# A line longer than this is no line of the engine's, which cuts its own at 4,096 bytes.
LINE_LIMIT: Final = 64 * 1024
_DROPPED: Final = "\0"

# Ends each bar: the line break comes only after the last one.
_BAR_END: Final = "\x1b[K"

_MIB: Final = 1024.0 * 1024.0
_BYTES_PER_UNIT: Final = {"MB": _MIB, "GB": 1024.0 * _MIB}

# Every alternative stands in one outer named group, so that `lastgroup` says which one matched. The engine is
# searched for what is known instead of looking at each line: most of a verbose log costs one scan in C. A line
# break to begin with lets that scan leap from line to line, which `^` does not.
_PATTERN: Final = re.compile(
    r"""\n(?:
      \ \ \|[=>\#\ ]{0,64}\|\ (?:
          (?P<step>(?P<step_n>\d{1,9})/(?P<step_of>\d{1,9})\ -\ (?P<rate>\d+\.\d+)(?P<unit>it/s|s/it))
        | (?P<load>(?P<load_n>\d{1,9})/(?P<load_of>\d{1,9})\ -\ (?P<speed>\d+\.\d+)(?P<size>[MG]B)/s)
      )\ ?$
    | \[(?P<log>(?P<level>WARN\ |ERROR)\]\ \S+:\d+\ +-\ (?P<message>.*))$
    | \[INFO\ \]\ \S+:\d+\ +-\ (?:
          (?P<family>Version:\ (?P<family_name>.*))
        | (?P<params>total\ params\ memory\ size\ =\ (?P<total>\d+\.\d+)MB
              \ \(VRAM\ (?P<vram>\d+\.\d+)MB,\ RAM\ (?P<ram>\d+\.\d+)MB\).*)
        | (?P<size_px>generate_image\ (?P<width>\d{1,6})x(?P<height>\d{1,6}))
        | (?P<loaded>loading\ tensors\ completed,\ taking\ (?P<loaded_s>\d+\.\d+)s.*)
        | (?P<condition>get_learned_condition\ completed,\ taking\ (?P<condition_s>\d+\.\d+)s.*)
        | (?P<image>generating\ image:\ (?P<image_n>\d{1,9})/(?P<image_of>\d{1,9})\ -\ seed\ (?P<seed>-?\d{1,20}))
        | (?P<sampled>sampling\ completed,\ taking\ (?P<sampled_s>\d+\.\d+)s.*)
        | (?P<decoding>decoding\ (?P<latents>\d{1,9})\ latents.*)
        | (?P<decoded>latent\ (?P<latent>\d{1,9})\ decoded,\ taking\ (?P<latent_s>\d+\.\d+)s.*)
        | (?P<all_decoded>decode_first_stage\ completed,\ taking\ (?P<all_decoded_s>\d+\.\d+)s.*)
        | (?P<completed>generate_image\ completed\ in\ (?P<completed_s>\d+\.\d+)s.*)
        | (?P<saved>save\ result\ image\ (?P<saved_n>\d{1,9})\ to\ '.*'\ \((?P<verdict>success|failure)\))
        | (?P<all_saved>(?P<saved_count>\d{1,9})/(?P<saved_of>\d{1,9})\ images\ saved)
      )\ *$
    )""",
    re.VERBOSE | re.MULTILINE,
)

_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")

# What the engine takes out of a prompt before it echoes it again.
_TAG: Final = re.compile(r"<lora:[^<>]*>")
_MARKUP: Final = re.compile(r":[+-]?[.\d]+\)|[\\()\[\]\s]|BREAK")

# Without any of these no line of a prompt can look like one of the engine's.
_SUSPECT: Final = re.compile(r"\d/\d|INFO|WARN|ERROR")


def _plain(text: str) -> str:
    """Text with one line per line or bar, and no escape codes; lines that are too long are emptied."""
    text = text.replace(_BAR_END, "\n").replace("\r", "\n")
    if len(text) > LINE_LIMIT:
        text = "\n".join(line if len(line) <= LINE_LIMIT else "" for line in text.split("\n"))
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def _bare(text: str) -> str:
    """A prompt, or a line of it, as it can be compared whatever the engine made of its markup."""
    return _MARKUP.sub("", text)


class _Lines:
    """Cuts one stream into whole lines, in bounded memory whatever comes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """All lines that are complete by now, as one text; the incomplete one is kept."""
        text = self._rest + self._decoder.decode(data, final)
        bar_end = text.rfind(_BAR_END)
        end = max(
            len(text) if final else 0,
            text.rfind("\n") + 1,
            text.rfind("\r") + 1,
            bar_end + len(_BAR_END) if bar_end >= 0 else 0,
        )
        # What is too long for a line is dropped; the mark in its place keeps the end from looking like a start.
        # Its last characters may be a part of a bar's end.
        part = len(_BAR_END) - 1
        self._rest = text[end:] if len(text) - end <= LINE_LIMIT + part else _DROPPED + text[-part:]
        return _plain(text[:end])


class OutputParser:
    """Parses both streams of one run of the engine.

    Steps count only while an image is being sampled, and only in order, so that text which merely looks like
    progress has no effect: a verbose engine echoes the prompt.

    Args:
        steps: Sampling steps asked for: no bar may show more. None: any number.
        prompt: All text of the caller's that the engine may echo; lines of it are not believed.
    """

    def __init__(self, steps: int | None = None, prompt: str = "") -> None:
        self._lines = {"stdout": _Lines(), "stderr": _Lines()}
        self._max_steps = steps
        prompt = _ESCAPE.sub("", prompt)
        bare = {_bare(prompt), _bare(_TAG.sub("", prompt))}
        self._echoes = [text for text in bare if _SUSPECT.search(text)]
        self._doubted: re.Match[str] | None = None
        self._image = 0
        self._sampling = False
        self._step = 0
        self._total_steps = 0
        self._load: tuple[int, int, str] | None = None

    def feed(self, stream: str, data: bytes) -> list[EngineOutput]:
        """What these bytes, arriving after all earlier ones, have told.

        Args:
            stream: ``stdout`` or ``stderr``.
            data: Any piece of the stream; where it is cut does not matter.
        """
        return self._interpret(self._lines[stream].feed(data))

    def close(self) -> list[EngineOutput]:
        """What an unfinished last line of either stream tells."""
        return [
            event for lines in self._lines.values() for event in self._interpret(lines.feed(b"", final=True))
        ]

    def _interpret(self, text: str) -> list[EngineOutput]:
        events: list[EngineOutput] = []
        for match in _PATTERN.finditer(f"\n{text}"):
            kind = match.lastgroup
            if kind is None:  # pragma: no cover - every alternative is named
                continue
            if self._echoes and self._is_echo(match.group()):
                self._doubted = match if kind == "image" else self._doubted
                continue
            if kind == "step" and self._doubted is not None and not self._sampling:
                # This step is no echo, so the start of its image was none either, though the prompt holds it too.
                events += filter(None, [self._on_image(self._doubted)])
            event = _HANDLERS[kind](self, match)
            if event is not None:
                events.append(event)
        return events

    def _is_echo(self, line: str) -> bool:
        bare = _bare(line)
        return any(bare in echo for echo in self._echoes)

    def _on_step(self, match: re.Match[str]) -> EngineOutput | None:
        done, of, rate, unit = match.group("step_n", "step_of", "rate", "unit")
        step, total = int(done), int(of)
        if not self._sampling or step != self._step + 1 or step > total:
            return None
        if step > 1 and total != self._total_steps:
            return None
        if self._max_steps is not None and total > self._max_steps:
            return None
        self._step, self._total_steps = step, total
        seconds = float(rate)
        if unit == "it/s":
            seconds = 1.0 / seconds if seconds > 0 else 0.0
        return out.Step(step, total, seconds)

    def _on_load(self, match: re.Match[str]) -> EngineOutput | None:
        done, total = int(match["load_n"]), int(match["load_of"])
        bar = (done, total, match["speed"])
        if done > total or bar == self._load:  # the older build prints its last bar again after a line break
            return None
        self._load = bar
        return out.LoadProgress(done, total, float(match["speed"]) * _BYTES_PER_UNIT[match["size"]])

    def _on_loaded(self, match: re.Match[str]) -> EngineOutput:
        self._load = None
        return out.LoadCompleted(float(match["loaded_s"]))

    def _on_image(self, match: re.Match[str]) -> EngineOutput | None:
        index, total = int(match["image_n"]), int(match["image_of"])
        self._doubted = None
        if index != self._image + 1 or index > total:
            return None
        self._image, self._sampling, self._step = index, True, 0
        return out.ImageStarted(index, total, int(match["seed"]))

    def _on_sampled(self, match: re.Match[str]) -> EngineOutput:
        self._sampling = False
        return out.SamplingCompleted(float(match["sampled_s"]))

    def _on_log(self, match: re.Match[str]) -> EngineOutput:
        level = out.LogLevel.ERROR if match["level"] == "ERROR" else out.LogLevel.WARNING
        return out.LogLine(level, match["message"].rstrip())


_HANDLERS: Final[dict[str, Callable[[OutputParser, re.Match[str]], EngineOutput | None]]] = {
    "step": OutputParser._on_step,
    "load": OutputParser._on_load,
    "loaded": OutputParser._on_loaded,
    "image": OutputParser._on_image,
    "sampled": OutputParser._on_sampled,
    "log": OutputParser._on_log,
    "family": lambda _, m: out.ModelFamily(m["family_name"].strip()),
    "params": lambda _, m: out.ParamsSize(float(m["total"]), float(m["vram"]), float(m["ram"])),
    "size_px": lambda _, m: out.ImageSize(int(m["width"]), int(m["height"])),
    "condition": lambda _, m: out.ConditionCompleted(float(m["condition_s"])),
    "decoding": lambda _, m: out.DecodingStarted(int(m["latents"])),
    "decoded": lambda _, m: out.LatentDecoded(int(m["latent"]), float(m["latent_s"])),
    "all_decoded": lambda _, m: out.DecodingCompleted(float(m["all_decoded_s"])),
    "completed": lambda _, m: out.GenerationCompleted(float(m["completed_s"])),
    "saved": lambda _, m: out.ImageSaved(int(m["saved_n"]), m["verdict"] == "success"),
    "all_saved": lambda _, m: out.ImagesSaved(int(m["saved_count"]), int(m["saved_of"])),
}
