"""What OpenAI's clients ask for, in the words of this server. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import COUNT_MAX
from sdmanager.server.body import parsed
from sdmanager.server.requests import image_request

from .errors import invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sdmanager.generation import ImageRequest

PARTIAL_IMAGES_MAX: Final = 3

# A picture alone says nothing about what it shows, and the engine wants a prompt.
VARIATION_PROMPT: Final = "a picture"

_OPENAI_KEYS: Final = frozenset(
    {
        *("model", "n", "size", "response_format", "quality", "style", "user", "stream", "partial_images"),
        *("output_format", "output_compression", "background", "moderation"),
    }
)
_NATIVE_KEYS: Final = frozenset({"negativePrompt", "cfgScale", "sampler", "count", "modelId", "previews"})

# Fields of ours by the names that clients have for them. Where several stand in one request, the first counts.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("prompt",),
    "negativePrompt": ("negative_prompt", "negativePrompt"),
    "steps": ("steps", "step"),
    "seed": ("seed",),
    "cfgScale": ("cfg_scale", "cfgScale"),
    "guidance": ("guidance",),
    "sampler": ("sampler", "sampler_name", "samplerName"),
    "scheduler": ("scheduler",),
    "clipSkip": ("clip_skip", "clipSkip"),
    "strength": ("strength",),
    "width": ("width",),
    "height": ("height",),
    "loras": ("loras",),
}
# Where an empty text is a text.
_FREE_TEXTS: Final = frozenset({*_FIELDS["prompt"], *_FIELDS["negativePrompt"]})
_TEXT_FIELDS: Final = frozenset({"prompt", "negativePrompt", "sampler", "scheduler"})

# Parts of a form that are no texts.
_VALUES: Final = frozenset(
    {"n", "output_compression", "partial_images", "stream"}
    | {name for field, names in _FIELDS.items() if field not in _TEXT_FIELDS for name in names}
)

# How much work, and what the answer says of it: its clients know these three words.
_QUALITIES: Final = {
    "low": ("fast", "low"),
    "medium": ("default", "medium"),
    "standard": ("default", "medium"),
    "auto": ("default", "medium"),
    "high": ("high-quality", "high"),
    "hd": ("high-quality", "high"),
    "xhigh": ("high-quality", "high"),
    "max": ("high-quality", "high"),
}
_FORMATS: Final = ("png", "jpeg", "webp")
_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


class Operation(StrEnum):
    """What is asked for; its value begins the names of events."""

    GENERATION = "image_generation"
    EDIT = "image_edit"
    VARIATION = "image_variation"


@dataclass(frozen=True, slots=True)
class Output:
    """How pictures are encoded.

    Attributes:
        format: ``png``, ``jpeg`` or ``webp``.
        quality: Of JPEG and WebP, 0 to 100; None: nearly the best.
    """

    format: str = "png"
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for.

    Attributes:
        operation: Of which kind.
        fields: Of the native API, without the pictures.
        names: What the client calls those fields, where it has another name for them.
        model: The name that it gave, or None.
        quality: ``low``, ``medium`` or ``high``, for the answer.
        output: How it wants its pictures.
        stream: Whether it wants events.
        partial_images: How many pictures on the way, for each image; 0 where there is no stream.
    """

    operation: Operation
    fields: Mapping[str, object]
    names: Mapping[str, str]
    model: str | None = None
    quality: str = "medium"
    output: Output = field(default_factory=Output)
    stream: bool = False
    partial_images: int = 0

    def request(self, more: Mapping[str, object]) -> ImageRequest:
        """The request, with further fields of the native API.

        Raises:
            InvalidRequestError: A field is wrong; it is called as the client calls it.
        """
        try:
            return image_request({**self.fields, **more})
        except InvalidRequestError as exc:
            raise self._in_its_words(exc) from None

    def name_param(self, error: InvalidRequestError) -> None:
        """Have an error that a later check raised name its field as the client does."""
        fields = error.details.get("fields")
        if isinstance(fields, list) and fields:
            error.details.setdefault("param", self.names.get(str(fields[0]), str(fields[0])))

    def _in_its_words(self, error: InvalidRequestError) -> InvalidRequestError:
        known = re.compile(rf"\b(?:{'|'.join(self.names)})\b")
        message = known.sub(lambda match: self.names[match[0]], error.message)
        fields = error.details.get("fields")
        named = known.search(str(fields[0]) if isinstance(fields, list) and fields else error.message)
        param = {"param": self.names[named[0]]} if named is not None else {}
        return type(error)(message, hint=error.hint, details={**error.details, **param})


