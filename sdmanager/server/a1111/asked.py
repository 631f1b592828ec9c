"""What a body of ``txt2img`` or ``img2img`` asks for, in our terms. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sdmanager.generation import (
    CFG_SCALE_MAX,
    CLIP_SKIP_MAX,
    COUNT_MAX,
    SEED_MAX,
    SIZE_MAX,
    SIZE_MIN,
    SIZE_MULTIPLE,
    STEPS_MAX,
)

from .fields import Fields
from .names import choose

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_STRENGTH: Final = 0.75
_BLUR: Final = 4
_BLUR_MAX: Final = 256
_ITERATIONS_MAX: Final = 1_000_000

# What may be shown to the client again: all else may be anything, such as the address and the password of a server,
# which a client puts into its bodies for a program of its own.
_SHOWN: Final = (
    "prompt", "negative_prompt", "seed", "sampler_name", "sampler_index", "scheduler", "batch_size", "n_iter", "steps",
    "cfg_scale", "width", "height", "denoising_strength", "resize_mode", "mask_blur", "inpainting_mask_invert",
    "clip_skip", "send_images",
)  # fmt: skip

# What changes the picture elsewhere, and not here.
_NOT_DONE: Final = (
    "enable_hr", "restore_faces", "tiling", "styles", "script_name", "subseed_strength", "alwayson_scripts",
    "refiner_checkpoint",
)  # fmt: skip

# Values of ``sd_vae`` that mean the model's own.
_OWN_VAE: Final = frozenset({"", "automatic", "none"})


class ResizeMode(enum.IntEnum):
    """How a picture of another shape is made to fit."""

    STRETCH = 0
    CROP = 1
    FILL = 2


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pictures to start from, as they came.

    Attributes:
        init: In base64, or a data URL.
        mask: Likewise; white marks what is redrawn. None: everything is.
        resize: How they are fitted.
        blur: Pixels by which the edge of the mask is softened.
        invert: Whether black marks it instead.
    """

    init: str = field(repr=False)
    mask: str | None = field(repr=False)
    resize: ResizeMode
    blur: float
    invert: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of this API.

    Attributes:
        fields: Of ``ImageRequest``; the prompt may be empty.
        inputs: Pictures to start from, or None.
        checkpoint: What the client calls the model to draw with; None: the current one.
        for_good: Whether that model is to stay the current one.
        send_images: Whether the answer holds the pictures.
        iterations: How often a batch is drawn, as the client counts.
        notes: What is not done as asked, one sentence each.
        parameters: What the client asked, for its own eyes.
    """

    fields: dict[str, Any]
    inputs: Inputs | None
    checkpoint: str | None
    for_good: bool
    send_images: bool
    iterations: int
    notes: tuple[str, ...]
    parameters: dict[str, object]


def read_asked(
    body: Mapping[str, object],
    *,
    img2img: bool,
    samplers: Collection[str],
    schedulers: Collection[str],
    clip_skip: int,
) -> Asked:
    """What a body asks for.

    Args:
        body: As it came. What is unknown or null is ignored.
        img2img: Whether pictures to start from are looked at.
        samplers: The engine's.
        schedulers: Likewise.
        clip_skip: What holds where the body says nothing of it; 1 is the model's own.

    Raises:
        InvalidRequestError: A field is of the wrong type or out of range.
    """
    given, notes = Fields(body), list[str]()
    override = given.nested("override_settings")
    optional = {
        **_sizes(given, notes),
        "steps": given.integer("steps", 1, STEPS_MAX),
        "cfg_scale": given.number("cfg_scale", 0, CFG_SCALE_MAX),
        "seed": _seed(given),
        "clip_skip": _clip_skip(given, override, clip_skip),
        **_choices(given, notes, samplers, schedulers),
    }
    inputs = _inputs(given) if img2img else None
    if inputs is not None:
        strength = given.number("denoising_strength", 0, 1)
        optional["strength"] = _STRENGTH if strength is None else strength
    _note_what_is_not_done(given, override, notes)
    return Asked(
        fields={
            "prompt": given.text("prompt"),
            "negative_prompt": given.text("negative_prompt"),
            "count": _count(given),
            **{name: value for name, value in optional.items() if value is not None},
        },
        inputs=inputs,
        checkpoint=(override.text("sd_model_checkpoint") or given.text("model")).strip() or None,
        for_good=not given.flag("override_settings_restore_afterwards", default=True),
        send_images=given.flag("send_images", default=True),
        iterations=given.integer("n_iter", 1, COUNT_MAX) or 1,
        notes=tuple(notes),
        parameters=given.plain(*_SHOWN),
    )


def _choices(
    given: Fields, notes: list[str], samplers: Collection[str], schedulers: Collection[str]
) -> dict[str, str | None]:
    # Some send a number under this name: that of a line in a list of their own.
    index = given.plain("sampler_index").get("sampler_index")
    sampler = given.text("sampler_name") or (index if isinstance(index, str) else "")
    chosen = choose(sampler, given.text("scheduler"), samplers, schedulers)
    if chosen.unknown:
        notes.append("This engine has not all that was asked for by name, and chose what suits the model.")
    return {"sampler": chosen.sampler, "scheduler": chosen.scheduler}


def _note_what_is_not_done(given: Fields, override: Fields, notes: list[str]) -> None:
    if ignored := [name for name in _NOT_DONE if given.says(name)]:
        notes.append(f"Ignored, because this server does not do it: {', '.join(ignored)}.")
    if override.text("sd_vae").strip().lower() not in _OWN_VAE:
        notes.append("The model's own VAE is used.")


def _count(given: Fields) -> int:
    each = given.integer("batch_size", 1, _ITERATIONS_MAX) or 1
    times = given.integer("n_iter", 1, _ITERATIONS_MAX) or 1
    if each * times > COUNT_MAX:
        raise given.wrong(
            "batch_size" if times == 1 else "n_iter",
            f"asks for {each * times} images",
            hint=f"At most {COUNT_MAX} are drawn at once: ask again for more.",
        )
    return each * times


def _sizes(given: Fields, notes: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name in ("width", "height"):
        wanted = given.integer(name, SIZE_MIN, SIZE_MAX)
        if wanted is not None:
            sizes[name] = wanted // SIZE_MULTIPLE * SIZE_MULTIPLE
            if sizes[name] != wanted:
                notes.append(f"The {name} is {sizes[name]}: sizes are multiples of {SIZE_MULTIPLE}.")
    return sizes


def _seed(given: Fields) -> int | None:
    seed = given.integer("seed", -SEED_MAX, SEED_MAX)
    return None if seed is None or seed < 0 else seed


def _clip_skip(given: Fields, override: Fields, standing: int) -> int | None:
    """None for 1, which there means that the model's own layers are used, whatever their number."""
    found = override.integer("CLIP_stop_at_last_layers", 0, CLIP_SKIP_MAX)
    if found is None:
        found = given.integer("clip_skip", 0, CLIP_SKIP_MAX)
    if found is None:
        found = standing
    return found if found > 1 else None


def _inputs(given: Fields) -> Inputs | None:
    """None where the first picture is missing."""
    pictures = given.texts("init_images")
    if len(pictures) > 1:
        raise given.wrong("init_images", "holds several images", hint="Send one: it is drawn from one image.")
    mode = given.integer("resize_mode", 0, 3) or 0
    if not pictures:
        return None
    return Inputs(
        init=pictures[0],
        mask=given.text("mask") or None,
        # The last one of theirs stretches, too, only later.
        resize=ResizeMode(mode) if mode in tuple(ResizeMode) else ResizeMode.STRETCH,
        blur=_blur(given),
        invert=given.flag("inpainting_mask_invert", default=False),
    )


def _blur(given: Fields) -> float:
    blur = given.number("mask_blur", 0, _BLUR_MAX)
    # What older clients send, for either direction.
    sides = [given.number(f"mask_blur_{side}", 0, _BLUR_MAX) for side in ("x", "y")]
    return max(_BLUR if side is None else side for side in sides) if blur is None else blur
