"""Which memory flags are tried with which engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.binaries import VARIANTS, parse_help
from sdmanager.engine.combinations import COMBINATIONS_MAX, combinations
from sdmanager.engine.model_arguments import FLASH_VARIANTS
from sdmanager.generation import MemoryPlan
from sdmanager.models import Family

HELP = Path(__file__).parents[1] / "data" / "help"
OLD = parse_help((HELP / "pypi-0.4.7.txt").read_text()).supports
NEW = parse_help((HELP / "master-97d2990.txt").read_text()).supports


def keys(supports: Callable[[str], bool], on_gpu: bool | None, **options: object) -> list[str]:
    family = options.pop("family", None)
    return [plan.key for plan in combinations(supports, on_gpu, family, **options)]  # type: ignore[arg-type]


def test_on_the_cpu_only_what_saves_ram() -> None:
    assert keys(OLD, False) == ["plain", "diffusion-fa", "vae-tiling", "vae-tiling,diffusion-fa"]


def test_on_a_graphics_card_weights_and_work_may_go_to_the_cpu() -> None:
    cpu = keys(NEW, False)
    on_card = ["clip-on-cpu", "offload-to-cpu", "offload-to-cpu,vae-tiling"]
    assert keys(NEW, True) == [*cpu, *on_card, "offload-to-cpu,vae-tiling,diffusion-fa,stream-layers"]


def test_what_an_engine_lacks_is_left_out() -> None:
    assert not OLD("--stream-layers")
    assert keys(OLD, True)[-1] == "offload-to-cpu,vae-tiling,diffusion-fa"
    assert keys(lambda flag: False, True) == ["plain"]
    assert keys(lambda flag: flag in {"--offload-to-cpu", "--stream-layers"}, True) == [
        "plain",
        "offload-to-cpu",
        "offload-to-cpu,stream-layers",
    ]
    assert keys(lambda flag: flag == "--stream-layers", True) == ["plain"]


@pytest.mark.parametrize("flag", ["--backend", "--clip-on-cpu"])
def test_a_text_encoder_goes_to_the_cpu_by_either_flag(flag: str) -> None:
    assert keys(lambda name: name == flag, True) == ["plain", "clip-on-cpu"]


def test_shared_memory_is_like_the_cpu() -> None:
    assert keys(NEW, True, unified=True) == keys(NEW, False)


def test_of_the_users_own_engine_all_is_tried() -> None:
    assert keys(NEW, None) == keys(NEW, True)


def test_flash_attention_that_is_on_by_itself_is_tried_off() -> None:
    tried = keys(NEW, True, family=Family.QWEN_IMAGE, fast_attention=True)
    assert tried[:3] == ["plain", "no-diffusion-fa", "vae-tiling"]
    assert not any("diffusion-fa" in key for key in tried[2:])
    assert "diffusion-fa" in keys(NEW, True, family=Family.SDXL, fast_attention=True)
    assert "diffusion-fa" in keys(NEW, True, family=Family.QWEN_IMAGE)


def test_what_has_no_vae_is_not_tiled() -> None:
    assert not any("tiling" in key for key in keys(NEW, True, family=Family.CHROMA_RADIANCE))


FLAGS = (
    "--offload-to-cpu",
    "--clip-on-cpu",
    "--backend",
    "--vae-tiling",
    "--diffusion-fa",
    "--stream-layers",
)


@given(
    known=st.frozensets(st.sampled_from(FLAGS)),
    on_gpu=st.sampled_from([None, True, False]),
    family=st.sampled_from([None, *Family]),
    variant=st.sampled_from(VARIANTS),
)
def test_there_are_few_and_each_is_possible(
    known: frozenset[str], on_gpu: bool | None, family: Family | None, variant: str
) -> None:
    plans = combinations(
        known.__contains__,
        on_gpu,
        family,
        fast_attention=variant in FLASH_VARIANTS,
        unified=variant == "metal",
    )
    assert plans[0] == MemoryPlan()
    assert len(set(plans)) == len(plans) <= COMBINATIONS_MAX
    for plan in plans:
        for flag in plan.flags:
            needed = {"--clip-on-cpu": {"--clip-on-cpu", "--backend"}}.get(
                flag, {flag.replace("--no-", "--")}
            )
            assert needed & known
        assert plan.offload_to_cpu or not plan.stream_layers