def speaks_openai(fields: Mapping[str, object]) -> bool:
    """Whether a body for ``/v1/images/generations`` means this API, and not the native one of that path."""
    return not fields.keys().isdisjoint(_OPENAI_KEYS) and fields.keys().isdisjoint(_NATIVE_KEYS)


def from_texts(parts: Mapping[str, object]) -> dict[str, object]:
    """The parts of a form as the fields of a JSON body; what is no value where it should be stays a text."""
    fields: dict[str, object] = {}
    for name, part in parts.items():
        if not isinstance(part, str) or name not in _VALUES:
            fields[name] = part
        elif part:  # an empty one was not filled in
            fields[name] = _value(part)
    return fields


def _value(text: str) -> object:
    try:
        return parsed({"True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):
        return text


def order_of(fields: Mapping[str, object], operation: Operation) -> Order:
    """What the fields of a body ask for. Null is absent, an empty choice likewise, and what is unknown is ignored.

    Raises:
        InvalidRequestError: A field has a wrong type or value, or there is no prompt; ``details`` name it. What the
            fields of the native API may be is checked later, by ``Order.request``.
    """
    given = {name: _plain(value) for name, value in fields.items() if not _is_absent(name, value)}
    for name in ("style", "user", "moderation", "input_fidelity"):
        _text(given, name)  # taken, and without effect
    _choice(given, "response_format", ("b64_json", "url"))
    if _choice(given, "background", ("auto", "opaque", "transparent")) == "transparent":
        raise invalid("background", "The engine cannot draw a transparent background.", hint="Use 'opaque'.")
    preset, quality = _QUALITIES[_choice(given, "quality", _QUALITIES) or "auto"]
    native, names = _native(given, operation)
    names["count"] = "n"
    count = _whole(given, "n", 1, COUNT_MAX)
    stream = _flag(given, "stream")
    partial_images = _whole(given, "partial_images", 0, PARTIAL_IMAGES_MAX) or 0
    return Order(
        operation=operation,
        fields={**native, "preset": preset, "count": 1 if count is None else count},
        names=names,
        model=_text(given, "model"),
        quality=quality,
        output=Output(
            _choice(given, "output_format", _FORMATS) or "png", _whole(given, "output_compression", 0, 100)
        ),
        stream=stream,
        partial_images=partial_images if stream else 0,
    )


def _is_absent(name: str, value: object) -> bool:
    return value is None or (value == "" and name not in _FREE_TEXTS and name not in _VALUES)


def _plain(value: object) -> object:
    """Some languages have one kind of number, and write 2.0 for 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _native(given: Mapping[str, object], operation: Operation) -> tuple[dict[str, object], dict[str, str]]:
    """Fields of the native API, and the names under which they came."""
    native: dict[str, object] = {}
    names = {"initImage": "image", "maskImage": "mask"}
    for ours, theirs in _FIELDS.items():
        name = next((name for name in theirs if name in given), None)
        if name is not None:
            native[ours], names[ours] = given[name], name
    if operation is Operation.GENERATION:
        native.pop("strength", None)  # there is no picture to go away from
    elif operation is Operation.VARIATION:
        native.setdefault("prompt", VARIATION_PROMPT)
    if "prompt" not in native:
        raise invalid("prompt", "There is no prompt.", reason="missing_required_parameter")
    for ours, pixels in _size(given).items():
        if ours not in native:
            native[ours], names[ours] = pixels, "size"
    return native, names


def _size(given: Mapping[str, object]) -> dict[str, int]:
    size = _text(given, "size")
    if size is None or size == "auto":
        return {}
    pixels = _SIZE.fullmatch(size)
    if pixels is None:
        raise invalid("size", "size must be 'auto', or width and height such as '512x768'.")
    return {"width": int(pixels[1]), "height": int(pixels[2])}


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if value is None or isinstance(value, str):
        return value
    raise invalid(name, f"{name} must be a string.", reason="invalid_type")


def _choice(given: Mapping[str, object], name: str, choices: Collection[str]) -> str | None:
    value = _text(given, name)
    if value is None or value in choices:
        return value
    raise invalid(name, f"{name} must be one of {', '.join(choices)}.")


def _whole(given: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(name, f"{name} must be a whole number.", reason="invalid_type")
    if not least <= value <= most:
        raise invalid(name, f"{name} must be from {least} to {most}.")
    return value


def _flag(given: Mapping[str, object], name: str) -> bool:
    value = given.get(name, False)
    if isinstance(value, bool):
        return value
    raise invalid(name, f"{name} must be true or false.", reason="invalid_type")
