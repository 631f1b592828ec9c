"""What makes a file a LoRA: at least half of its tensors are factors of a change."""

from __future__ import annotations

import pytest

from sdmanager.models import Family
from sdmanager.models._loras import is_lora, lora_family


def tensors(factors: int, alphas: int, others: int) -> dict[str, tuple[int, ...]]:
    names = [f"unet.{n}.lora_up.weight" for n in range(factors)]
    names += [f"unet.{n}.alpha" for n in range(alphas)] + [f"unet.{n}.weight" for n in range(others)]
    return dict.fromkeys(names, (4, 8))


@pytest.mark.parametrize(
    ("factors", "alphas", "others", "expected"),
    [
        (1, 0, 0, True),
        (4, 0, 4, True),
        (4, 0, 5, False),
        (2, 2, 4, True),
        (2, 2, 5, False),
        (0, 4, 0, False),
        (0, 0, 4, False),
    ],
)
def test_half_of_it_makes_a_lora(factors, alphas, others, expected):
    """A model with a LoRA merged beside it is still a model."""
    assert is_lora(tensors(factors, alphas, others)) is expected


def test_the_family_that_a_text_key_shows():
    shapes = {"unet.1.attn2.to_k.lora_down.weight": (4, 2048)}
    assert lora_family(shapes) is Family.SDXL
    assert lora_family({"unet.1.attn2.to_k.lora_down.weight": (4, 7)}) is None
