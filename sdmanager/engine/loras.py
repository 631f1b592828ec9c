"""Which LoRAs a request asks for, and what the engine is told of them: names and tags alone, no files.

The engine opens whatever a ``<lora:NAME:WEIGHT>`` tag in a prompt names, absolute paths included. So it gets only tags
written here, of names chosen here; the caller's own are taken out of the prompt and looked up by us.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import LORAS_MAX, Lora

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdmanager.generation import ImageRequest

# Nothing else: the other formats that the engine reads are pickles.
SUFFIXES: Final = (".safetensors", ".gguf")

# What the engine takes for a tag; a space before it goes with it. It reads no tags in the negative prompt.
_TAG: Final = re.compile(r" ?<lora:([^:>]+):([^>]+)>")

# The engine's search for the end of a tag recurses: some tens of thousands of characters overflow its stack.
_OPEN_TAG: Final = re.compile(r"<lora:[^>]{1000}")

_HIGH_NOISE: Final = "|high_noise|"

# Details of an error about a tag.
_IN_PROMPT: Final = {"fields": ["prompt"]}

_FOREIGN: Final = re.compile(r"[\\:\0]|(?:^|/)[. ]*(?:/|$)")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class WantedLora:
    """One LoRA of a request.

    Attributes:
        lora: Name and weight.
        what: What to call it in an error: a tag is a part of the prompt, so its text is not quoted.
        field: Of the request, in which it stands.
        high_noise: Whether it is for the high-noise part of a model that has two.
    """

    lora: Lora
    what: str
    field: Literal["loras", "prompt"] = "loras"
    high_noise: bool = False


def wanted_loras(request: ImageRequest) -> tuple[str, list[WantedLora]]:
    """The prompt without its tags, and all LoRAs that are asked for.

    Raises:
        InvalidRequestError: A tag has no weight that can be used, does not end, or stands inside another, or there are
            too many.
    """
    wanted = [WantedLora(lora, f"The LoRA {lora.name!r}") for lora in request.loras]
    prompt, tags = _without_tags(request.prompt)
    if _OPEN_TAG.search(request.prompt):
        raise InvalidRequestError(
            "A LoRA tag in the prompt does not end.",
            hint="Write <lora:NAME:WEIGHT>, or leave '<lora:' out.",
            details=_IN_PROMPT,
        )
    if len(wanted) + len(tags) > LORAS_MAX:
        raise InvalidRequestError(
            f"The request asks for {len(wanted) + len(tags)} LoRAs.",
            hint=f"Use at most {LORAS_MAX}.",
            details={"fields": ["loras"]} if wanted else _IN_PROMPT,
        )
    if not tags:
        return prompt, wanted
    if _without_tags(prompt)[1]:
        raise InvalidRequestError(
            "A LoRA tag in the prompt stands inside another one.",
            hint="Write <lora:NAME:WEIGHT>.",
            details=_IN_PROMPT,
        )
    return prompt.strip(), [*wanted, *(_read_tag(tag, number) for number, tag in enumerate(tags, start=1))]


def _without_tags(prompt: str) -> tuple[str, list[re.Match[str]]]:
    # Up to the last end of a tag: of many tags that are left open each would be searched to the end of the prompt.
    end = prompt.rfind(">") + 1
    return _TAG.sub("", prompt[:end]) + prompt[end:], list(_TAG.finditer(prompt, 0, end))


def _read_tag(tag: re.Match[str], number: int) -> WantedLora:
    what = f"LoRA tag {number} in the prompt"
    name, rest = tag.groups()
    try:
        # Other programs write a second weight or more behind the first, which the engine skips, too.
        lora = Lora(name=name.removeprefix(_HIGH_NOISE), weight=float(rest.partition(":")[0]))
    except (InvalidRequestError, ValueError):
        raise InvalidRequestError(
            f"{what} has a name or a weight that cannot be used.",
            hint="Write <lora:NAME:WEIGHT>, with a name of at most 200 characters and a weight from -10 to 10.",
            details=_IN_PROMPT,
        ) from None
    return WantedLora(lora, what, "prompt", name.startswith(_HIGH_NOISE))


def file_names(wanted: WantedLora) -> tuple[str, ...]:
    """The files that its name may mean, relative to the folder of LoRAs.

    Raises:
        InvalidRequestError: It is a path that may lead elsewhere.
    """
    name = wanted.lora.name
    if _FOREIGN.search(name):
        raise InvalidRequestError(
            "A LoRA must be given by its name, not by a path that may leave the folder of LoRAs.",
            hint="Write NAME, or FOLDER/NAME for a folder in it.",
            details={"fields": [wanted.field]},
        )
    return (name,) if name.lower().endswith(SUFFIXES) else tuple(name + suffix for suffix in SUFFIXES)


def without_suffix(name: str) -> str:
    """A file's name as it is shown to people."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def link_name(number: int, file_name: str) -> str:
    """A name that neither the engine's parser nor any file system can misunderstand, and a person may recognise."""
    stem = without_suffix(file_name)
    readable = _UNSAFE.sub("_", stem.rpartition("/")[2])[:40]
    return f"{number}-{readable}{file_name[len(stem) :].lower()}"


def tagged(prompt: str, wanted: Sequence[tuple[WantedLora, str]]) -> str:
    """The prompt for the engine.

    Args:
        prompt: Without tags of the caller's.
        wanted: Each LoRA with the name of its link.
    """
    # In front: behind a tag that the caller left open they would be taken for its end.
    tags = (
        f"<lora:{_HIGH_NOISE if one.high_noise else ''}{without_suffix(link)}:{one.lora.weight:g}>"
        for one, link in wanted
    )
    return f"{''.join(tags)}{prompt}"


def as_asked(request: ImageRequest) -> str:
    """The prompt with each LoRA as a tag of its own name in it: drawn again, it asks for the same ones.

    A LoRA beside the prompt whose name no tag can hold is left out.

    Args:
        request: As the caller gave it.
    """
    tags = (
        f"<lora:{lora.name}:{lora.weight:g}>"
        for lora in request.loras
        if ">" not in lora.name and not lora.name.startswith(_HIGH_NOISE)
    )
    return f"{''.join(tags)}{request.prompt}"
