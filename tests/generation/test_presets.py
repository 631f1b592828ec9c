"""How many steps a preset takes, and when it has a say."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError
from sdmanager.generation import GenerationPreset, ImageRequest

FAST, HIGH = GenerationPreset.FAST, GenerationPreset.HIGH_QUALITY


@pytest.mark.parametrize(
    ("usual", "fast", "high"),
    [
        (1, 1, 2),
        (2, 1, 4),
        (3, 2, 6),
        (4, 2, 8),
        (20, 10, 40),
        (500, 250, 1000),
        (501, 251, 1000),
        (1000, 500, 1000),
    ],
)
def test_half_or_twice_the_steps(usual, fast, high):
    assert (FAST.steps(usual), HIGH.steps(usual)) == (fast, high)
    assert GenerationPreset.DEFAULT.steps(usual) == usual


@given(st.integers(1, 1000), st.sampled_from(GenerationPreset))
def test_steps_of_a_preset_can_be_asked_for(usual, preset):
    assert ImageRequest(prompt="x", steps=preset.steps(usual)).steps >= 1


def test_names():
    assert [preset.value for preset in GenerationPreset] == ["default", "high-quality", "fast"]
    assert ImageRequest(prompt="x").preset is GenerationPreset.DEFAULT
    assert ImageRequest(prompt="x", preset="fast").preset is FAST
    assert ImageRequest.model_validate_json('{"prompt": "x", "preset": "high-quality"}').preset is HIGH
    with pytest.raises(InvalidRequestError, match="preset must be 'default', 'high-quality' or 'fast'"):
        ImageRequest(prompt="x", preset="quick")


def test_a_preset_changes_the_models_steps():
    request = ImageRequest(prompt="x", preset="fast")
    assert request.with_defaults(steps=8).steps == 4
    assert request.with_defaults(cfg_scale=1.0).steps == 10  # of 20, where the model has no opinion
    assert request.steps == 20


def test_steps_of_the_callers_win():
    assert ImageRequest(prompt="x", preset="fast", steps=20).with_defaults(steps=8).steps == 20


@pytest.mark.parametrize("first", [{"steps": 40}, {"count": 2}, {}])
@pytest.mark.parametrize("second", [{"steps": 40}, {"count": 2}, {}])
def test_a_preset_has_effect_once(first, second):
    """A service gives defaults of its own before the engine gives the model's."""
    request = ImageRequest(prompt="x", preset="fast").with_defaults(**first).with_seed()
    request = request.with_defaults(**second).model_copy(update={"width": 64}).with_defaults()
    assert request.steps == (20 if "steps" in {**first, **second} else 10)
    assert "steps" not in request.model_fields_set


def test_it_is_not_remembered_where_no_preset_is_given():
    assert ImageRequest(prompt="x").with_defaults(steps=4) == ImageRequest(prompt="x", steps=4)


def test_a_request_with_a_preset_survives_being_stored():
    request = ImageRequest(prompt="x", preset="fast").with_defaults(steps=8)
    assert pickle.loads(pickle.dumps(request)).with_defaults().steps == 4
    stored = request.model_dump_json(by_alias=True, exclude_unset=True)
    assert ImageRequest.model_validate_json(stored).with_defaults(steps=8).steps == 4
