"""What fields mean: pure."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import ImageRequest
from sdmanager.server.openai.order import Operation, Output, from_texts, order_of, speaks_openai
from sdmanager.server.openai.partials import Partials, due_steps, stride_for

PROMPT = {"prompt": "a cat"}


def order(**fields):
    return order_of({**PROMPT, **fields}, Operation.GENERATION)


def drawn(**fields) -> ImageRequest:
    return order(**fields).request({})


@pytest.mark.parametrize(
    ("quality", "preset", "said"),
    [("low", "fast", "low"), ("medium", "default", "medium"), ("standard", "default", "medium"),
     ("auto", "default", "medium"), (None, "default", "medium"), ("hd", "high-quality", "high"),
     ("high", "high-quality", "high")],
)  # fmt: skip
def test_quality_is_how_many_steps(quality, preset, said) -> None:
    assert drawn(quality=quality).preset == preset
    assert order(quality=quality).quality == said
    assert drawn(quality=quality).with_defaults(steps=8).steps == {"low": 4, "medium": 8, "high": 16}[said]
    assert drawn(quality=quality, steps=3).with_defaults(steps=8).steps == 3


def test_our_fields_go_by_either_kind_of_name() -> None:
    snake = drawn(
        negative_prompt="fog", cfg_scale=2, clip_skip=2, sampler="euler", guidance=3.5, scheduler="karras"
    )
    camel = drawn(
        negativePrompt="fog", cfgScale=2, clipSkip=2, sampler_name="euler", guidance=3.5, scheduler="karras"
    )
    assert snake == camel
    assert (snake.negative_prompt, snake.cfg_scale, snake.clip_skip, snake.sampler) == ("fog", 2, 2, "euler")
    assert drawn(step=5).steps == drawn(steps=5, step=9).steps == 5


def test_size_and_its_parts() -> None:
    assert (drawn(size="128x64").width, drawn(size="128x64").height) == (128, 64)
    assert not drawn(size="auto").model_fields_set & {"width", "height"}
    both = drawn(size="128x64", width=256)
    assert (both.width, both.height) == (256, 64)


def test_strength_is_nothing_without_a_picture() -> None:
    assert drawn(strength=0.5).strength == ImageRequest(prompt="x").strength
    edit = order_of({**PROMPT, "strength": 0.5}, Operation.EDIT)
    assert edit.fields["strength"] == 0.5


def test_what_is_absent_has_its_default() -> None:
    assert order().output == Output("png", None)
    assert (order().stream, order().partial_images, order().model) == (False, 0, None)
    assert order(partial_images=3).partial_images == 0
    assert order(partial_images=3, stream=True).partial_images == 3
    assert order_of({}, Operation.VARIATION).request({}).prompt.strip()


def test_whole_numbers_may_have_a_point() -> None:
    made = drawn(n=2.0, steps=20.0, seed=7.0, clip_skip=2.0, width=64.0, height=128.0)
    assert (made.count, made.steps, made.seed, made.clip_skip) == (2, 20, 7, 2)
    assert (made.width, made.height) == (64, 128)
    assert order(stream=True, partial_images=1.0, output_compression=50.0).output == Output("png", 50)
    for fields in ({"n": 2.5}, {"n": math.inf}, {"n": math.nan}, {"steps": 2.5}):
        with pytest.raises(InvalidRequestError):
            drawn(**fields)


def test_an_empty_choice_is_none() -> None:
    names = ["size", "quality", "response_format", "background", "output_format", "style", "user", "model"]
    names += ["moderation", "sampler", "sampler_name", "scheduler"]
    assert order(**dict.fromkeys(names, "")) == order()
    assert drawn(sampler="", sampler_name="euler").sampler == "euler"
    assert drawn(negative_prompt="").negative_prompt == ""
    for name in ("prompt", "n", "steps", "stream"):
        with pytest.raises(InvalidRequestError):
            drawn(**{name: ""})


@pytest.mark.parametrize(
    ("body", "says"),
    [({}, False), (PROMPT, False), ({"model": None}, True), ({"n": 1, "count": 1}, False),
     ({"steps": 4, "seed": 1}, False), ({"size": "1x1", "previews": None}, False), ({"moderation": "low"}, True)],
)  # fmt: skip
def test_a_body_says_whose_it_is(body, says) -> None:
    assert speaks_openai(body) is says


def test_texts_of_a_form() -> None:
    texts = {
        "n": "2",
        "stream": "true",
        "strength": "0.6",
        "prompt": "12",
        "user": "7",
        "steps": "",
        "seed": "x",
    }
    assert from_texts(texts) == {
        "n": 2, "stream": True, "strength": 0.6, "prompt": "12", "user": "7", "seed": "x",
    }  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    "prompt",
    "model",
    "n",
    "size",
    "quality",
    "stream",
    "partial_images",
    "output_format",
    "steps",
    "loras",
]
NAMES += [
    "output_compression",
    "background",
    "seed",
    "cfg_scale",
    "width",
    "sampler",
    "strength",
    "user",
    "clip_skip",
]


@given(
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=6),
    st.sampled_from(Operation),
)
def test_whatever_comes_is_a_request_or_an_error_of_the_clients(fields, operation) -> None:
    with contextlib.suppress(InvalidRequestError):  # and nothing else
        order_of({**PROMPT, **fields}, operation).request({})


# Partial images


@pytest.mark.parametrize(
    ("steps", "count", "due"),
    [(20, 1, [10]), (20, 3, [5, 10, 15]), (4, 3, [1, 2, 3]), (3, 3, [1, 2, 3]), (2, 3, [1, 2]), (1, 1, [1]),
     (8, 2, [2, 6]), (1000, 2, [333, 666])],
)  # fmt: skip
def test_partial_images_are_evenly_spread(steps, count, due) -> None:
    assert due_steps(steps, count) == due


@given(st.integers(1, 1000), st.integers(1, 3))
def test_as_many_as_asked_for_wherever_there_are_steps(steps, count) -> None:
    due = due_steps(steps, count)
    assert len(due) == min(count, steps)
    assert due == sorted(set(due))
    assert due[0] >= 1
    assert due[-1] < steps or steps <= count
    # Each has a preview of its own.
    assert all(step % stride_for(steps, count) == 0 for step in due)


@given(st.integers(1, 60), st.integers(0, 3), st.data())
def test_previews_that_come_late_or_never_count_once(steps, count, data) -> None:
    partials, taken = Partials(count), []
    came = data.draw(st.sets(st.integers(1, steps)))
    for image in (1, 2):
        shown = [partials.take(image, step, steps) for step in sorted(came)]
        taken.append([index for index in shown if index is not None])
    assert taken[0] == taken[1] == list(range(len(taken[0])))
    assert len(taken[0]) <= count
    if len(came) == steps:
        assert len(taken[0]) == min(count, steps)
