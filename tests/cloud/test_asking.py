"""What a service is asked, and what it is not."""

from __future__ import annotations

import pytest

from sdmanager.cloud import HuggingFaceGenerator
from sdmanager.cloud._asking import Target, check_request, parameters_of
from sdmanager.errors import InvalidRequestError
from sdmanager.generation import ImageRequest, Lora, PreviewOptions

TARGET = Target.of("org/model", "auto")


def parameters(**fields: object) -> dict:
    request = ImageRequest(prompt="x", **fields)
    check_request(request, TARGET)
    return parameters_of(request.with_defaults().with_seed())


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, {}),
        ({"seed": 3, "count": 2, "previews": PreviewOptions()}, {}),
        ({"model_id": "org/model"}, {}),
        ({"steps": 20}, {"num_inference_steps": 20}),
        ({"preset": "fast"}, {"num_inference_steps": 10}),
        ({"preset": "fast", "steps": 3}, {"num_inference_steps": 3}),
        ({"preset": "default"}, {}),
        ({"cfg_scale": 7.5}, {"guidance_scale": 7.5}),
        ({"guidance": 3.5}, {"guidance_scale": 3.5}),
        ({"guidance": 3.5, "cfg_scale": 1.0}, {"guidance_scale": 3.5}),
        ({"guidance": None, "cfg_scale": 4.0}, {"guidance_scale": 4.0}),
        ({"negative_prompt": "y"}, {"negative_prompt": "y"}),
        ({"scheduler": "karras"}, {"scheduler": "karras"}),
        ({"width": 512}, {"width": 512}),
        ({"height": 64}, {"height": 64}),
        ({"width": 512, "height": 64}, {"width": 512, "height": 64}),
        ({"strength": 0.5}, {}),
        ({"init_image": b"x"}, {}),
        ({"init_image": b"x", "strength": 0.75}, {"strength": 0.75}),
    ],
    ids=str,
)
def test_only_what_the_caller_said_is_asked(fields, asked):
    assert parameters(**fields) == asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init_image": b"x", "mask_image": b"y"}, "A mask"),
        ({"loras": [Lora(name="a")]}, "A LoRA"),
        ({"prompt": "a cat <lora:ink:0.5>"}, "A LoRA"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"model_id": "org/other"}, "one model"),
        ({"model_id": "demo"}, "one model"),
        ({"sampler": "euler"}, "A sampler"),
        ({"cfg_scale": 7.5, "guidance": 3.5}, "one guidance scale"),
        ({"prompt": "\udcff"}, "no UTF-8"),
        ({"negative_prompt": "\udcff"}, "no UTF-8"),
    ],
    ids=str,
)
async def test_what_would_be_dropped_is_refused(fields, words):
    request = ImageRequest(**{"prompt": "x", **fields})
    generator = HuggingFaceGenerator("org/model", token="hf_x")
    with pytest.raises(InvalidRequestError, match=words) as caught:
        await generator.generate(request)
    assert caught.value.hint
    assert caught.value.details["fields"]
    with pytest.raises(InvalidRequestError, match=words):
        generator.check(request)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("https://user:secret@a.example.com/x?key=secret#secret", "https://a.example.com/x"),
        ("HTTPS://a.example.com:8443/x", "https://a.example.com:8443/x"),
        ("http://[::1]:80/draw", "http://[::1]:80/draw"),
        ("http://127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_an_endpoint_is_shown_without_secrets(model, shown):
    target = Target.of(model, "auto")
    assert (target.name, target.variant, target.is_endpoint) == (shown, "endpoint", True)
    assert target.model.startswith(("http://", "https://"))
    assert "secret" not in repr(HuggingFaceGenerator(model))


@pytest.mark.parametrize(
    "model", [None, 5, b"a/b", "", " ", "http://", "https:///x", "http://[", "http://a:port/", "http://:80"]
)
def test_no_model(model):
    with pytest.raises(InvalidRequestError) as caught:
        HuggingFaceGenerator(model)
    assert caught.value.hint


@pytest.mark.parametrize("provider", ["", " ", None, 5])
def test_no_provider(provider):
    with pytest.raises(InvalidRequestError):
        HuggingFaceGenerator("a/b", provider=provider)


NUMBERS = [True, False, "120", b"1", [], 0, -1, float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout": value} for value in (None, *NUMBERS)),
        *({"default_steps": value} for value in (4.0, 1001, *NUMBERS)),
        *({name: value} for name in ("token", "bill_to") for value in (True, False, b"hf_secret", 5, [])),
        *(
            {name: value}
            for name in ("token", "bill_to")
            for value in (
                "hf_secret\nx",
                "hf_secret x",
                "hf_secret\0",
                "hf_secretä",
                '"hf_secret"\x7f',
                "\udcffsecret",
            )
        ),
    ],
    ids=ascii,
)
def test_what_no_generator_can_be_made_with(options):
    """Otherwise each became another error at the first picture, or sent the user's own token."""
    with pytest.raises(InvalidRequestError) as caught:
        HuggingFaceGenerator("a/b", **options)
    assert next(iter(options)) in caught.value.message
    assert caught.value.hint
    assert "secret" not in f"{caught.value.message} {caught.value.hint} {caught.value.details}"


def test_what_a_generator_can_be_made_with():
    for options in (
        {"timeout": 5},
        {"timeout": 0.5},
        {"default_steps": 1},
        {"default_steps": 1000},
        {"token": ""},
    ):
        HuggingFaceGenerator("a/b", **options)


@pytest.mark.parametrize(
    ("model", "may"),
    [
        ("org/model", True),
        ("https://abc.us-east-1.aws.endpoints.huggingface.cloud", True),
        ("https://huggingface.co/x", True),
        ("http://abc.endpoints.huggingface.cloud", False),
        ("https://huggingface.co.evil.example.com/", False),
        ("https://evilhuggingface.co/", False),
        ("https://huggingface.co@evil.example.com/", False),
        ("http://127.0.0.1:8000/", False),
    ],
)
def test_where_the_users_own_token_may_go(model, may):
    assert Target.of(model, "auto").may_have_saved_token is may
