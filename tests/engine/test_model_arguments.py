"""What a model's family asks the engine for, against what two builds say in their own help."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from sdmanager.binaries import Capabilities, EngineBinary, parse_help
from sdmanager.engine.arguments import build_invocation, choose_preview_method
from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.run import Run
from sdmanager.errors import EngineArgumentError, InvalidRequestError
from sdmanager.generation import ImageRequest, MemoryPlan, PreviewMethod, PreviewOptions
from sdmanager.models import Family, ModelDefaults, ModelFiles, Role, traits_of
from sdmanager.settings import Settings

HELP = Path(__file__).parents[1] / "data" / "help"
OLD, NEW = "pypi-0.4.7", "master-97d2990"
WHOLE, DIFFUSION = Role.MODEL, Role.DIFFUSION_MODEL


@cache
def build(name: str) -> Capabilities:
    return parse_help((HELP / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.fixture(params=[OLD, NEW])
def capabilities(request: pytest.FixtureRequest) -> Capabilities:
    return build(request.param)


def without(capabilities: Capabilities, *flags: str) -> Capabilities:
    return Capabilities.from_json(
        {**capabilities.to_json(), "flags": sorted(capabilities.flags - set(flags))}
    )


def model_of(
    family: Family | None, *roles: Role, defaults: ModelDefaults | None = None, name: str = "test"
) -> ModelFiles:
    files = {role: Path(f"/m/{role}") for role in roles or (WHOLE,)}
    return ModelFiles(name, files, defaults or ModelDefaults(), family)


def arguments(
    capabilities: Capabilities,
    model: ModelFiles,
    *,
    plan: MemoryPlan | None = None,
    on_gpu: bool = False,
    fast_attention: bool = False,
    **fields: object,
) -> tuple[str, ...]:
    """As a run makes them: the model's defaults first."""
    request = ImageRequest(prompt="a cat", seed=7, **fields).with_defaults(**model.defaults.as_fields())
    invocation = build_invocation(
        request, model, plan or MemoryPlan(), capabilities, on_gpu=on_gpu, fast_attention=fast_attention
    )
    return invocation.arguments


def value(args: tuple[str, ...], flag: str) -> str:
    assert args.count(flag) == 1, (flag, args)
    return args[args.index(flag) + 1]


# --- every family

PARTS = {family: (DIFFUSION, *sorted(traits_of(family).parts)) for family in Family}


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("whole", [False, True], ids=["parts", "whole"])
@pytest.mark.parametrize("family", [*Family, None])
def test_each_flag_is_one_that_the_build_has(
    capabilities: Capabilities, family: Family | None, whole: bool, on_gpu: bool
) -> None:
    parts = PARTS[family] if family is not None else (DIFFUSION, Role.VAE)
    roles = (WHOLE, Role.VAE) if whole else parts
    defaults = traits_of(family).defaults if family is not None else ModelDefaults()
    model = model_of(family, *roles, Role.TAE, Role.LLM_VISION, defaults=defaults)
    for method in (None, "auto", "tae"):
        previews = PreviewOptions(method=method) if method else None
        args = arguments(
            capabilities,
            model,
            on_gpu=on_gpu,
            fast_attention=on_gpu,
            guidance=3.0,
            negative_prompt="a dog",
            previews=previews,
        )
        flags = [argument for argument in args if argument.startswith("-")]
        assert len(flags) == len(set(flags))
        assert capabilities.flags.issuperset(flags)


@pytest.mark.parametrize("family", [*Family, None])
def test_nothing_but_what_was_asked_for_fails_an_engine_that_lacks_the_families_flags(
    capabilities: Capabilities, family: Family | None
) -> None:
    bare = without(
        capabilities, "--diffusion-fa", "--flow-shift", "--guidance", "--force-sdxl-vae-conv-scale"
    )
    bare = Capabilities.from_json({**bare.to_json(), "samplers": ["euler_a"], "schedulers": ["discrete"]})
    defaults = ModelDefaults(guidance=3.5, sampler="euler", scheduler="karras")
    model = model_of(family, DIFFUSION, Role.LLM, Role.VAE, defaults=defaults)
    args = arguments(bare, model, on_gpu=True, fast_attention=True)
    assert bare.flags.issuperset(argument for argument in args if argument.startswith("-"))
    for flag, field in (
        ("--diffusion-fa", {"plan": MemoryPlan(diffusion_flash_attention=True)}),
        ("--guidance", {"guidance": 3.5}),
    ):
        takes = family is None or traits_of(family).takes_guidance
        if flag == "--guidance" and not takes:
            continue
        with pytest.raises(EngineArgumentError, match=flag):
            arguments(bare, model, **field)
    for field in ({"sampler": "euler"}, {"scheduler": "karras"}):
        with pytest.raises(InvalidRequestError, match="knows no"):
            arguments(bare, model, **field)


