"""Names as people type them: cut short, misspelt, and their own."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError, ModelNotFoundError
from sdmanager.models.catalog import load_catalog
from sdmanager.models.names import NAME_MAX, check_name, complete, suggest

NAMES = (
    "sd-1.5", "sd-1.5:q4_0", "sd-1.5:f32", "sd-turbo", "sd-turbo:q8_0", "sdxl-base", "z-image-turbo",
    "z-image-turbo:q3_k", "z-image-turbo:q4_k", "z-image-turbo:q4_k_m", "flux2-klein", "flux2-klein:q4_0",
    "flux2-klein-9b", "flux2-klein-9b:q4_0", "demo", "Mine", "other:only",
)  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sd-1.5", "sd-1.5"),
        ("sd-1.5:q4_0", "sd-1.5:q4_0"),
        ("SD-1.5:Q4_0", "sd-1.5:q4_0"),
        (" sd-turbo ", "sd-turbo"),
        ("sd-1", "sd-1.5"),
        ("z", "z-image-turbo"),
        ("z-im:q3", "z-image-turbo:q3_k"),
        ("mine", "Mine"),
        ("m", "Mine"),
        ("flux2-klein", "flux2-klein"),
        ("flux2-klein:q4", "flux2-klein:q4_0"),
        ("flux2-klein-", "flux2-klein-9b"),
        ("oth", "other:only"),
        ("sd:f", "sd-1.5:f32"),
        ("z-image-turbo:q4_k_m", "z-image-turbo:q4_k_m"),
    ],
)
def test_a_clear_name_is_completed(typed, meant):
    assert complete(typed, NAMES) == meant


@pytest.mark.parametrize(
    ("typed", "candidates"),
    [
        ("sd", ["sd-1.5", "sd-turbo", "sdxl-base"]),
        ("sd-", ["sd-1.5", "sd-turbo"]),
        ("flux", ["flux2-klein", "flux2-klein-9b"]),
        ("sd-1.5:", ["sd-1.5:q4_0", "sd-1.5:f32"]),
        ("z-im:q4", ["z-image-turbo:q4_k", "z-image-turbo:q4_k_m"]),
    ],
)
def test_an_unclear_one_is_answered_with_what_it_may_mean(typed, candidates):
    with pytest.raises(ModelNotFoundError) as caught:
        complete(typed, NAMES)
    assert caught.value.details["candidates"] == candidates
    assert all(repr(name) in caught.value.hint for name in candidates)
    assert repr(typed) in caught.value.message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sd-trubo", "sd-turbo"),
        ("sdturbo", "sd-turbo"),
        ("SDXL_BASE", "sdxl-base"),
        ("zimage-turbo", "z-image-turbo"),
        ("flux-klein", "flux2-klein"),
        ("deno", "demo"),
        ("sd-1.5:q40", "sd-1.5:q4_0"),
        ("sd-trubo:q8_0", "sd-turbo:q8_0"),
        ("z-image-turbo:q3k", "z-image-turbo:q3_k"),
    ],
)
def test_a_typo_is_answered_with_the_name_that_was_meant(typed, meant):
    assert suggest(typed, NAMES) == meant
    with pytest.raises(ModelNotFoundError) as caught:
        complete(typed, NAMES)
    assert caught.value.hint == f"Did you mean {meant!r}?"
    assert caught.value.details["suggestion"] == meant


def test_an_option_that_there_is_not_is_answered_with_those_of_the_model():
    with pytest.raises(ModelNotFoundError) as caught:
        complete("sd-1.5:bf16x", ["sd-1.5", "sd-1.5:q4_0", "sd-1.5:f32", "sd-turbo"])
    assert caught.value.hint == "There is 'sd-1.5:q4_0', 'sd-1.5:f32'."


def test_a_model_of_which_only_an_option_is_there_is_meant_as_much_as_another():
    with pytest.raises(ModelNotFoundError, match="beginning of 2") as caught:
        complete("ot", ["other:only", "otter"])
    assert caught.value.details["candidates"] == ["other:only", "otter"]


def test_what_is_like_nothing_is_answered_with_what_there_is():
    with pytest.raises(ModelNotFoundError) as caught:
        complete("/home/me/0123", NAMES)
    assert caught.value.hint.startswith("There is 'sd-1.5', 'sd-turbo', ")
    assert ":q" not in caught.value.hint


def test_a_long_list_is_cut():
    with pytest.raises(ModelNotFoundError, match="There is no LoRA named 'x'") as caught:
        complete("x", [f"name-{n}" for n in range(50)], what="LoRA")
    assert caught.value.hint.endswith("'name-7' and 42 more.")


@pytest.mark.parametrize("typed", ["", "  ", ":", "x" * 10_000, "\0", "\ud800"])
def test_odd_names_are_not_found(typed):
    with pytest.raises(ModelNotFoundError) as caught:
        complete(typed, NAMES)
    assert len(caught.value.message) < 300
    with pytest.raises(ModelNotFoundError, match="There is no model named"):
        complete(typed, [])


def answer_to(typed: str, names: Iterable[str]) -> str | ModelNotFoundError:
    try:
        return complete(typed, names)
    except ModelNotFoundError as exc:
        return exc


@given(st.text(max_size=200), st.lists(st.sampled_from(NAMES), max_size=6))
def test_whatever_is_typed_gives_one_of_the_names_or_the_error(typed, names):
    found = answer_to(typed, names)
    assert found.hint if isinstance(found, ModelNotFoundError) else found in names


@given(st.sampled_from(load_catalog().names), st.data())
def test_the_beginning_of_a_name_never_means_another_model(name, data):
    typed = name[: data.draw(st.integers(1, len(name)))]
    found = answer_to(typed, load_catalog().names)
    if isinstance(found, ModelNotFoundError):
        assert any(name.startswith(candidate) for candidate in found.details["candidates"])
    else:
        assert name.startswith((found, typed))
        assert found.startswith(typed)


@pytest.mark.parametrize(
    "name", ["a", "sd-1.5", "My_Model.v2", "x:q4_0", "_x", "0", "x" * NAME_MAX, "demo-2", "console"]
)
def test_names_of_ones_own(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", ".hidden", "-rf", "a/b", "a\\b", "../x", "a b", "a:", ":a", "a:b:c", "a:.b", "a:-b", "x.",
        "a.:b", "x" * (NAME_MAX + 1), "demo", "Demo", "demo:q4_0", "con", "NUL", "com1.x", "lpt9", "x:aux", "ä", "a\n",
        "a\0", "~", "C:\\x", "%x", "a*",
    ],
)  # fmt: skip
def test_names_that_no_model_can_have(name):
    with pytest.raises(InvalidRequestError) as caught:
        check_name(name)
    assert caught.value.hint
    assert len(caught.value.message) < 250
