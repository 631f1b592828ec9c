"""What the user is told to do about a model that the engine refuses."""

from __future__ import annotations

import pytest

from sdmanager.engine.model_failures import explain_model
from sdmanager.engine.reasons import Diary
from sdmanager.errors import ModelComponentMissingError, ModelCorruptError, ModelError, ModelNotFoundError


def explain(*errors: str, warnings: tuple[str, ...] = ()) -> ModelError:
    error = explain_model(Diary(errors=list(errors), warnings=list(warnings)), {})
    assert error is not None
    assert error.message.endswith(".")
    assert (error.hint or "").endswith(".")
    return error


@pytest.mark.parametrize(
    ("tensor", "flag"),
    [
        ("text_encoders.llm.visual.blocks.0.attn.qkv.weight", "--llm-vision"),
        ("text_encoders.llm.model.norm.weight", "--llm"),
    ],
)
def test_the_parts_of_a_language_model_are_told_apart(tensor: str, flag: str) -> None:
    error = explain(f"tensor '{tensor}' not in model file")
    assert type(error) is ModelComponentMissingError
    assert f"with {flag}, or get" in (error.hint or "")


def test_a_missing_part_can_be_given_or_pulled() -> None:
    hint = explain(
        "tensor 'text_encoders.clip_l.x' not in model file", "tensor 'vae.x' not in model file"
    ).hint
    assert hint == (
        "Give the missing file too, with --clip-l and --vae, or get a model with all of its files by "
        "'sdmanager models pull NAME'."
    )


def test_a_damaged_file_is_found_by_verifying() -> None:
    for error in (
        explain("read tensor data failed"),
        explain(warnings=("unknown format /m/x.gguf",)),
    ):
        assert type(error) is ModelCorruptError
        assert "sdmanager models verify" in (error.hint or "")


def test_a_file_that_is_gone_can_be_pulled_again() -> None:
    error = explain(warnings=("file /m/x.gguf not found",))
    assert type(error) is ModelNotFoundError
    assert "sdmanager models pull" in (error.hint or "")