# --- the models of the catalogue, as their publishers and the engine's documents run them


def shared(steps: int, cfg: str, size: int) -> list[str]:
    return f"-W {size} -H {size} --steps {steps} --cfg-scale {cfg} --seed 7 --batch-count 1".split()


def defaults(steps: int, cfg: float, size: int, **others: object) -> ModelDefaults:
    return ModelDefaults(steps=steps, cfg_scale=cfg, width=size, height=size, **others)


def files(text: str) -> list[str]:
    return [word for pair in text.split() for word in (f"--{pair}", f"/m/{pair.replace('-', '_')}")]


FLUX_FILES = (DIFFUSION, Role.VAE, Role.CLIP_L, Role.T5XXL, Role.TAE)
LLM_FILES = (DIFFUSION, Role.VAE, Role.LLM)
FA = ["--diffusion-fa"]

# name: (family, files, defaults), then what stands in the arguments before the size, on a CPU and with CUDA.
CATALOGUE = {
    "sd-1.5": (Family.SD1, (WHOLE, Role.TAE), defaults(20, 7.5, 512), files("model"), [], []),
    "sd-turbo": (Family.SD2, (WHOLE, Role.TAE), defaults(4, 1.0, 512), files("model"), [], []),
    "sdxl-base": (Family.SDXL, (WHOLE, Role.TAE), defaults(30, 7.0, 1024), files("model"), [], []),
    "sdxl-base with a VAE": (
        Family.SDXL,
        (WHOLE, Role.VAE),
        defaults(30, 7.0, 1024),
        files("model vae"),
        ["--force-sdxl-vae-conv-scale"],
        ["--force-sdxl-vae-conv-scale"],
    ),
    "sdxl-turbo": (Family.SDXL, (WHOLE,), defaults(4, 1.0, 512), files("model"), [], []),
    "flux1-schnell": (
        Family.FLUX,
        FLUX_FILES,
        defaults(4, 1.0, 1024, sampler="euler"),
        files("diffusion-model vae clip_l t5xxl"),
        [],
        [],
    ),
    "flux1-dev": (
        Family.FLUX,
        FLUX_FILES,
        defaults(20, 1.0, 1024, guidance=3.5, sampler="euler"),
        files("diffusion-model vae clip_l t5xxl"),
        ["--guidance", "3.5"],
        ["--guidance", "3.5"],
    ),
    "flux2-klein": (
        Family.FLUX2,
        LLM_FILES,
        defaults(4, 1.0, 1024, sampler="euler"),
        files("diffusion-model vae llm"),
        [],
        FA,
    ),
    "z-image-turbo": (
        Family.Z_IMAGE,
        LLM_FILES,
        defaults(8, 1.0, 1024),
        files("diffusion-model vae llm"),
        [],
        FA,
    ),
    "qwen-image": (
        Family.QWEN_IMAGE,
        LLM_FILES,
        defaults(20, 2.5, 1024, sampler="euler"),
        files("diffusion-model vae llm"),
        ["--flow-shift", "3"],
        [*FA, "--flow-shift", "3"],
    ),
    "demo": (
        Family.OVIS_IMAGE,
        (DIFFUSION, Role.LLM, Role.TAE),
        defaults(12, 1.0, 256),
        files("diffusion-model llm tae"),
        [],
        FA,
    ),
}


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_whole_line_of_a_model(version: str, name: str) -> None:
    family, roles, suits, file_flags, on_cpu, with_cuda = CATALOGUE[name]
    model = model_of(family, *roles, defaults=suits, name=name)
    prompt = ["--prompt", "a cat"] if version == OLD else ["--prompt-file", "prompt.txt"]
    sampler = ["--sampling-method", "euler"] if suits.sampler else []
    size = shared(suits.steps or 0, f"{suits.cfg_scale:g}", suits.width or 0)
    end = ["--lora-model-dir", "loras", "--output", "o_%d.png"]
    for gpu, own in ((False, on_cpu), (True, with_cuda)):
        expected = [*file_flags, *own, *prompt, *size, *sampler, *end]
        assert list(arguments(build(version), model, on_gpu=gpu, fast_attention=gpu)) == expected


# --- flash attention

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LLM_FAMILIES = {
    Family.FLUX2,
    Family.QWEN_IMAGE,
    Family.Z_IMAGE,
    Family.OVIS_IMAGE,
    Family.ANIMA,
    Family.ERNIE_IMAGE,
}


