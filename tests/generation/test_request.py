"""What a caller may ask for, and what is said when it may not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sdmanager.errors import InvalidRequestError, SDManagerError
from sdmanager.generation import (
    EMPTY_PROMPT,
    ImageRequest,
    Lora,
    PreviewFormat,
    PreviewMethod,
    PreviewOptions,
)

SECRET = "a very secret prompt"


def brief(item: object) -> str:
    return "a huge number" if isinstance(item, int) and abs(item) > 2**65 else ascii(item)[:40]


def refused(**fields) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        ImageRequest(**{"prompt": SECRET, **fields})
    error = caught.value
    assert type(error) is InvalidRequestError
    assert str(error).startswith("The request cannot be carried out: ")
    assert str(error).endswith(".")
    assert "\n" not in str(error)
    assert SECRET not in str(error)
    assert SECRET not in repr(error.details)
    assert len(str(error)) < 700
    return error


BAD = [
    ("prompt", ""),
    ("prompt", " \n\t "),
    ("prompt", None),
    ("prompt", 3),
    ("prompt", [SECRET]),
    ("prompt", f"{SECRET}\0"),
    ("prompt", f"{SECRET}\ud800"),
    ("prompt", "\udc7f"),
    ("negative_prompt", f"{SECRET}\0"),
    ("negative_prompt", f"{SECRET}\udfff"),
    ("negative_prompt", None),
    *((side, size) for side in ("width", "height") for size in (0, -64, 56, 63, 65, 100, 4104, 10**9, "512")),
    *((side, size) for side in ("width", "height") for size in (512.0, 512.5, True, None, float("nan"))),
    ("width", 10**5000),
    ("steps", 0),
    ("steps", -1),
    ("steps", 1001),
    ("steps", 2.0),
    ("steps", "20"),
    ("steps", None),
    ("cfg_scale", -0.1),
    ("cfg_scale", 50.1),
    ("cfg_scale", float("nan")),
    ("cfg_scale", float("inf")),
    ("cfg_scale", SECRET),
    ("cfg_scale", None),
    ("seed", 2**63),
    ("seed", 1.5),
    ("seed", "7"),
    ("seed", 10**5000),
    ("count", 0),
    ("count", 11),
    ("count", None),
    ("count", 1.0),
    ("sampler", 3),
    ("sampler", f"{SECRET}\0"),
    ("scheduler", [1]),
    ("scheduler", f"{SECRET}\0"),
    ("strength", -0.01),
    ("strength", 1.01),
    ("strength", float("nan")),
    ("strength", SECRET),
    ("clip_skip", 0),
    ("clip_skip", 13),
    ("clip_skip", 1.5),
    ("init_image", 3),
    ("init_image", [SECRET]),
    ("loras", 3),
    ("loras", [SECRET]),
    ("loras", [{"name": SECRET, "weight": 10.5}]),
    ("loras", [{"name": SECRET, "weight": float("nan")}]),
    ("loras", [{"name": SECRET, "weight": SECRET}]),
    ("loras", [{"name": ""}]),
    ("loras", [{"name": SECRET * 20}]),
    ("loras", [{"name": f"{SECRET}\0"}]),
    ("loras", [{"name": f"{SECRET}\ud800"}]),
    ("loras", [{"weight": 1}]),
    ("loras", [{"name": SECRET, "path": SECRET}]),
    ("loras", [{"name": "a"}] * 17),
    ("previews", 3),
    ("previews", SECRET),
    ("foo", 1),
    ("foo", SECRET),
    ("Width", 64),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=brief)
def test_a_bad_field_is_named(field, value):
    """Half a character was let through and broke off later; numbers of thousands of digits broke the message."""
    error = refused(**{field: value})
    assert field in str(error).replace("cfgScale", "cfg_scale").replace("clipSkip", "clip_skip")
    assert any(name.startswith(field) for name in error.details["fields"])


def test_all_bad_fields_are_named_at_once():
    error = refused(width=63, steps=0, foo=1)
    assert error.details["fields"] == ["width", "steps", "foo"]
    assert all(word in str(error) for word in ("width must be", "not 63", "steps must be", "foo"))


@pytest.mark.parametrize("field", ["prompt", "width", "height", "steps", "count"])
def test_usual_mistakes_have_a_hint(field):
    assert refused(**{field: 0}).hint


def test_an_empty_prompt_is_taken_where_that_is_asked_for():
    request = ImageRequest.model_validate({"prompt": "", "steps": 3}, context=EMPTY_PROMPT)
    assert (request.prompt, request.with_defaults(cfg_scale=1.0).prompt) == ("", "")
    for fields in ({"prompt": "\0"}, {"prompt": None}, {"prompt": "", "steps": 0}, {}):
        with pytest.raises(InvalidRequestError):
            ImageRequest.model_validate(fields, context=EMPTY_PROMPT)
    with pytest.raises(InvalidRequestError, match="prompt must not be empty"):
        ImageRequest.model_validate({"prompt": ""}, context={"other": True})


def test_a_missing_prompt():
    with pytest.raises(InvalidRequestError, match="prompt field required"):
        ImageRequest()


def test_a_mask_needs_a_picture():
    """The check stood outside of what makes errors typed."""
    assert "mask_image needs init_image" in str(refused(mask_image=b"x"))
    ImageRequest(prompt="x", mask_image=b"x", init_image=b"y")


@pytest.mark.parametrize("options", [{"stride": 0}, {"skip_first": -1}, {"max_size": 15}, {"max_size": 4097}])
def test_bad_preview_options(options):
    for make in (PreviewOptions, lambda **fields: ImageRequest(prompt=SECRET, previews=fields)):
        with pytest.raises(InvalidRequestError, match=next(iter(options)).split("_")[0]):
            make(**options)


@pytest.mark.parametrize("options", [{"method": "magic"}, {"format": "gif"}, {"every": 2}])
def test_unknown_preview_options(options):
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        PreviewOptions(**options)


def test_an_error_of_the_request_is_no_value_error():
    """Pydantic would swallow one."""
    error = refused(width=1)
    assert isinstance(error, SDManagerError)
    assert not isinstance(error, ValueError)
    assert (error.code, error.exit_code, error.http_status) == ("INVALID_REQUEST", 2, 400)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 64, "height": 4096},
        {"steps": 1},
        {"steps": 1000},
        {"cfg_scale": 0},
        {"cfg_scale": 50},
        {"seed": 2**63 - 11},
        {"seed": -1},
        {"seed": -(10**30)},
        {"count": 10, "seed": 2**63 - 11},
        {"strength": 0},
        {"strength": 1},
        {"clip_skip": 12},
        {"prompt": "x" * 10**6},
        {"prompt": "bytes \udcff\udc80 that are no UTF-8"},
        {"prompt": "-"},
        {"sampler": "anything"},
        {"init_image": b""},
    ],
    ids=brief,
)
def test_limits_are_allowed(fields):
    request = ImageRequest(**{"prompt": "x", **fields})
    for name, value in fields.items():
        assert getattr(request, name) == value


def test_defaults():
    request = ImageRequest(prompt="x")
    assert (request.width, request.height, request.steps, request.cfg_scale) == (512, 512, 20, 7.5)
    assert (request.count, request.seed, request.strength) == (1, None, 0.75)
    assert request.previews is request.init_image is request.sampler is None
    assert request.loras == ()


def test_camel_case_and_snake_case():
    snake = {"prompt": "x", "cfg_scale": 1.5, "negative_prompt": "y", "clip_skip": 2, "init_image": "a.png"}
    snake |= {"mask_image": "b.png", "previews": {"skip_first": 2, "max_size": 64}, "loras": [{"name": "a"}]}
    camel = {"prompt": "x", "cfgScale": 1.5, "negativePrompt": "y", "clipSkip": 2, "initImage": "a.png"}
    camel |= {"maskImage": "b.png", "previews": {"skipFirst": 2, "maxSize": 64}, "loras": [{"name": "a"}]}
    assert ImageRequest(**snake) == ImageRequest(**camel)
    assert ImageRequest(**camel).previews == PreviewOptions(skip_first=2, max_size=64)
    assert set(ImageRequest(prompt="x").model_dump(by_alias=True)) >= {
        "cfgScale",
        "negativePrompt",
        "initImage",
    }


def test_a_request_survives_json():
    request = ImageRequest(
        prompt="灯台",
        seed=2**62,
        previews=PreviewOptions(method="tae"),
        init_image="a.png",
        loras=[Lora(name="sub/a"), Lora(name="b", weight=-0.5)],
    )
    assert ImageRequest.model_validate_json(request.model_dump_json(by_alias=True)) == request


def test_a_request_is_frozen():
    request = ImageRequest(prompt="x", previews=PreviewOptions())
    for target in (request, request.previews):
        with pytest.raises(ValidationError):
            target.steps = 3


def test_paths_and_bytes_of_pictures():
    assert ImageRequest(prompt="x", init_image="a/b.png").init_image == Path("a/b.png")
    assert ImageRequest(prompt="x", init_image=Path("a/b.png")).init_image == Path("a/b.png")
    assert ImageRequest(prompt="x", init_image=b"a/b.png").init_image == b"a/b.png"


# --- defaults of a model


def test_defaults_of_a_model_fill_what_was_left_out():
    request = ImageRequest(prompt="x", steps=9).with_defaults(steps=4, cfg_scale=1.0, width=256)
    assert (request.steps, request.cfg_scale, request.width, request.height) == (9, 1.0, 256, 512)


def test_what_was_said_counts_even_where_it_is_the_default():
    request = ImageRequest(prompt="x", steps=20, cfgScale=7.5).with_defaults(steps=4, cfg_scale=1.0)
    assert (request.steps, request.cfg_scale) == (20, 7.5)


def test_defaults_do_not_become_the_callers_words():
    request = ImageRequest(prompt="x").with_defaults(steps=4).with_defaults(steps=8)
    assert request.steps == 8
    assert request.model_fields_set == {"prompt"}


def test_defaults_change_a_copy_which_is_still_whole():
    request = ImageRequest(prompt="x", previews=PreviewOptions(stride=3))
    changed = request.with_defaults(steps=4)
    assert request.steps == 20
    assert changed == ImageRequest(prompt="x", previews=PreviewOptions(stride=3), steps=4)
    assert request.with_defaults() == request


# --- seeds


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 11])
def test_a_seed_of_the_callers_stays(seed):
    assert ImageRequest(prompt="x", seed=seed).with_seed().seed == seed


@pytest.mark.parametrize("seed", [None, -1, -5])
def test_a_seed_is_chosen_where_there_is_none(seed):
    request = ImageRequest(prompt="x", seed=seed, width=64)
    chosen = {request.with_seed().seed for _ in range(50)}
    assert len(chosen) > 45
    assert all(0 <= number < 2**32 for number in chosen)
    assert request.seed == seed
    assert request.with_seed().width == 64


# --- LoRAs


def test_a_lora_has_full_weight_unless_told_otherwise():
    assert ImageRequest(prompt="x", loras=[{"name": "a"}]).loras == (Lora(name="a", weight=1.0),)


def test_the_lora_with_a_bad_weight_is_named_by_its_place():
    error = refused(loras=[{"name": "a"}, {"name": SECRET, "weight": 11}])
    assert "loras.1 weight must be less than or equal to 10, not 11" in str(error)
    assert error.details["fields"] == ["loras.1"]


# --- previews


@pytest.mark.parametrize(
    ("steps", "stride"),
    [(1, 1), (2, 1), (3, 1), (4, 1), (8, 1), (9, 1), (12, 2), (20, 2), (50, 6), (1000, 125)],
)
def test_about_eight_previews_a_run(steps, stride):
    assert PreviewOptions().effective_stride(steps) == stride


def test_never_more_than_a_dozen_previews_by_default():
    for steps in range(1, 1001):
        assert 1 <= steps // PreviewOptions().effective_stride(steps) <= 12


def test_a_stride_of_the_callers():
    assert PreviewOptions(stride=7).effective_stride(4) == 7


def test_names_of_methods_and_formats():
    options = PreviewOptions(method="vae", format="webp")
    assert (options.method, options.format) == (PreviewMethod.VAE, PreviewFormat.WEBP)
    assert PreviewOptions().method is PreviewMethod.AUTO


def test_bad_preview_options_of_a_request_are_named_with_it():
    assert "previews stride must be greater than or equal to 1, not 0" in str(refused(previews={"stride": 0}))


def test_a_picture_of_the_wrong_type_is_refused_in_plain_words():
    error = refused(init_image=3)
    assert str(error).endswith("init_image must be a path or the bytes of an image file, not 3.")
