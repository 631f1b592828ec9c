"""What a caller asks for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Self, TypedDict

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBytes,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from sdmanager.errors import InvalidRequestError

from .presets import STEPS_MAX, GenerationPreset

if TYPE_CHECKING:
    from pydantic.functional_validators import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails

SIZE_MIN = 64
SIZE_MAX = 4096
SIZE_MULTIPLE = 8
COUNT_MAX = 10
LORAS_MAX = 16
CFG_SCALE_MAX = 50
CLIP_SKIP_MAX = 12
SEED_MAX = 2**63 - 1 - COUNT_MAX

# For ``ImageRequest.model_validate(…, context=…)``: a prompt may be empty, as the engine takes it.
EMPTY_PROMPT: Final = MappingProxyType({"empty_prompt": True})

# Seeds that we choose stay in 32 bits, which every front end shows and stores; a caller's may have 63.
_CHOSEN_SEED_BITS = 32

_REFUSED = "The request cannot be carried out: "

# Python refuses to print integers of thousands of digits.
_QUOTED_MAX = 10**30

_SIZE_HINT = f"Sizes are multiples of {SIZE_MULTIPLE}, from {SIZE_MIN} to {SIZE_MAX} pixels."
_HINT = "The limits of each field are in the documentation of ImageRequest."
_HINTS = {
    "prompt": "Say what to draw, in a few words.",
    "width": _SIZE_HINT,
    "height": _SIZE_HINT,
    "steps": f"Between 4 (turbo models) and 50 is usual; at most {STEPS_MAX}.",
    "count": f"At most {COUNT_MAX} images are drawn at once; ask again for more.",
}

Size = Annotated[int, Field(ge=SIZE_MIN, le=SIZE_MAX, multiple_of=SIZE_MULTIPLE, strict=True)]


def _explain(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    what = error["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    # Only numbers are quoted back: a prompt or a path does not belong in an error message.
    given = error.get("input")
    quoted = isinstance(given, int | float) and not isinstance(given, bool) and not abs(given) > _QUOTED_MAX
    got = f", not {given}" if quoted else ""
    return f"{where} {what[:1].lower()}{what[1:]}{got}".strip()


def _encodable(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("must not contain half a character (a lone surrogate)") from None
    return value


class _Vocabulary(BaseModel):
    """Frozen, camelCase on the wire, snake_case in Python, unknown fields refused, errors of our own type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _typed_errors(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
            fields = [".".join(str(part) for part in error["loc"]) for error in errors]
            raise InvalidRequestError(
                f"{_REFUSED}{'; '.join(map(_explain, errors))}.",
                hint=next((_HINTS[field] for field in fields if field in _HINTS), _HINT),
                details={"fields": fields},
            ) from None


class PreviewMethod(StrEnum):
    """How the engine turns a latent into a preview.

    ``proj`` is a linear projection of the latent: nearly free, at one eighth of the size. ``tae`` decodes with
    a tiny autoencoder, ``vae`` with the model's own: sharper, at full size, and dear. ``auto`` is ``proj``, or
    ``tae`` where its file is there and the backend is a GPU.
    """

    AUTO = "auto"
    PROJ = "proj"
    TAE = "tae"
    VAE = "vae"


class PreviewFormat(StrEnum):
    """Encoding of previews handed to the caller; the engine itself always writes PNG."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"


class PreviewOptions(_Vocabulary):
    """How the picture is shown while it forms.

    Attributes:
        method: See ``PreviewMethod``.
        stride: Steps between two previews; None: every step up to 8 steps, else about 8 previews a run.
        skip_first: Previews left out at the start, where there is only noise.
        format: Encoding of the previews.
        max_size: Longest side in pixels; larger previews are scaled down. None: as the engine drew them.
    """

    method: PreviewMethod = PreviewMethod.AUTO
    stride: Annotated[int, Field(ge=1, le=STEPS_MAX, strict=True)] | None = None
    skip_first: Annotated[int, Field(ge=0, le=STEPS_MAX, strict=True)] = 0
    format: PreviewFormat = PreviewFormat.JPEG
    max_size: Annotated[int, Field(ge=16, le=SIZE_MAX, strict=True)] | None = None

    def effective_stride(self, steps: int) -> int:
        """Steps between two previews of a run with so many steps."""
        if self.stride is not None:
            return self.stride
        return 1 if steps <= 8 else round(steps / 8)


class Lora(_Vocabulary):
    """A LoRA to apply.

    Attributes:
        name: Of a file in the folder of LoRAs, with or without its ending; ``sub/name`` in a folder of it.
        weight: How strongly, -10 to 10.
    """

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_encodable)]
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False, strict=True)] = 1.0


def _named(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Let an error of a part be told as one of the field that it stands in."""
    try:
        part: object = handler(value)
    except InvalidRequestError as exc:
        raise ValueError(exc.message.removeprefix(_REFUSED).removesuffix(".")) from None
    return part


class ImageRequest(_Vocabulary):
    """One generation: a prompt and everything that shapes the picture.

    Fields that the caller leaves out may be replaced by the model's own defaults (a turbo model wants other
    steps and cfg scale): see ``with_defaults``.

    Attributes:
        prompt: What to draw; not empty, unless that is asked for with ``EMPTY_PROMPT``.
        negative_prompt: What to keep out; without effect at a cfg scale of 1.
        width: Pixels, a multiple of 8, 64 to 4096.
        height: Pixels, likewise.
        steps: Sampling steps, 1 to 1000.
        preset: How many steps where ``steps`` is left out: the model's own number, half of it or twice as many.
        cfg_scale: Classifier-free guidance scale, 0 to 50; any but 1 takes twice the time of 1.
        guidance: Distilled guidance scale, 0 to 100, of models that were trained with it, such as FLUX.1 dev, which
            want a cfg scale of 1; others ignore it. None: the model's own, else the engine's.
        seed: Of the first image; the next ones take seed + 1, + 2, …; None or negative: chosen by us.
        sampler: Name from the engine's own list; None: the engine's choice for the model.
        scheduler: Likewise.
        count: Images, 1 to 10, drawn by one process after one load.
        init_image: Picture to start from: a path, or the bytes of an image file.
        mask_image: White marks what is redrawn; needs ``init_image``.
        strength: How far to go from ``init_image``, 0 to 1.
        clip_skip: Layers of CLIP to ignore at the end; None: the model's own.
        loras: From the folder of LoRAs; ``<lora:NAME:WEIGHT>`` in the prompt means the same. At most 16 in all.
        previews: None: no previews.
        model_id: Name of the installed model to draw with, or of the generator's own; None: its own.

    Raises:
        InvalidRequestError: A field is missing, out of range or unknown.
    """

    prompt: str
    negative_prompt: str = ""
    width: Size = 512
    height: Size = 512
    steps: Annotated[int, Field(ge=1, le=STEPS_MAX, strict=True)] = 20
    preset: GenerationPreset = GenerationPreset.DEFAULT
    cfg_scale: Annotated[float, Field(ge=0, le=CFG_SCALE_MAX, allow_inf_nan=False, strict=True)] = 7.5
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, strict=True)] | None = None
    seed: Annotated[int, Field(le=SEED_MAX, strict=True)] | None = None
    sampler: str | None = None
    scheduler: str | None = None
    count: Annotated[int, Field(ge=1, le=COUNT_MAX, strict=True)] = 1
    init_image: StrictBytes | Path | None = None
    mask_image: StrictBytes | Path | None = None
    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] = 0.75
    clip_skip: Annotated[int, Field(ge=1, le=CLIP_SKIP_MAX, strict=True)] | None = None
    loras: Annotated[tuple[Annotated[Lora, WrapValidator(_named)], ...], Field(max_length=LORAS_MAX)] = ()
    previews: Annotated[PreviewOptions, WrapValidator(_named)] | None = None
    model_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    # The steps that a preset was applied to, so that it is applied to them once, however often defaults come.
    _usual_steps: int | None = PrivateAttr(None)

    @field_validator("prompt", "negative_prompt", "sampler", "scheduler", "model_id")
    @classmethod
    def _text(cls, value: str | None) -> str | None:
        return value if value is None else _encodable(value)

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str, info: ValidationInfo) -> str:
        if not value.strip() and info.context != EMPTY_PROMPT:
            raise ValueError("must not be empty")
        return value

    @field_validator("init_image", "mask_image", mode="before")
    @classmethod
    def _file_or_bytes(cls, value: object) -> object:
        if value is not None and not isinstance(value, bytes | str | os.PathLike):
            raise ValueError("must be a path or the bytes of an image file")
        return value

    @field_validator("mask_image")
    @classmethod
    def _mask_needs_image(cls, value: bytes | Path | None, info: ValidationInfo) -> bytes | Path | None:
        if value is not None and info.data.get("init_image") is None:
            raise ValueError("needs init_image")
        return value

    def with_defaults(self, **defaults: object) -> ImageRequest:
        """The same request with a model's defaults in the fields that the caller left out.

        Where that is so for the steps, the preset changes them: those of the model, or 20 where it has none.
        """
        missing = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        usual = self._usual_steps
        if self.preset is not GenerationPreset.DEFAULT and "steps" not in self.model_fields_set:
            given = missing.get("steps", self.steps if usual is None else usual)
            if isinstance(given, int):
                usual, missing["steps"] = given, self.preset.steps(given)
        # Built by hand, since model_copy(update=…) would count these fields as the caller's own.
        made = self.model_construct(_fields_set=set(self.model_fields_set), **{**self.__dict__, **missing})
        made._usual_steps = usual
        return made

    def with_seed(self) -> ImageRequest:
        """The same request with a seed that is known: the caller's, or one chosen here."""
        if self.seed is not None and self.seed >= 0:
            return self
        return self.model_copy(update={"seed": secrets.randbits(_CHOSEN_SEED_BITS)})


class RequestFields(TypedDict, total=False):
    """Fields of ``ImageRequest`` besides the prompt, as keyword arguments."""

    negative_prompt: str
    width: int
    height: int
    steps: int
    preset: GenerationPreset | str
    cfg_scale: float
    guidance: float | None
    seed: int | None
    sampler: str | None
    scheduler: str | None
    count: int
    init_image: bytes | str | os.PathLike[str] | None
    mask_image: bytes | str | os.PathLike[str] | None
    strength: float
    clip_skip: int | None
    loras: Sequence[Lora]
    previews: PreviewOptions | None
    model_id: str | None