@pytest.mark.parametrize("family", [*Family, None])
@pytest.mark.parametrize("variant", ["cpu", "cuda", "rocm", "vulkan", "metal", "custom"])
def test_flash_attention(
    capabilities: Capabilities, home: Settings, family: Family | None, variant: str
) -> None:
    """By itself only where the engine's own documents say that it is faster."""

    def is_used(wanted: bool | None) -> bool:
        run = Run(
            generation_id="x",
            request=ImageRequest(prompt="a cat", seed=7),
            binary=EngineBinary(Path("/e/sd-cli"), variant, "x", "user", "0" * 64, capabilities, NOW),
            model=model_of(family, DIFFUSION),
            plan=MemoryPlan(diffusion_flash_attention=wanted),
            settings=home,
            estimates=EstimateStore(Path("/e/estimates.json")),
        )
        return "--diffusion-fa" in run.invocation(run.complete_request())[1].arguments

    assert is_used(True)
    assert not is_used(False)
    assert is_used(None) == (variant in {"cuda", "rocm"} and family in LLM_FAMILIES)


# --- guidance


@pytest.mark.parametrize("family", [*Family, None])
def test_guidance_for_those_that_take_it(capabilities: Capabilities, family: Family | None) -> None:
    args = arguments(capabilities, model_of(family), guidance=2.25)
    assert ("--guidance" in args) == (family in {Family.FLUX, Family.FLUX2, None})
    if "--guidance" in args:
        assert value(args, "--guidance") == "2.25"
    assert "--guidance" not in arguments(capabilities, model_of(family))


def test_the_callers_guidance_and_cfg_scale_come_before_the_models(capabilities: Capabilities) -> None:
    dev = model_of(Family.FLUX, *FLUX_FILES, defaults=ModelDefaults(steps=20, cfg_scale=1.0, guidance=3.5))
    args = arguments(capabilities, dev)
    assert (value(args, "--cfg-scale"), value(args, "--guidance")) == ("1", "3.5")
    args = arguments(capabilities, dev, guidance=2.0, cfg_scale=3.0)
    assert (value(args, "--cfg-scale"), value(args, "--guidance")) == ("3", "2")
    assert value(arguments(capabilities, dev, guidance=0.0), "--guidance") == "0"
    assert "--guidance" not in arguments(capabilities, dev, guidance=None)


# --- names that suit a model and that an engine may not know


def test_a_default_that_the_engine_does_not_know_is_left_out() -> None:
    model = model_of(Family.SD1, defaults=ModelDefaults(sampler="lms", scheduler="flux2"))
    args = arguments(build(NEW), model)
    assert (value(args, "--sampling-method"), value(args, "--scheduler")) == ("lms", "flux2")
    args = arguments(build(OLD), model)
    assert not {"--sampling-method", "--scheduler"} & set(args)
    with pytest.raises(InvalidRequestError, match="knows no sampler 'lms'"):
        arguments(build(OLD), model, sampler="lms")
    with pytest.raises(InvalidRequestError, match="knows no scheduler 'flux2'"):
        arguments(build(OLD), model, scheduler="flux2")


# --- VAE and tiny autoencoder


@pytest.mark.parametrize("family", [*Family, None])
@pytest.mark.parametrize("roles", [(WHOLE,), (WHOLE, Role.VAE), (DIFFUSION, Role.VAE), (DIFFUSION, Role.TAE)])
def test_convolutions_are_scaled_for_the_vae_of_sdxl_where_it_is_given_apart(
    capabilities: Capabilities, family: Family | None, roles: tuple[Role, ...]
) -> None:
    args = arguments(capabilities, model_of(family, *roles))
    needed = family is Family.SDXL and Role.VAE in roles
    assert ("--force-sdxl-vae-conv-scale" in args) == needed


def test_a_vae_beside_a_whole_model_takes_its_place(capabilities: Capabilities) -> None:
    args = arguments(capabilities, model_of(Family.SD1, WHOLE, Role.VAE))
    assert (value(args, "--model"), value(args, "--vae")) == ("/m/model", "/m/vae")


def test_the_part_that_sees_pictures(capabilities: Capabilities) -> None:
    args = arguments(capabilities, model_of(Family.QWEN_IMAGE, *LLM_FILES, Role.LLM_VISION))
    assert value(args, "--llm_vision") == "/m/llm_vision"


def test_auto_is_no_tiny_autoencoder_where_it_would_decode_the_picture_too(
    capabilities: Capabilities,
) -> None:
    lacking = without(capabilities, "--taesd-preview-only")
    both = model_of(Family.FLUX, *FLUX_FILES)
    alone = model_of(Family.OVIS_IMAGE, DIFFUSION, Role.LLM, Role.TAE)
    for known, model, expected in (
        (capabilities, both, PreviewMethod.TAE),
        (lacking, both, PreviewMethod.PROJ),
        (lacking, alone, PreviewMethod.TAE),
    ):
        assert choose_preview_method(PreviewMethod.AUTO, model, known, on_gpu=True) is expected
    args = arguments(lacking, both, on_gpu=True, previews=PreviewOptions())
    assert value(args, "--preview") == "proj"
    assert "--tae" not in args
