"""Reading a build's own help text. The expected lists were written by hand from the recorded texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmanager.binaries import Capabilities, parse_help


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


HELP = Path(__file__).parents[1] / "data" / "help"

SAMPLERS_PYPI = words(
    "euler euler_a heun dpm2 dpm++2s_a dpm++2m dpm++2mv2 ipndm ipndm_v lcm ddim_trailing tcd res_multistep"
    " res_2s er_sde"
)
SAMPLERS_MASTER = (
    *SAMPLERS_PYPI,
    *words("euler_cfg_pp euler_a_cfg_pp euler_ge dpm++2m_sde dpm++2m_sde_bt lms"),
)
SCHEDULERS_PYPI = words(
    "discrete karras exponential ays gits smoothstep sgm_uniform simple kl_optimal lcm bong_tangent"
)
SCHEDULERS_MASTER = words(
    "discrete karras exponential ays gits sgm_uniform simple smoothstep kl_optimal lcm bong_tangent ltx2"
    " logit_normal flux2 flux beta"
)


def recorded(name: str) -> Capabilities:
    return parse_help((HELP / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.fixture(params=["pypi-0.4.7", "master-97d2990"])
def capabilities(request: pytest.FixtureRequest) -> Capabilities:
    return recorded(request.param)


def test_lists_of_the_pypi_build() -> None:
    read = recorded("pypi-0.4.7")
    assert read.samplers == SAMPLERS_PYPI
    assert read.schedulers == SCHEDULERS_PYPI
    assert read.preview_methods == ("none", "proj", "tae", "vae")
    assert read.modes == ("img_gen", "vid_gen", "upscale", "convert", "metadata")


def test_lists_of_the_master_build() -> None:
    read = recorded("master-97d2990")
    assert read.samplers == SAMPLERS_MASTER
    assert read.schedulers == SCHEDULERS_MASTER
    assert read.preview_methods == ("none", "proj", "tae", "vae")
    assert read.modes == ("img_gen", "adetailer", "vid_gen", "upscale", "convert", "metadata")


@pytest.mark.parametrize(
    "flag",
    words(
        "-m --model --diffusion-model --clip_l --clip_g --t5xxl --llm --llm_vision --vae --taesd --tae"
        " -o --output -p --prompt -n --negative-prompt -s --seed -b --batch-count -W --width -H --height"
        " --steps --cfg-scale --sampling-method --scheduler --clip-skip -i --init-img --mask --strength"
        " --preview --preview-path --preview-interval --taesd-preview-only --offload-to-cpu --diffusion-fa"
        " --vae-tiling --max-vram --mmap --lora-model-dir --color -v --verbose -h --help"
        " --metadata-format -t --threads --rng -M --mode"
    ),
)
def test_flags_of_both_builds(capabilities: Capabilities, flag: str) -> None:
    assert capabilities.supports(flag)


@pytest.mark.parametrize(
    "flag",
    words(
        "--backend --params-backend --auto-fit --list-devices --eager-load --stream-layers --rpc-servers"
        " --prompt-file --negative-prompt-file --temporal-tiling"
    ),
)
def test_flags_only_of_the_master_build(flag: str) -> None:
    assert recorded("master-97d2990").supports(flag)
    assert not recorded("pypi-0.4.7").supports(flag)


@pytest.mark.parametrize(
    "flag", ["--chroma-disable-dit-mask", "--chroma-t5-mask-pad", "--qwen-image-zero-cond-t"]
)
def test_flags_only_of_the_pypi_build(flag: str) -> None:
    assert recorded("pypi-0.4.7").supports(flag)
    assert not recorded("master-97d2990").supports(flag)


def test_flags_in_descriptions_are_not_options() -> None:
    read = parse_help("Options:\n  --real <int>     a number; see\n           --mentioned, -x and --other\n")
    assert read.flags == {"--real"}


def test_lists_in_braces_and_values_in_brackets() -> None:
    read = parse_help(
        "arguments:\n"
        "  --sampling-method {euler, euler_a,\n"
        "                     dpm++2m}  sampling method (default: euler)\n"
        "  --schedule {discrete, karras}      denoiser\n"
    )
    assert read.samplers == ("euler", "euler_a", "dpm++2m")
    assert read.schedulers == ("discrete", "karras")


def test_flags_under_another_heading_are_kept_apart() -> None:
    read = parse_help("A:\n  --scheduler   one of\n\nB:\n  --mode   one of [x]\n")
    assert read.schedulers == ()
    assert read.modes == ("x",)


@pytest.mark.parametrize("text", ["", "\n\n", "usage: tar [OPTION...] [FILE]...\n", "\x00\xff"])
def test_foreign_text_has_no_capabilities(text: str) -> None:
    assert parse_help(text) == Capabilities()


def test_json_round_trip(capabilities: Capabilities) -> None:
    assert Capabilities.from_json(json.loads(json.dumps(capabilities.to_json()))) == capabilities


@pytest.mark.parametrize("data", [None, 3, [], {}, {"flags": "x"}, {"flags": [1]}])
def test_foreign_json_is_refused(data: object) -> None:
    assert Capabilities.from_json(data) is None
